"""Enqueues through the module of one queue, in that queue's own environment; prints figures as JSON.

    MODULE prepare
    MODULE send WHAT FIRST COUNT DUE   one by one; DUE is a monotonic time, 0: now
    MODULE bulk FIRST COUNT PIECE      PIECE of them in each call
    MODULE trickle COUNT               the next one when the last one has begun, after a random pause

A module has `send(what, number, due)` and may have `prepare`, `open`, `close` and `bulk(numbers)`, each plain or async.
"""

import asyncio
import importlib
import inspect
import json
import os
import random
import sys
import time
from typing import Any

from record import RECORD

PAUSE = (0.02, 0.08)
LOOK = 0.002
PATIENCE = 10.0


async def called(module: Any, name: str, *words: Any) -> None:
    """Where the module has such a function."""
    result = getattr(module, name, lambda *_: None)(*words)
    if inspect.isawaitable(result):
        await result


async def send(module: Any, what: str, first: int, count: int, due: float) -> float:
    """Seconds."""
    numbers, since = range(first, first + count), time.perf_counter()
    if inspect.iscoroutinefunction(module.send):
        for number in numbers:
            await module.send(what, number, due)
    else:
        for number in numbers:
            module.send(what, number, due)
    return time.perf_counter() - since


async def bulk(module: Any, first: int, count: int, piece: int) -> float:
    """Seconds."""
    numbers, since = range(first, first + count), time.perf_counter()
    for start in range(0, count, piece):
        await called(module, "bulk", numbers[start : start + piece])
    return time.perf_counter() - since


async def trickle(module: Any, count: int) -> list[float]:
    """When each was sent."""
    sent = []
    for number in range(count):
        sent.append(time.monotonic())
        await called(module, "send", "noop", number, 0.0)
        while not _has_begun(number) and time.monotonic() < sent[-1] + PATIENCE:
            await asyncio.sleep(LOOK)
        await asyncio.sleep(random.uniform(*PAUSE))
    return sent


def _has_begun(number: int) -> bool:
    return os.path.getsize(os.environ["BENCH_RECORDS"]) >= (number + 1) * RECORD.size


async def main(name: str, verb: str, *words: str) -> Any:
    module = importlib.import_module(name)
    if verb == "prepare":
        return await called(module, "prepare")
    await called(module, "open")
    try:
        match verb, words:
            case "send", [what, first, count, due]:
                return await send(module, what, int(first), int(count), float(due))
            case "bulk", [first, count, piece]:
                return await bulk(module, int(first), int(count), int(piece))
            case "trickle", [count]:
                return await trickle(module, int(count))
            case _:
                raise ValueError(f"{verb} {' '.join(words)}: see the head of this file")
    finally:
        await called(module, "close")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
