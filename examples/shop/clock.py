"""A function that bkd keeps running: it says how long the shop has been open."""

import asyncio
from itertools import count

TICK = 10.0


async def main():
    """Runs until bkd asks it to stop; when it fails, it is started again."""
    for ticks in count():
        print(f"open for {ticks * TICK:.0f} s", flush=True)
        await asyncio.sleep(TICK)
