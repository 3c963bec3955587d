"""`bkd status --fleet` with 50 hosts on one Redis, each call beside an empty Python, and what the idle fleet costs."""

import json
import time

import hosts
import proc
from case import Case, Figures
from hosts import Host
from place import program

GROUPS = '[workers.tick]\nkind = "python"\ntarget = "idle_app:main"\n'


def measure(
    _name: str, *, masters: int = 50, workers: int = 1, calls: int = 20, pause: float = 0.5, seconds: float = 20.0
) -> Figures:
    names = [f"h{number:02}" for number in range(1, masters + 1)]
    with hosts.running(names, f"{GROUPS}count = {workers}\n", redis=True, pause=pause) as fleet:
        if not proc.wait_for(lambda: known(fleet[0]) == masters, 60, step=1.0):
            raise RuntimeError(f"{known(fleet[0])} of {masters} hosts answer")
        return {**idle(fleet, seconds), **commands(fleet[0], masters, calls)}


def known(host: Host) -> int:
    """How many hosts answer."""
    try:
        text = host.call(host.control("status", "--fleet", "--json"))
    except RuntimeError:  # exit code 3: one did not
        return 0
    return sum(row["answered"] for row in json.loads(text)["hosts"])


def idle(fleet: list[Host], seconds: float) -> Figures:
    masters = [host.status()["master_pid"] for host in fleet]
    time.sleep(5)
    before, since = {pid: proc.cpu_seconds([pid]) for pid in masters}, time.monotonic()
    time.sleep(seconds)
    minutes = (time.monotonic() - since) / 60
    return {
        "a master, CPU s/min": [(proc.cpu_seconds([pid]) - used) / minutes for pid, used in before.items()],
        "a master, PSS MiB": [proc.pss([pid]) for pid in masters],
    }


def commands(host: Host, masters: int, calls: int) -> Figures:
    argv = {
        "status --fleet, ms": host.control("status", "--fleet"),
        "status --fleet --json, ms": host.control("status", "--fleet", "--json"),
        "status, ms": host.control("status"),
        "empty Python, ms": [program("python"), "-c", "pass"],
    }
    took: Figures = {metric: [] for metric in argv}
    for _ in range(calls):
        for metric, words in argv.items():
            since = time.monotonic()
            host.call(words)
            took[metric].append(1000 * (time.monotonic() - since))
    if known(host) != masters:
        raise RuntimeError("a host does not answer any more")
    return took


CASE = Case(title="status of a fleet of 50 hosts", measure=measure, peers=("bkd",), rounds=1)
