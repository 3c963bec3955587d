"""Time limits and cancels."""

import asyncio
import os
import signal

import pytest

from bkd.ipc.durable.model import NewMessage, Result, State
from bkd.ipc.durable.policy import KindPolicy
from bkd.ipc.durable.wire import Cancel, Died, Greet, Overdue, ProgressMade
from bkd.workers.dispatch import turnkeeper

from ..dispatching import (
    AT_ONCE,
    LIMIT,
    Client,
    Executor,
    Producer,
    child_executor,
    dispatching,
    ended,
    looped,
    never,
    outcome,
)

pytestmark = pytest.mark.timeout(60)


@looped
async def test_a_run_is_told_at_its_soft_deadline_and_its_outcome_is_a_timeout(store, path):
    policy = KindPolicy("a", timeout=0.1, grace=5.0, schedule=AT_ONCE, max_attempts=1)
    async with dispatching(store, path) as there:
        producer, executor = await Producer.connect(path), await Executor.connect(path, kinds=[policy], handle=never)
        [receipt] = await producer.put(NewMessage("a"))
        told = await executor.cancelled()
        [task] = executor.tasks[receipt.id]

        executor.end(outcome(task, Result.TIMEOUT))

        assert told == Cancel(task.id, task.fence, "timeout")
        assert (await ended(there, receipt.id)).row.reason == "exhausted"


@looped
async def test_who_does_not_let_go_at_the_hard_deadline_is_ended_and_only_that_message_pays(store, path):
    async with dispatching(store, path) as there:
        producer, master = await Producer.connect(path), await Client.connect(path)
        master.say(Greet("master"))
        child = await child_executor(path, timeout="0.2", grace="0.1")
        await child.stdout.readline()
        [receipt] = await producer.put(NewMessage("a", max_attempts=1))
        await child.stdout.readline()

        overdue = (await master.until(lambda: master.of(Overdue)))[0]
        os.kill(child.pid, signal.SIGKILL)
        master.say(Died(overdue.pid, overdue.start, "SIGKILL", True))
        found = await ended(there, receipt.id)

        assert (overdue.slot, overdue.pid) == ("jobs.1", child.pid)
        assert "timeout of 0.2 s" in overdue.why
        assert [one.result for one in found.attempts] == [Result.TIMEOUT]
        assert found.row.counters.crashes == 0
        await child.wait()


@looped
async def test_a_running_message_is_cancelled(store, path):
    async with dispatching(store, path) as there:
        producer, executor = await Producer.connect(path), await Executor.connect(path, handle=never)
        [receipt] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)
        [task] = executor.tasks[receipt.id]

        waiting, running = await there.run(lambda store, now: store.cancel([receipt.id], "me", now))
        there.changed()
        told = await executor.cancelled()
        executor.end(outcome(task, Result.CANCELLED))

        assert (waiting, running) == ([], [receipt.id])
        assert told.why == "cancelled"
        assert (await ended(there, receipt.id)).row.state is State.CANCELLED


@looped
async def test_whoever_was_to_be_cancelled_is_not_tried_again(store, path):
    async with dispatching(store, path) as there:
        producer, executor = await Producer.connect(path), await Executor.connect(path, handle=never)
        [receipt] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)
        await there.run(lambda store, now: store.cancel([receipt.id], "me", now))
        there.changed()
        await executor.cancelled()

        executor.end(outcome(executor.tasks[receipt.id][0], Result.ERROR, code="ValueError"))

        found = await ended(there, receipt.id)
        assert found.row.state is State.CANCELLED
        assert found.attempts[0].code == "ValueError"


@looped
async def test_words_about_progress_put_no_look_off(store, path, monkeypatch):
    monkeypatch.setattr(turnkeeper, "POLL", 0.2)
    async with dispatching(store, path):
        producer, executor = await Producer.connect(path), await Executor.connect(path, handle=never, credit=2)
        [receipt] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)
        [task] = executor.tasks[receipt.id]
        await producer.put(NewMessage("a", delay=300))

        async with asyncio.timeout(LIMIT):
            while executor.ran < 2:
                executor.say(ProgressMade(task.id, task.fence, b"1"))
                await asyncio.sleep(0.02)
