"""What a bus costs one host: start until ready, memory and CPU while nothing happens."""

import time

import hosts
import proc
from case import Case, Figures
from hosts import Host

GROUPS = '[workers.tick]\nkind = "python"\ntarget = "idle_app:main"\n'


def measure(name: str, *, starts: int = 5, settle: float = 5.0, seconds: float = 60.0) -> Figures:
    redis = name == "bkd-redis"
    with hosts.running(["h1"], GROUPS, redis=redis, ready=False) as (host,):
        started = start_times(host, starts)
    with hosts.running(["h1"], GROUPS, redis=redis) as (host,):
        time.sleep(settle)
        return {"start -d, s": started, **idle(host, seconds)}


def start_times(host: Host, starts: int) -> list[float]:
    """Wall time of `bkd start -d`, which returns when all workers are ready. The first one is left out."""
    host.folder.mkdir()
    host.configure()
    took = []
    for _ in range(starts + 1):
        since = time.monotonic()
        host.call(host.control("start", "-d"))
        took.append(time.monotonic() - since)
        host.call(host.control("stop"))
    return took[1:]


def idle(host: Host, seconds: float) -> Figures:
    status = host.status()
    pids = {"master": status["master_pid"], "keeper": status["keeper_pid"]}
    before, since = {role: proc.cpu_seconds([pid]) for role, pid in pids.items()}, time.monotonic()
    time.sleep(seconds)
    minutes = (time.monotonic() - since) / 60
    figures: Figures = {}
    for role, pid in pids.items():
        figures[f"{role}, CPU s/min"] = [(proc.cpu_seconds([pid]) - before[role]) / minutes]
        figures[f"{role}, RSS MiB"] = [proc.rss(pid)]
        figures[f"{role}, PSS MiB"] = [proc.pss([pid])]
    return figures


CASE = Case(
    title="cost of the bus: Redis, and none (bkd)",
    measure=measure,
    peers=("bkd-redis", "bkd"),
    rounds=2,
)
