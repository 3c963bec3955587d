"""What every handler does: one record in a file that all processes append to. The rest is told from these records.

A record is the message's number, the moment (monotonic: one clock for all processes), the process and its thread.
"""

import asyncio
import os
import struct
import threading
import time

RECORD = struct.Struct("<qdii")
FOR_EVER = 3600


class Recorder:
    """One per process; the file is opened with the first record, so that a fork shares nothing."""

    def __init__(self) -> None:
        self._file = -1

    def note(self, number: int) -> None:
        """Atomic, and there even if the process is killed right after."""
        if self._file < 0:
            self._file = os.open(os.environ["BENCH_RECORDS"], os.O_WRONLY | os.O_APPEND)
        os.write(self._file, RECORD.pack(number, time.monotonic(), os.getpid(), threading.get_native_id()))


recorder = Recorder()


def handle(what: str, number: int) -> None:
    """For plain functions: `noop`, or one of the ways of being stuck."""
    recorder.note(number)
    if what == "sleep":
        time.sleep(FOR_EVER)
    while what == "spin":
        pass


async def handle_async(what: str, number: int) -> None:
    """For coroutines: `asleep` can be cancelled, the others block the loop."""
    if what == "asleep":
        recorder.note(number)
        await asyncio.sleep(FOR_EVER)
    else:
        handle(what, number)
