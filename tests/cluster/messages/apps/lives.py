"""Handlers that use up what their process has."""

import asyncio
import os
import resource
import time

from work import SOON, recorded, tell

from bkd.workers import Context, handler

if "LIVES_DESCRIPTORS" in os.environ:
    few = int(os.environ["LIVES_DESCRIPTORS"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))


@handler("sleepy", retry=SOON)
def sleepy(context: Context, seconds: float) -> None:
    """Sleeps in a thread, which nothing interrupts."""
    with recorded(context):
        time.sleep(seconds)


@handler("leak", retry=SOON, max_attempts=1)
async def leak(context: Context, size: int, seconds: float = 0.0) -> int:
    """Opens so many files and closes none."""
    tell(context, "start")
    await asyncio.sleep(seconds)
    opened = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(size)]
    return max(opened)


@handler("overrun", timeout="500ms", grace="200ms", retry=SOON, max_attempts=1)
async def overrun(context: Context) -> None:
    """Blocks its loop for longer than it has."""
    tell(context, "start")
    time.sleep(3600)


@handler("overrun-thread", timeout="500ms", grace="200ms", retry=SOON, max_attempts=1)
def overrun_thread(context: Context) -> None:
    """The same in a thread."""
    tell(context, "start")
    time.sleep(3600)
