"""A worker that sends as fast as it can: how much later another one is replaced after kill -9, and heartbeats come."""

import os
import random
import signal
import time
from pathlib import Path

import hosts
import proc
from case import Case, Figures
from figures import Rounds, grid, metrics, typical
from hosts import Host

PAUSE = (1.2, 2.2)
LIMIT = 30.0
PING = '[ping]\ninterval = "1s"\nkill = "10s"\n'


def measure(name: str, *, kills: int = 10, size: int = 100, redis: bool = False) -> Figures:
    with hosts.running(["h1"], groups(name, size), redis=redis) as (host,):
        file, figures = host.folder / "pid", Figures()
        for _ in range(kills):
            time.sleep(random.uniform(*PAUSE))
            for metric, value in (looks(host) | {"kill to replacement, ms": replaced(file)}).items():
                figures.setdefault(metric, []).append(value)
        return figures


def groups(name: str, size: int) -> str:
    env = f'env = {{ BENCH_FLOOD = "{name}", BENCH_SIZE = "{size}" }}'
    return (
        "".join(
            f'[workers.{group}]\nkind = "python"\nrestart = "always"\ntarget = "{target}"\n{env}\n'
            for group, target in (("victim", "idle_app:main"), ("flood", "flood_app:flood"), ("sink", "flood_app:sink"))
        )
        + PING
    )


def looks(host: Host) -> dict[str, float]:
    """What an operator sees meanwhile."""
    since = time.monotonic()
    status = host.status()
    took = 1000 * (time.monotonic() - since)
    rows = {row["name"]: row for group in status["groups"] for row in group["workers"]}
    if any(row["state"] != "ready" or row["verdict"] != "ok" for row in rows.values()):
        raise RuntimeError(f"a worker is not well: {rows}")
    ages = {f"age of {slot}'s heartbeat, ms": 1000 * row["ping_age"] for slot, row in rows.items()}
    return {"status, ms": took, **ages}


def replaced(file: Path) -> float:
    """Milliseconds from the kill until another process runs the worker's code."""
    victim = file.read_text()
    since = time.monotonic()
    os.kill(int(victim), signal.SIGKILL)
    if not proc.wait_for(lambda: file.read_text() != victim, LIMIT, step=0.001):
        return float("inf")
    return 1000 * (time.monotonic() - since)


def report(results: dict[str, Rounds]) -> str:
    return grid(results, metrics(results), typical)


CASE = Case(
    title="kill -9 of a worker while another one floods",
    measure=measure,
    peers=("calm", "sends", "broadcasts", "calls", "asked"),
    rounds=1,
    variants={"no bus": {"redis": False}, "Redis": {"redis": True}},
    report=report,
)
