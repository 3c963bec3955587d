"""Executors and dispatchers that die, or lose their connection: nothing is lost or run twice."""

import asyncio
import os
import signal

import pytest

from bkd.ipc.durable.model import NewMessage, Result, State
from bkd.ipc.durable.policy import KindPolicy
from bkd.ipc.durable.wire import Alarm, Began, Died, GivenBack, Greet, Held, Retiring
from bkd.ipc.processes import start_time
from bkd.workers.dispatch import deaths, upkeep
from bkd.workers.store.opening import opened

from ..dispatching import (
    Client,
    Executor,
    Producer,
    child_executor,
    dispatching,
    ended,
    eventually,
    looped,
    never,
    ok,
    outcome,
    story,
)

pytestmark = pytest.mark.timeout(60)
NEVER = 3600.0


@looped
async def test_a_killed_executor_costs_its_message_a_crash_and_without_a_master_no_wait(store, path, monkeypatch):
    monkeypatch.setattr(deaths, "WAIT", NEVER)
    async with dispatching(store, path) as there:
        producer = await Producer.connect(path)
        child = await child_executor(path)
        await child.stdout.readline()
        [receipt] = await producer.put(NewMessage("a"))
        assert (await child.stdout.readline()).split() == [b"run", b"%d" % receipt.id, b"1"]
        successor = await Executor.connect(path, slot="jobs.2", kinds=[KindPolicy("a")], handle=never)
        await successor.enlisted()

        os.kill(child.pid, signal.SIGKILL)
        await successor.until(lambda: successor.ran)

        assert successor.tasks[receipt.id][0].counters == (await counters(there, receipt.id))
        assert successor.tasks[receipt.id][0].counters.crashes == 1
        await child.wait()


async def counters(dispatcher, id: int):
    return (await dispatcher.run(lambda store, _now: story(store, id))).row.counters


@looped
async def test_the_master_says_how_it_died_and_the_third_time_it_is_poison(store, path):
    async with dispatching(store, path) as there:
        producer, master = await Producer.connect(path), await Client.connect(path)
        master.say(Greet("master"))
        [receipt] = await producer.put(NewMessage("a"))
        for crash in range(3):
            child = await child_executor(path, f"jobs.{crash}")
            await child.stdout.readline()
            assert (await child.stdout.readline()).split() == [b"run", b"%d" % receipt.id, b"%d" % (crash + 1)]
            died = Died(child.pid, start_time(child.pid), "SIGSEGV", True)
            os.kill(child.pid, signal.SIGSEGV)
            master.say(died)
            await child.wait()

        found = await ended(there, receipt.id)

        assert (found.row.state, found.row.reason) == (State.DEAD_LETTER, "poison")
        assert [(one.result, one.text) for one in found.attempts] == [(Result.LOST, "SIGSEGV")] * 3
        await master.until(lambda: any("poison" in alarm.text for alarm in master.of(Alarm)))


@looped
async def test_what_an_ended_executor_ran_is_interrupted_and_what_it_had_not_begun_is_not_counted(store, path):
    async with dispatching(store, path) as there:
        producer, master = await Producer.connect(path), await Client.connect(path)
        master.say(Greet("master"))
        child = await child_executor(path)
        await child.stdout.readline()
        [receipt] = await producer.put(NewMessage("a"))
        await child.stdout.readline()
        [known] = there.roster.executors.values()

        os.kill(child.pid, signal.SIGKILL)
        master.say(Died(known.pid, known.start, "SIGKILL", False))
        successor = await Executor.connect(path, slot="jobs.2")
        found = await ended(there, receipt.id)

        assert [one.result for one in found.attempts] == [Result.INTERRUPTED, Result.OK]
        assert (found.row.counters.runs, found.row.counters.attempts, found.row.counters.crashes) == (2, 1, 0)
        assert successor.ran == 1
        await child.wait()


@looped
async def test_how_it_died_is_waited_for_as_long_as_the_master_is_there(store, path, monkeypatch):
    monkeypatch.setattr(deaths, "WAIT", NEVER)
    async with dispatching(store, path) as there:
        producer, master = await Producer.connect(path), await Client.connect(path)
        master.say(Greet("master"))
        children = [await child_executor(path, slot, credit="1") for slot in ("jobs.1", "jobs.2")]
        for child in children:
            await child.stdout.readline()
        receipts = await producer.put(NewMessage("a"), NewMessage("a"))
        for child in children:
            await child.stdout.readline()
        told, untold = [await holder(there, receipt.id) for receipt in receipts]
        for child in children:
            child.kill()
            await child.wait()
        await eventually(lambda: told.dead and untold.dead)

        assert (await counters(there, receipts[0].id)).crashes == 0
        master.say(Died(told.pid, told.start, "SIGKILL", False))
        await Executor.connect(path, slot="jobs.3")
        assert [one.result for one in (await ended(there, receipts[0].id)).attempts] == [Result.INTERRUPTED, Result.OK]
        await master.close()
        assert [one.result for one in (await ended(there, receipts[1].id)).attempts] == [Result.LOST, Result.OK]


async def holder(dispatcher, id: int):
    """Who runs it."""
    return await eventually(
        lambda: next((one for one in dispatcher.roster.executors.values() if id in one.begun), None)
    )


