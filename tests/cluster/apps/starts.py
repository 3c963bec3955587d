"""How workers of a new version may start: `start` of a `version.py` is one of these, or it calls `hold` at import."""

import asyncio
import os
import sys
import time

SOON = 0.05


def hold():
    """Goes on importing until there is a file `open`."""
    print("holding", flush=True)
    while not os.path.exists("open"):
        time.sleep(0.01)


def kill_this_process():
    """Ends the interpreter as a fault in an extension does."""
    os.abort()


async def waits():
    """Not ready until there is a file `open`."""
    print("waiting", os.getpid(), flush=True)
    while not os.path.exists("open"):
        await asyncio.sleep(0.01)


async def waits_behind_the_first():
    """The first worker is ready at once, all others wait for the file `open`."""
    if not _is_first():
        await waits()


async def never():
    await asyncio.Event().wait()


async def fails():
    raise ConnectionError("the database is away")


async def leaves():
    sys.exit("no licence")


async def dies_soon():
    """Ready, and dead in a moment."""
    asyncio.get_running_loop().call_later(SOON, os._exit, 3)


async def blocks_soon():
    """Ready, and in a moment its loop stands still."""

    def block():
        print("blocked", flush=True)
        time.sleep(600)

    asyncio.get_running_loop().call_later(SOON, block)


async def dies_behind_the_first():
    """The first worker is ready at once, all others when there is a file `open`, and dead in a moment."""
    if not _is_first():
        await waits()
        await dies_soon()


def _is_first():
    try:
        os.close(os.open("first", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
