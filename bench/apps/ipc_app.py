"""The workers of `ipc`: `ask` measures, `count` counts what it is sent. On uvloop, as web workers are."""

import asyncio
import os
from contextlib import suppress
from time import monotonic

import uvloop
from cpu import cpu_seconds
from orders import Figures, obey

from bkd.ipc import Event, RefusedError, ipc

DATA = "x" * 100
TRIPS, SENDS, BATCHES = (int(os.environ.get(f"BENCH_{name}", "1")) for name in ("TRIPS", "SENDS", "BATCHES"))
QUIET = 0.5
STEP = 500


def ask() -> None:
    uvloop.run(obey(measure))


async def measure() -> Figures:
    pids = os.getpid(), (await ipc.call("server", "stats"))["master_pid"]
    used, trips = cpu_seconds(*pids), [await round_trips() for _ in range(BATCHES)]
    figures: Figures = {
        "round trips/s": trips,
        "CPU of both, µs a round trip": [1e6 * (cpu_seconds(*pids) - used) / TRIPS / BATCHES],
        "one way/s": [await sends() for _ in range(BATCHES)],
        "one way to a worker, in step/s": [await sends_in_step() for _ in range(BATCHES)],
    }
    relayed = [await sends_to_worker() for _ in range(BATCHES)]
    figures["one way to a worker, regardless/s"] = [rate for rate, _ in relayed]
    figures["… of which do not arrive, %"] = [lost for _, lost in relayed]
    return figures


async def round_trips() -> float:
    since = monotonic()
    for _ in range(TRIPS):
        await ipc.call("server", "echo", DATA)
    return TRIPS / (monotonic() - since)


async def sends() -> float:
    """The master has taken them all when it answers what comes behind them."""
    since = monotonic()
    for _ in range(SENDS):
        await ipc.send("server", "echo", DATA)
    await ipc.call("server", "echo", timeout=60)
    return SENDS / (monotonic() - since)


async def sends_in_step() -> float:
    """To another worker, never more than STEP ahead of it: all arrive."""
    await ipc.call("count", "bench:forget")
    since = monotonic()
    for _ in range(SENDS // STEP):
        for _ in range(STEP):
            await ipc.send("count", "bench:note", DATA)
        await ipc.call("count", "bench:arrived", timeout=60)
    arrived, last = await arrivals()
    if arrived < SENDS // STEP * STEP:
        raise RuntimeError(f"{arrived} of {SENDS} messages arrived")
    return arrived / (last - since)


async def sends_to_worker() -> tuple[float, float]:
    """Events that arrived in a second, and the share of those that did not: nobody waits for a receiver."""
    await ipc.call("count", "bench:forget")
    since = monotonic()
    for _ in range(SENDS):
        await ipc.send("count", "bench:note", DATA)
    arrived, last = await arrivals()
    return arrived / (last - since), 100 * (SENDS - arrived) / SENDS


async def arrivals() -> tuple[int, float]:
    """How many came, and when the last one did, once no more come."""
    while True:
        with suppress(RefusedError):  # it is too far behind
            arrived, last = await ipc.call("count", "bench:arrived", timeout=60)
            if arrived == SENDS or monotonic() - last > QUIET:
                return arrived, last
        await asyncio.sleep(QUIET / 50)


class Arrived:
    """What `count` has heard."""

    def __init__(self) -> None:
        self.number, self.last = 0, monotonic()


def count() -> None:
    uvloop.run(_count())


async def _count() -> None:
    arrived = Arrived()

    @ipc.on("bench:note")
    async def note(_event: Event) -> None:
        arrived.number += 1
        arrived.last = monotonic()

    @ipc.on("bench:forget")
    async def forget(_event: Event) -> None:
        arrived.number, arrived.last = 0, monotonic()

    @ipc.on("bench:arrived")
    async def tell_number(_event: Event) -> tuple[int, float]:
        return arrived.number, arrived.last

    await ipc.stopped()