@looped
async def test_a_lost_connection_is_no_death(store, path):
    async with dispatching(store, path):
        producer, first = await Producer.connect(path), await Executor.connect(path, handle=never)
        await producer.put(NewMessage("a"))
        await first.until(lambda: first.ran)
        [[task]] = first.tasks.values()
        await first.close()

        again = await Executor.connect(path, holds=[Held(task.id, task.fence)])
        assert (await again.enlisted()).lost == []
        again.say(Began([Held(task.id, task.fence)]))
        number = again.end(ok(task))

        assert (await again.stored(number)).stale == []
        assert again.ran == 0


@looped
async def test_what_got_lost_on_its_way_to_an_executor_is_run_after_all_and_not_counted(store, path):
    async with dispatching(store, path):
        producer, first = await Producer.connect(path), await Executor.connect(path, handle=never)
        [receipt] = await producer.put(NewMessage("a"))
        await first.until(lambda: first.ran)
        await first.close()

        again = await Executor.connect(path, holds=[])
        await again.until(lambda: again.ran)

        assert again.tasks[receipt.id][0].counters.runs == 1


@looped
async def test_an_executor_that_retires_gives_back_what_it_has_not_begun(store, path):
    async with dispatching(store, path) as there:
        producer = await Producer.connect(path)
        first = await Executor.connect(path, handle=never, slot="jobs.1")
        [receipt] = await producer.put(NewMessage("a"))
        await first.until(lambda: first.ran)
        [task] = first.tasks[receipt.id]
        first.say(Retiring([Held(task.id, task.fence)]))
        await eventually(lambda: all(one.draining for one in there.roster.executors.values()))

        for _ in range(3):  # each is answered after the turn of the one before
            await producer.put(NewMessage("a"))
        assert first.ran == 1

        again = await Executor.connect(path, holds=[])
        await again.until(lambda: again.ran == 4)
        assert again.tasks[receipt.id][0].counters.attempts == 1


@looped
async def test_an_executor_where_nothing_begins_gets_nothing_until_something_moves(store, path):
    async with dispatching(store, path) as there:
        producer = await Producer.connect(path)
        executor = await Executor.connect(path, handle=never, credit=2)
        [receipt] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)
        [task] = executor.tasks[receipt.id]
        executor.say(GivenBack([Held(task.id, task.fence)]))
        await eventually(lambda: all(one.stands for one in there.roster.executors.values()))

        for _ in range(3):  # each is answered after the turn of the one before
            await producer.put(NewMessage("a"))
        assert executor.ran == 1

        executor.say(Began([]))
        await executor.until(lambda: executor.ran == 3)
        _, again = executor.tasks[receipt.id]
        assert (again.counters.runs, again.counters.attempts) == (1, 1)


@looped
async def test_a_new_dispatcher_takes_over_and_executors_keep_their_work(store, path, tmp_path):
    async with dispatching(store, path):
        producer, executor = await Producer.connect(path), await Executor.connect(path, handle=never, credit=2)
        receipts = await producer.put(NewMessage("a"), NewMessage("a"))
        await executor.until(lambda: executor.ran == 2)
        kept, gone = (executor.tasks[receipt.id][0] for receipt in receipts)

    if not isinstance(store, type(opened("memory:", ""))):
        store = opened("sqlite:bkd.db", str(tmp_path))
    async with dispatching(store, path) as there:
        again = await Executor.connect(path, handle=never, holds=[Held(kept.id, kept.fence)])
        assert (await again.enlisted()).lost == []
        await again.until(lambda: again.ran == 1)
        assert again.tasks[gone.id][0].counters.runs == 1
        number = again.end(ok(kept))

        assert (await again.stored(number)).stale == []
        assert [one.result for one in (await ended(there, kept.id)).attempts] == [Result.OK]


@looped
async def test_what_a_dead_executor_held_before_is_lost_at_once(store, path, tmp_path):
    async with dispatching(store, path) as there:
        producer, child = await Producer.connect(path), await child_executor(path)
        await child.stdout.readline()
        [receipt] = await producer.put(NewMessage("a"))
        await child.stdout.readline()
        there.keeper.claims = False
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()

    if not isinstance(store, type(opened("memory:", ""))):
        store = opened("sqlite:bkd.db", str(tmp_path))
    begun = asyncio.get_running_loop().time()
    async with dispatching(store, path) as there:
        executor = await Executor.connect(path)
        found = await ended(there, receipt.id)

        assert asyncio.get_running_loop().time() - begun < upkeep.LEASE / 1000 / 2
        assert [one.result for one in found.attempts] == [Result.LOST, Result.OK]
        assert executor.ran == 1


@looped
async def test_a_late_outcome_changes_nothing_and_is_recorded(store, path):
    async with dispatching(store, path) as there:
        producer, executor = await Producer.connect(path), await Executor.connect(path)
        [receipt] = await producer.put(NewMessage("a"))
        await ended(there, receipt.id)
        [task] = executor.tasks[receipt.id]

        number = executor.end(outcome(task, Result.ERROR, code="late"))

        assert (await executor.stored(number)).stale == [Held(task.id, task.fence)]
        assert (await ended(there, receipt.id)).row.state is State.SUCCEEDED
        assert any(one.late for one in (await ended(there, receipt.id)).attempts)


@looped
async def test_an_outcome_that_is_said_again_is_answered_as_stored(store, path):
    async with dispatching(store, path):
        producer, executor = await Producer.connect(path), await Executor.connect(path, handle=never)
        await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)
        [[task]] = executor.tasks.values()
        done = ok(task)

        numbers = [executor.end(done), executor.end(done)]
        await executor.stored(numbers[1])
        third = executor.end(done)

        assert [(await executor.stored(number)).stale for number in [*numbers, third]] == [[], [], []]
