"""Handlers of messages. What they do is written into `runs.txt`, a line when a run begins."""

import asyncio
import os
import time
from pathlib import Path

from bkd.workers import Context, Fixed, handler


def tell(context: Context, text: str) -> None:
    """One line: kind, text, attempt, pid."""
    line = f"{context.kind} {text} {context.attempt} {os.getpid()}\n"
    descriptor = os.open("runs.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@handler("note")
async def note(text: str, context: Context) -> str:
    """Ends at once."""
    tell(context, text)
    return text


@handler("gate", retry=Fixed(every="50ms", max_attempts=5))
async def gate(text: str, context: Context) -> str:
    """Goes on when the file `open` is there."""
    tell(context, text)
    while not Path("open").exists():
        await asyncio.sleep(0.01)
    return text


@handler("stuck", timeout="300ms", mode="exclusive", retry=Fixed(every="50ms", max_attempts=2))
def stuck(text: str, context: Context) -> None:
    """Never ends."""
    tell(context, text)
    time.sleep(3600)
