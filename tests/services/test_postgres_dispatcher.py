"""Dispatchers of several hosts over one PostgreSQL: they share the work, hear of each other, and outlive the server."""

import asyncio
from contextlib import suppress
from functools import partial

import psycopg
import pytest

from bkd.ipc.durable.model import NewMessage, Result, State
from bkd.ipc.durable.wire import Alarm, Cancel, Greet, Held
from bkd.workers.dispatch import turnkeeper, upkeep
from bkd.workers.store.postgres import PostgresStore
from bkd.workers.store.protocol import StoreAway

from ..cluster.dispatching import Client, Executor, Producer, dispatching, eventually, looped, never, ok
from .postgres import discard, fresh_url, new_server

pytestmark = pytest.mark.timeout(90)


async def story(dispatcher, id):
    """The first question after an outage may find out that its connection was lost."""
    for _ in range(2):
        with suppress(StoreAway):
            return await dispatcher.run(lambda store, _now: store.story(id))
    raise AssertionError("the store does not answer")


@looped
async def test_what_one_host_stores_another_one_runs_at_once(tmp_path, monkeypatch):
    """Not at its next poll: from the moment on at which the one knows of the other, it tells."""
    monkeypatch.setattr(turnkeeper, "POLL", 3600.0)
    monkeypatch.setattr(upkeep, "RENEW", 0.1)
    url = fresh_url()
    store = PostgresStore(url)
    async with (
        dispatching(store, tmp_path / "1", "h1"),
        dispatching(PostgresStore(url), tmp_path / "2", "h2"),
    ):
        producer, executor = await Producer.connect(tmp_path / "1"), await Executor.connect(tmp_path / "2")
        await executor.enlisted()
        await eventually(lambda: not store._nodes.alone)

        for count in range(1, 7):
            await producer.put(NewMessage("a"))
            await executor.until(lambda: executor.ran == count)  # noqa: B023


@looped
async def test_housekeeping_goes_on_at_once_while_there_is_more_to_do(tmp_path, monkeypatch):
    """Locks of runs that have ended are dropped as fast as they come."""
    monkeypatch.setattr(upkeep, "SWEEP", 0.2)
    monkeypatch.setattr(upkeep, "SWEPT", 20)
    url = fresh_url()
    store = PostgresStore(url)
    store.open()
    with psycopg.connect(url, autocommit=True) as admin:
        left = partial(admin.execute, "SELECT count(*) FROM bkd.lock")
        admin.execute("INSERT INTO bkd.lock (key, message_id, fence) SELECT g, g, 1 FROM generate_series(1, 3000) g")
        async with dispatching(store, tmp_path / "1", "h1"):
            await eventually(lambda: left().fetchone()[0] < 3000)
            monkeypatch.setattr(upkeep, "SWEEP", 3600.0)
            await eventually(lambda: left().fetchone()[0] == 0)


@looped
async def test_hosts_share_the_work_and_nothing_runs_twice(tmp_path):
    url = fresh_url()
    async with (
        dispatching(PostgresStore(url), tmp_path / "1", "h1"),
        dispatching(PostgresStore(url), tmp_path / "2", "h2"),
    ):
        executors = [await Executor.connect(tmp_path / name, slot=f"jobs.{name}") for name in "12"]
        producer = await Producer.connect(tmp_path / "1")

        for _ in range(4):
            await producer.put(*[NewMessage("a")] * 100)
        await eventually(lambda: sum(executor.ran for executor in executors) >= 400)

        ran = [id for executor in executors for id in executor.tasks]
        assert len(ran) == len(set(ran)) == sum(executor.ran for executor in executors) == 400


@looped
async def test_a_killed_server_costs_nothing_but_time(tmp_path):
    server = new_server()
    try:
        async with dispatching(PostgresStore(server.database()), tmp_path / "1", "h1") as there:
            executor, producer = (
                await Executor.connect(tmp_path / "1", handle=never),
                await Producer.connect(tmp_path / "1"),
            )
            master = await Client.connect(tmp_path / "1")
            master.say(Greet("master"))
            receipts = await producer.put(*[NewMessage("a")] * 8)
            await executor.until(lambda: executor.ran == 8)
            tasks = [tasks[0] for tasks in executor.tasks.values()]

            executor.end(*map(ok, tasks[:4]))
            await asyncio.to_thread(server.kill)
            number = executor.end(*map(ok, tasks[4:]))
            await master.until(lambda: master.of(Alarm))
            await asyncio.to_thread(server.start)

            assert (await executor.stored(number)).stale == []
            for receipt in receipts:
                found = await story(there, receipt.id)
                assert [one.result for one in found.attempts] == [Result.OK]
            assert executor.ran == 8
    finally:
        discard(server)


class Cut:
    """A store that cannot be reached from one of the hosts."""

    def __init__(self, store):
        self._store, self.away = store, False

    def __getattr__(self, name):
        if self.away and name != "close":
            raise StoreAway("the network is cut")
        return getattr(self._store, name)


@looped
async def test_a_host_that_was_taken_for_dead_lets_go_and_works_on(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "LEASE", 2000)
    monkeypatch.setattr(upkeep, "RENEW", 0.2)
    monkeypatch.setattr(upkeep, "COURTESY", 0.0)
    url = fresh_url()
    cut = Cut(PostgresStore(url))
    async with (
        dispatching(cut, tmp_path / "1", "h1") as first,
        dispatching(PostgresStore(url), tmp_path / "2", "h2") as second,
    ):
        producer, one = await Producer.connect(tmp_path / "1"), await Executor.connect(tmp_path / "1", handle=never)
        [receipt] = await producer.put(NewMessage("a"))
        await one.until(lambda: one.ran)
        [task] = one.tasks[receipt.id]
        other = await Executor.connect(tmp_path / "2")

        cut.away = True
        await other.until(lambda: other.ran)
        cut.away = False

        assert await one.cancelled() == Cancel(task.id, task.fence, "lost")
        number = one.end(ok(task))
        assert (await one.stored(number)).stale == [Held(task.id, task.fence)]
        assert (await story(first, receipt.id)).row.state is State.SUCCEEDED
        await eventually(lambda: not first.access.is_away)
        await other.close()
        await eventually(lambda: not any(executor.takes for executor in second.roster.executors.values()))
        [receipt] = await producer.put(NewMessage("a"))
        await one.until(lambda: receipt.id in one.tasks)
