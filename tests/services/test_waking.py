"""Two ways by which a host hears of work that another one has stored: the database tells it, or it looks by itself.
Each of them is enough alone."""

import asyncio

import pytest

from bkd.ipc.durable.model import NewMessage
from bkd.workers.dispatch import dispatcher as at_work
from bkd.workers.dispatch import turnkeeper
from bkd.workers.store.postgres import PostgresStore

from ..cluster.dispatching import Executor, Producer, dispatching, looped
from .postgres import fresh_url

pytestmark = pytest.mark.timeout(60)
NEVER = 1e6
TIMES = 3


async def idle(*dispatchers):
    """All of them know each other, and what was under way in their stores is done: nothing is found by accident."""
    for dispatcher in [*dispatchers, *dispatchers]:
        await dispatcher.upkeep.returned()
        await dispatcher.run(lambda store, _now: store.controls())


async def took(tmp_path):
    """Seconds from a message being stored on one host to its run on the other, which was idle."""
    url = fresh_url()
    async with (
        dispatching(PostgresStore(url), tmp_path / "1", "h1") as first,
        dispatching(PostgresStore(url), tmp_path / "2", "h2") as second,
    ):
        producer, executor = await Producer.connect(tmp_path / "1"), await Executor.connect(tmp_path / "2")
        clock, found = asyncio.get_running_loop().time, []
        for count in range(1, TIMES + 1):
            await idle(first, second)
            await producer.put(NewMessage("a"))
            stored = clock()
            await executor.until(lambda: executor.ran == count, 30)  # noqa: B023
            found.append(clock() - stored)
        return found


@looped
async def test_the_bell_alone_is_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(turnkeeper, "POLL", NEVER)

    assert len(await took(tmp_path)) == TIMES


@looped
async def test_looking_alone_is_enough(tmp_path, monkeypatch):
    """As where notifications get lost."""
    monkeypatch.setattr(turnkeeper, "POLL", 0.3)
    monkeypatch.setattr(at_work, "listener_of", lambda store: None)

    assert len(await took(tmp_path)) == TIMES
