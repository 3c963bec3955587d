"""Handlers of every kind, for the tests of the executor."""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import msgspec

from bkd.workers.messages.context import Context
from bkd.workers.messages.handlers import handler
from bkd.workers.messages.retrying import Fixed
from bkd.workers.messages.words import Invalid, Reject, Retry, Snooze

LONG = 40.0  # seconds, longer than a test waits for anything


class Where(msgspec.Struct):
    path: str


@handler("nothing")
async def nothing():
    pass


@handler("add")
async def add(a: int, b: int = 1):
    return a + b


@handler("plain")
def plain(context):
    time.sleep(0.01)
    return {"thread": threading.current_thread().name, "attempt": context.attempt}


@handler("main")
def main():
    return threading.current_thread() is threading.main_thread()


@handler("own-loop")
def own_loop():
    async def inner():
        return "looped"

    return asyncio.run(inner())


@handler("sleep", timeout="30s")
async def sleep(seconds: float):
    await asyncio.sleep(seconds)
    return "slept"


@handler("block")
async def block(args: Where):
    """Blocks the loop until the file is there."""
    wait_for(args.path)
    return "went on"


@handler("thread-block")
def thread_block(args: Where, context: Context):
    """Blocks its thread until the file is there, or it is cancelled."""
    deadline = time.monotonic() + LONG
    while not (Path(args.path).exists() or context.cancelled) and time.monotonic() < deadline:
        time.sleep(0.005)
    if context.cancelled:
        raise RuntimeError("cancelled on the way")
    return "went on"


@handler("stubborn")
def stubborn(args: Where):
    """Ends when the file is there, whatever else happens."""
    wait_for(args.path)


@handler("staged", stages=("send", "apply"))
async def staged(context: Context):
    if context.stage == "apply" and context.attempt == 1:
        raise ConnectionError("not there")
    return f"{context.stage} {context.outputs}"


@handler("locked", lock=lambda args: args.name or None)
async def locked(name: str, context: Context):
    return context.lock


@handler("plain-locked", lock=lambda args: args.name)
def plain_locked(name: str, context: Context):
    return context.lock


@handler("says", retry=Fixed("1m"))
async def says(word: str):
    match word:
        case "retry":
            raise Retry("later", after="7s")
        case "retry-returned":
            return Retry(after=3)
        case "reject":
            raise Reject("no such invoice")
        case "invalid":
            raise Invalid("no such entity")
        case "snooze":
            return Snooze("2s")
        case "error":
            raise ValueError("out of order")
        case "exit":
            raise SystemExit(3)
        case "large":
            return "x" * 70_000
        case "object":
            return object()


@handler("classed", classify={ValueError: "final", PermissionError: "auth", LookupError: "lock"})
async def classed(error: str):
    raise {"value": ValueError, "permission": PermissionError, "key": KeyError, "os": OSError}[error](error)


@handler("progress")
async def progress(context: Context):
    for step in range(5):
        context.progress({"step": step})
    await asyncio.sleep(30)


@handler("payload")
async def payload(context: Context):
    return len(await context.payload())


@handler("plain-payload")
def plain_payload(context: Context):
    return len(context.sync_payload())


@handler("dies")
async def dies():
    os.kill(os.getpid(), signal.SIGKILL)


@handler("alone", mode="exclusive")
def alone():
    return "alone"


def wait_for(path):
    deadline = time.monotonic() + LONG
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
