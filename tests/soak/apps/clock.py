"""An async function."""

import asyncio

from bkd.ipc import ipc


async def main():
    while not ipc.stopping():
        print("tick", flush=True)
        await asyncio.sleep(1.0)
