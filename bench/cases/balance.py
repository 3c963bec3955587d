"""How evenly two workers share 32 connections, kept and new, and how many new connections a second they take."""

import asyncio
import time

import load
from case import Case, Figures
from client import kept_pids
from peers import Task, running


def measure(name: str, *, workers: int = 2, connections: int = 32, seconds: int = 3) -> Figures:
    with running(name, Task(workers=workers)) as peer:
        pids = list(peer.answering())
        time.sleep(0.5)
        owners = asyncio.run(kept_pids(peer.port, connections))
        kept = load.run(peer.port, pids, seconds=seconds, connections=connections)
        fresh = load.run(peer.port, pids, seconds=seconds, connections=connections, keep=False)
        return {
            "connections of the busiest, %": [100 * max(map(owners.count, pids)) / connections],
            "CPU of the busiest, kept, %": [kept.busiest_share],
            "CPU of the busiest, new, %": [fresh.busiest_share],
            "new connections/s": [fresh.rate],
        }


CASE = Case(
    title="balance of 2 workers at 32 connections",
    measure=measure,
    peers=("gunicorn", "uvicorn", "granian", "bkd"),
    rounds=10,
)
