"""What groups of kind `python` run."""

import asyncio
import os
import signal
import sys
import time

from bkd.ipc import ipc


async def ticker():
    print("ticking", flush=True)
    await asyncio.Event().wait()


def plain():
    print("working", flush=True)
    while not ipc.stopping(0.05):
        pass
    print("finished", flush=True)


async def notifying():
    """Ready when the file says so."""
    while not os.path.exists("open"):
        await asyncio.sleep(0.02)
    ipc.ready()
    await ipc.stopped()


def exits_0():
    return 0


def exits_1():
    sys.exit(1)


def exits_78():
    sys.exit(78)


async def lives_shortly():
    """Dies as soon as it has lived for a second."""
    await asyncio.sleep(1.0)
    raise RuntimeError("it is over")


def dies_while_told():
    """Dies as long as the file is there."""
    while not os.path.exists("die"):
        time.sleep(0.02)
    os._exit(1)


def ignores_everything():
    """Hears nothing of drain and SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)
