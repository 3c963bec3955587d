"""Workers of `broadcast`: `work` answers, `ask` measures how long until all have answered."""

import asyncio
import os
from time import monotonic

from orders import Figures, obey

from bkd.ipc import Event, ipc

ROUNDS, WORKERS = int(os.environ.get("BENCH_ROUNDS", "1")), int(os.environ.get("BENCH_WORKERS", "1"))
DATA = {"sku": 7, "text": "x" * 60}
PAUSE, LIMIT, KNOWN = 0.05, 5.0, 60.0


async def work() -> None:
    @ipc.on("bench:change")
    async def change(event: Event) -> int:
        return len(event.data["text"])

    await ipc.stopped()


async def ask() -> None:
    await obey(measure)


async def measure() -> Figures:
    await everybody()
    took = []
    for _ in range(ROUNDS):
        since = monotonic()
        answered = await answers()
        took.append(1000 * (monotonic() - since))
        if answered != WORKERS:
            raise RuntimeError(f"{answered} of {WORKERS} answered")
        await asyncio.sleep(PAUSE)
    return {"all have answered, ms": took}


async def everybody() -> None:
    """All hosts have to know of each other first."""
    deadline = monotonic() + KNOWN
    while (answered := await answers()) < WORKERS:
        if monotonic() > deadline:
            raise RuntimeError(f"{answered} of {WORKERS} answered")
        await asyncio.sleep(1)


async def answers() -> int:
    found = await ipc.broadcast(":jobs", "bench:change", DATA, timeout=LIMIT)
    return sum("value" in answer for answer in found.values())
