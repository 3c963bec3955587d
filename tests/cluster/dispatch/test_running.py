"""The dispatcher with a real store and a real socket: what is enqueued runs, in order and when it is due."""

import os

import pytest

from bkd.ipc.durable.model import NewMessage, Result, State
from bkd.ipc.durable.policy import KindPolicy
from bkd.workers.dispatch import turnkeeper

from ..dispatching import AT_ONCE, Executor, Producer, dispatching, ended, looped, now_ms, outcome, story

pytestmark = pytest.mark.timeout(60)
NEVER = 3600.0


@looped
async def test_what_is_enqueued_runs_and_is_stored(store, path):
    async with dispatching(store, path) as there:
        executor, producer = await Executor.connect(path), await Producer.connect(path)
        await executor.enlisted()

        [receipt] = await producer.put(NewMessage("a", b'{"x":1}'))

        assert (await executor.stored(1)).stale == []
        [task] = executor.tasks[receipt.id]
        assert (task.args, task.counters.runs, task.guid) == (b'{"x":1}', 1, receipt.guid)
        found = await ended(there, receipt.id)
        assert found.row.state is State.SUCCEEDED
        assert [(one.result, one.worker, one.pid) for one in found.attempts] == [(Result.OK, "jobs.1@h1", os.getpid())]


@looped
async def test_a_message_starts_at_once_and_not_at_the_next_poll(store, path, monkeypatch):
    monkeypatch.setattr(turnkeeper, "POLL", NEVER)
    async with dispatching(store, path):
        executor, producer = await Executor.connect(path), await Producer.connect(path)
        await executor.enlisted()

        for _ in range(6):
            await producer.put(NewMessage("a"))

        await executor.until(lambda: executor.ran == 6)


@looped
async def test_what_is_due_later_runs_when_it_is_due(store, path, monkeypatch):
    monkeypatch.setattr(turnkeeper, "POLL", NEVER)
    async with dispatching(store, path):
        executor, producer = await Executor.connect(path), await Producer.connect(path)
        await executor.enlisted()
        begun = now_ms()

        await producer.put(NewMessage("a", delay=150))
        await executor.until(lambda: executor.ran == 1)

        assert now_ms() - begun >= 150


@looped
async def test_an_error_is_tried_again_until_it_is_a_dead_letter_with_one_notice(store, path):
    policy = KindPolicy("a", schedule=AT_ONCE, max_attempts=3, notify="ops@example.org")
    async with dispatching(store, path) as there:
        executor = await Executor.connect(
            path, kinds=[policy], handle=lambda task: outcome(task, Result.ERROR, code="ValueError", text="no")
        )
        producer = await Producer.connect(path)
        [receipt] = await producer.put(NewMessage("a"))

        found = await ended(there, receipt.id)

        assert (found.row.state, found.row.reason) == (State.DEAD_LETTER, "exhausted")
        assert executor.ran == 3
        assert [one.number for one in found.attempts] == [1, 2, 3]
        assert len(found.notices) == 1


@looped
async def test_priorities_are_kept_with_one_place(store, path):
    async with dispatching(store, path):
        producer = await Producer.connect(path)
        await producer.put(*[NewMessage("a", b"%d" % n, priority=n) for n in (50, 23, 50, 10)])
        executor = await Executor.connect(path, credit=1)

        await executor.until(lambda: executor.ran == 4)

        assert [tasks[0].priority for tasks in executor.tasks.values()] == [10, 23, 50, 50]


@looped
async def test_kinds_nobody_here_handles_are_left_alone(store, path):
    async with dispatching(store, path) as there:
        executor, producer = await Executor.connect(path), await Producer.connect(path)
        [other, mine] = await producer.put(NewMessage("other"), NewMessage("a"))
        await executor.until(lambda: executor.ran == 1)

        assert mine.id in executor.tasks
        assert (await there.run(lambda store, _now: story(store, other.id))).row.state is State.QUEUED
