"""The workers of `flood`: `flood` sends as fast as it can what $BENCH_FLOOD says, `sink` hears it."""

import asyncio
import os

from bkd.ipc import ClosedError, DeadlineError, Event, NotConnected, RefusedError, ipc

KIND, DATA = os.environ.get("BENCH_FLOOD", "calm"), "x" * int(os.environ.get("BENCH_SIZE", "100"))
AT_ONCE, PAUSE = 100, 0.1


async def flood() -> None:
    sending = {"sends": send, "broadcasts": broadcast, "calls": calls, "asked": ask}.get(KIND)
    while sending is not None:
        try:
            while True:
                await sending()
        except (NotConnected, DeadlineError, RefusedError, ClosedError):
            await asyncio.sleep(PAUSE)
    await ipc.stopped()


async def send() -> None:
    await ipc.send("sink", "bench:note", DATA)


async def broadcast() -> None:
    await ipc.send(":all", "bench:note", DATA)


async def calls() -> None:
    await asyncio.gather(*(ipc.call("server", "stats") for _ in range(AT_ONCE)))


async def ask() -> None:
    asked = (ipc.broadcast(":sink", "bench:note", DATA, timeout=5.0) for _ in range(AT_ONCE))
    await asyncio.gather(*asked)


async def sink() -> None:
    @ipc.on("bench:note")
    async def note(_event: Event) -> None:
        pass

    await ipc.stopped()
