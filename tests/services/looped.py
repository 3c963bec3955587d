"""Tests that are coroutines, and waiting in them."""

import asyncio
import functools

PATIENCE = 15.0
LOOK = 0.005


def looped(test):
    """Decorator: run the coroutine in a loop of its own."""

    @functools.wraps(test)
    def run(*arguments, **named):
        asyncio.run(limited(test(*arguments, **named)))

    return run


async def limited(work):
    async with asyncio.timeout(4 * PATIENCE):
        await work


async def until(condition, limit=PATIENCE):
    """What the condition gives as soon as it is true."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    while not (value := condition()):
        assert loop.time() < deadline, f"not true within {limit:g} s, but still {value!r}"
        await asyncio.sleep(LOOK)
    return value
