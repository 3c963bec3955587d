"""Functions with handlers of application events, registered at the import: each writes down where it was called."""

import asyncio
import os
import threading
import time

from bkd.ipc import ipc, sync_ipc


def note(what, message=""):
    loop = _loop()
    place = "main loop" if loop and loop is main_loop else "a loop" if loop else "no loop"
    event = f" {message.op} {message.data}" if message else ""
    os.write(1, f"{what}: {threading.current_thread().name}, {place}{event}\n".encode())  # whole, whoever else writes


def _loop():
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


main_loop = None


@ipc.on("config:init")
async def in_the_loop(message):
    await asyncio.sleep(0)
    note("async", message)


@ipc.on("config:init")
def in_a_thread(message):
    note("plain", message)


def disguised(function):
    def call(message):
        return function(message)

    return call


@ipc.on("disguised")
@disguised
async def looks_like_none(message):
    note("disguised", message)


@ipc.on("fails")
async def exits_in_the_loop(message):
    raise SystemExit("async")


@ipc.on("fails")
def exits_in_the_thread(message):
    raise SystemExit("plain")


@ipc.on("blocks")
def blocks(message):
    note("blocked")
    while not os.path.exists("open"):
        time.sleep(0.01)
    note("unblocked")


async def main():
    global main_loop
    main_loop = asyncio.get_running_loop()
    note("main")
    await ipc.stopped()


def plain():
    note("main")
    ipc.stopping(None)


def asks_first():
    """Joins before it is ready."""
    sync_ipc.send("server", "nobody:listens")
    while not os.path.exists("open"):
        time.sleep(0.01)
    ipc.ready()
    ipc.stopping(None)
