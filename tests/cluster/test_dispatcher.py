"""The dispatcher with a real store and a real socket: what is enqueued runs, and nothing is lost or run twice."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import pytest

from bkd.ipc.durable.model import ENDS, Conflict, NewMessage, Result, State
from bkd.ipc.durable.policy import KindPolicy
from bkd.ipc.durable.wire import (
    Alarm,
    Answered,
    Ask,
    Await,
    Began,
    Cancel,
    Died,
    Ended,
    Greet,
    Held,
    LockAnswered,
    LockAsked,
    Overdue,
    PayloadAsked,
    PayloadPart,
    ProgressMade,
    Put,
    PutDone,
    PutPart,
    Refusal,
    Retiring,
    Run,
    StageDone,
    StageKept,
    Stored,
)
from bkd.workers.dispatch import turnkeeper
from bkd.workers.dispatch.main import NO_STORE
from bkd.workers.store.opening import opened
from bkd.workers.store.protocol import Store, StoreAway, Story

from .dispatching import (
    AT_ONCE,
    Client,
    Executor,
    Producer,
    child_executor,
    dispatching,
    looped,
    never,
    now_ms,
    ok,
    outcome,
)

DISPATCHER = Path(__file__).with_name("dispatcher_child.py")
pytestmark = pytest.mark.timeout(30)


@pytest.fixture(params=["memory:", "sqlite:bkd.db"])
def store(request, tmp_path) -> Store:
    return opened(request.param, str(tmp_path))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "m.sock"


def story(store: Store, id: int) -> Story:
    found = store.story(id)
    assert found is not None
    return found


async def ended(dispatcher, id: int) -> Story:
    """The message's story once it has come to an end."""
    async with asyncio.timeout(10):
        while True:
            found = await dispatcher.run(lambda store, _now: story(store, id))
            if found.row.state in ENDS:
                return found
            await asyncio.sleep(0.005)


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
async def test_a_message_starts_at_once_and_not_at_the_next_poll(store, path):
    async with dispatching(store, path):
        executor, producer = await Executor.connect(path), await Producer.connect(path)
        await executor.enlisted()
        await producer.put(NewMessage("a"))
        began = asyncio.get_running_loop().time()

        for _ in range(5):
            await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran == 6)

        assert asyncio.get_running_loop().time() - began < turnkeeper.POLL / 2


@looped
async def test_what_is_due_later_runs_when_it_is_due(store, path):
    async with dispatching(store, path):
        executor, producer = await Executor.connect(path), await Producer.connect(path)
        await executor.enlisted()
        begun = now_ms()

        await producer.put(NewMessage("a", delay=150))
        await executor.until(lambda: executor.ran == 1)

        assert 150 <= now_ms() - begun < 400


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


# -- deaths


@looped
async def test_a_killed_executor_costs_its_message_a_crash_and_a_fifth_of_a_second(store, path):
    async with dispatching(store, path) as there:
        producer = await Producer.connect(path)
        child = await child_executor(path)
        await child.stdout.readline()
        [receipt] = await producer.put(NewMessage("a"))
        assert (await child.stdout.readline()).split() == [b"run", b"%d" % receipt.id, b"1"]
        successor = await Executor.connect(path, slot="jobs.2", kinds=[KindPolicy("a")], handle=never)
        await successor.enlisted()

        begun = asyncio.get_running_loop().time()
        os.kill(child.pid, signal.SIGKILL)
        await successor.until(lambda: successor.ran)

        assert asyncio.get_running_loop().time() - begun < 0.2
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
            start = there.roster.find(child.pid, next(one.start for one in there.roster.executors.values()))
            os.kill(child.pid, signal.SIGSEGV)
            master.say(Died(child.pid, start.start, "SIGSEGV", True))
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
    async with dispatching(store, path):
        producer = await Producer.connect(path)
        first = await Executor.connect(path, handle=never, slot="jobs.1")
        [receipt] = await producer.put(NewMessage("a"))
        await first.until(lambda: first.ran)
        [task] = first.tasks[receipt.id]
        first.say(Retiring([Held(task.id, task.fence)]))

        await producer.put(NewMessage("a"))
        await asyncio.sleep(0.05)
        assert first.ran == 1

        again = await Executor.connect(path, holds=[])
        await again.until(lambda: again.ran == 2)
        assert again.tasks[receipt.id][0].counters.attempts == 1


# -- the dispatcher's own death


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

        assert asyncio.get_running_loop().time() - begun < 1.0
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


# -- the store goes away


class Outage:
    """The real store, which does not answer for a while; what it was asked last may have been done."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.away = False
        self.does_it_all_the_same = False

    def __getattr__(self, name: str):
        def call(*arguments):
            if not self.away:
                return getattr(self._store, name)(*arguments)
            if self.does_it_all_the_same:
                self.does_it_all_the_same = False
                getattr(self._store, name)(*arguments)
            raise StoreAway("it is unplugged")

        return call

    def listener(self) -> None:
        return None


@pytest.mark.parametrize("done", [False, True])
@looped
async def test_nothing_is_lost_while_the_store_is_away(store, path, done):
    outage = Outage(store)
    async with dispatching(outage, path) as there:
        producer, executor = await Producer.connect(path), await Executor.connect(path, handle=never)
        master = await Client.connect(path)
        master.say(Greet("master"))
        [receipt] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran == 1)
        [task] = executor.tasks[receipt.id]

        outage.away, outage.does_it_all_the_same = True, done
        number = executor.end(ok(task))
        await master.until(lambda: any(alarm.fact == "store-away" for alarm in master.of(Alarm)))
        there.changed()
        put = producer.begin_put(NewMessage("a"), NewMessage("a"))
        await asyncio.sleep(0.3)
        assert not executor.of(Stored) and not any(one.number == put for one in producer.of(PutDone))
        outage.away = False
        back = asyncio.get_running_loop().time()

        assert (await executor.stored(number)).stale == []
        await executor.until(lambda: executor.ran == 3)
        assert asyncio.get_running_loop().time() - back < 1.0
        await master.until(lambda: any(alarm.fact == "store-back" for alarm in master.of(Alarm)))
        assert [one.result for one in (await ended(there, receipt.id)).attempts] == [Result.OK]
        assert sum(len(tasks) for tasks in executor.tasks.values()) == len(executor.tasks) == 3


@looped
async def test_a_put_that_was_stored_although_nobody_heard_is_not_stored_twice(store, path):
    outage = Outage(store)
    async with dispatching(outage, path):
        producer = await Producer.connect(path)
        outage.away = outage.does_it_all_the_same = True
        number = producer.begin_put(NewMessage("a"))
        await asyncio.sleep(0.1)
        outage.away = False
        executor = await Executor.connect(path)
        await executor.until(lambda: executor.ran)
        await producer.until(lambda: any(done.number == number for done in producer.of(PutDone)))
        [receipt] = producer.of(PutDone)[-1].receipts

        assert receipt.refused == ""
        assert list(executor.tasks) == [receipt.id]


@looped
async def test_a_claim_whose_answer_was_lost_runs_after_all(store, path):
    outage = Outage(store)
    async with dispatching(outage, path):
        producer = await Producer.connect(path)
        [receipt] = await producer.put(NewMessage("a"))
        executor = await Executor.connect(path, kinds=[])
        await executor.enlisted()

        again = await Executor.connect(path)
        await again.enlisted()
        outage.away = outage.does_it_all_the_same = True
        await asyncio.sleep(0.1)
        outage.away = False

        await again.until(lambda: again.ran, 3)
        assert again.tasks[receipt.id][0].counters.runs == 1


class Refusing:
    """The real store, which refuses to write what has a certain word in it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def turn(self, turn):
        if any(b"unspeakable" in settlement.result for settlement in turn.settled):
            raise ValueError("this cannot be said")
        return self._store.turn(turn)


@looped
async def test_one_outcome_that_cannot_be_written_does_not_hold_up_the_others(store, path):
    def handle(task):
        return outcome(task, Result.OK, body=b'"unspeakable"' if task.args == b"1" else b"2")

    async with dispatching(Refusing(store), path) as there:
        executor, producer = await Executor.connect(path, handle=handle), await Producer.connect(path)
        await executor.enlisted()
        bad, good = await producer.put(NewMessage("a", b"1"), NewMessage("a", b"2"))

        assert (await ended(there, good.id)).row.state is State.SUCCEEDED
        found = await ended(there, bad.id)
        assert (found.row.state, found.row.reason) == (State.DEAD_LETTER, "rejected")
        assert found.attempts[0].text == "this cannot be said"


# -- as a process


async def dispatcher_child(path: Path, folder: Path, url: str = "sqlite:bkd.db"):
    """A dispatcher in a process of its own, ready."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(DISPATCHER), str(path), url, str(folder), stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    return child, (await child.stdout.readline()).decode().strip()


@looped
async def test_a_killed_dispatcher_is_replaced_and_nothing_runs_twice(path, tmp_path):
    first, said = await dispatcher_child(path, tmp_path)
    assert said == "ready"
    executor, producer = await child_executor(path), await Producer.connect(path)
    await executor.stdout.readline()
    await producer.put(NewMessage("a"))
    assert (await executor.stdout.readline()).startswith(b"run 1")

    first.kill()
    await first.wait()
    second, _ = await dispatcher_child(path, tmp_path)
    assert await executor.stdout.readline() == b"enlisted\n"
    producer = await Producer.connect(path)
    [receipt] = await producer.put(NewMessage("a"))

    assert await executor.stdout.readline() == b"run %d 1\n" % receipt.id
    for child in (second, executor):
        child.kill()
        await child.wait()


@looped
async def test_it_leaves_at_once_when_another_one_follows(path, tmp_path):
    first, _ = await dispatcher_child(path, tmp_path)
    executor = await Executor.connect(path)
    await executor.enlisted()

    first.stdin.write(b"drain\n")

    assert await first.wait() == 0
    await executor.until(lambda: executor.closed)


@looped
async def test_it_waits_for_its_executors_when_nobody_follows(path, tmp_path):
    child, _ = await dispatcher_child(path, tmp_path)
    executor, producer = await Executor.connect(path, handle=never), await Producer.connect(path)
    await producer.put(NewMessage("a"))
    await executor.until(lambda: executor.ran)
    [[task]] = executor.tasks.values()

    child.stdin.write(b"last\n")
    await producer.close()
    number = executor.end(ok(task))
    assert (await executor.stored(number)).stale == []
    await executor.close()

    assert await child.wait() == 0


@looped
async def test_sigterm_ends_it_whoever_is_there(path, tmp_path):
    child, _ = await dispatcher_child(path, tmp_path)
    executor = await Executor.connect(path)
    await executor.enlisted()

    child.terminate()

    assert (await child.stdout.readline(), await child.wait()) == (b"terminated\n", 0)


@looped
async def test_a_store_that_cannot_be_used_is_a_reason_in_one_line(path, tmp_path):
    (tmp_path / "bkd.db").write_text("this is no database, and it is long enough to be looked at" * 100)

    child, said = await dispatcher_child(path, tmp_path)

    assert said.startswith("failed ")
    assert await child.wait() == NO_STORE


# -- time limits and cancels


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
        begun = now_ms()

        while executor.ran < 2 and now_ms() - begun < 5000:
            executor.say(ProgressMade(task.id, task.fence, b"1"))
            await asyncio.sleep(0.02)

        assert executor.ran == 2
        assert now_ms() - begun < 1000


# -- stages, locks, payloads


@looped
async def test_a_finished_stage_is_kept_even_if_its_process_dies_just_then(store, path):
    policy = KindPolicy("a", stages=("send", "apply"), schedule=AT_ONCE)
    async with dispatching(store, path):
        producer, executor = await Producer.connect(path), await Executor.connect(path, kinds=[policy], handle=never)
        [receipt] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)
        [task] = executor.tasks[receipt.id]

        executor.say(StageDone(task.id, task.fence, 0, b'"sent"'))
        executor.end(outcome(task, Result.ERROR))
        await executor.until(lambda: executor.ran == 2)

        assert executor.of(StageKept) == [StageKept(task.id, task.fence, 0, True)]
        again = executor.tasks[receipt.id][1]
        assert (again.stage, again.outputs) == (1, [b'"sent"'])
        executor.say(StageDone(task.id, task.fence, 1, b"1"))
        await executor.until(lambda: len(executor.of(StageKept)) == 2)
        assert not executor.of(StageKept)[1].held


@looped
async def test_a_lock_has_one_holder_and_is_free_after_it(store, path):
    async with dispatching(store, path):
        producer, executor = await Producer.connect(path), await Executor.connect(path, handle=never)
        receipts = await producer.put(NewMessage("a"), NewMessage("a"))
        await executor.until(lambda: executor.ran == 2)
        first, second = (executor.tasks[receipt.id][0] for receipt in receipts)

        executor.say(LockAsked(first.id, first.fence, "k"))
        executor.say(LockAsked(second.id, second.fence, "k"))
        await executor.until(lambda: len(executor.of(LockAnswered)) == 2)
        await executor.stored(executor.end(ok(first)))
        executor.say(LockAsked(second.id, second.fence, "k"))
        await executor.until(lambda: len(executor.of(LockAnswered)) == 3)

        assert [(one.id, one.granted) for one in executor.of(LockAnswered)] == [
            (first.id, True),
            (second.id, False),
            (second.id, True),
        ]


@looped
async def test_payloads_travel_in_parts(store, path):
    body = os.urandom(600_000)
    async with dispatching(store, path):
        producer, executor = await Producer.connect(path), await Executor.connect(path, handle=never)
        for offset in range(0, len(body), 250_000):
            producer.say(PutPart(1, 0, body[offset : offset + 250_000]))
        [receipt] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)
        [task] = executor.tasks[receipt.id]
        heard = b""
        while not heard or not executor.of(PayloadPart)[-1].last:
            count = len(executor.of(PayloadPart))
            executor.say(PayloadAsked(task.id, task.fence, len(heard)))
            await executor.until(lambda: len(executor.of(PayloadPart)) > count)  # noqa: B023
            heard += executor.of(PayloadPart)[-1].data

        assert task.payload == len(body)
        assert heard == body


# -- producers


@looped
async def test_what_is_too_large_is_refused_with_a_word_of_advice(store, path):
    async with dispatching(store, path):
        producer = await Producer.connect(path)

        done = await producer.put_done(NewMessage("a", b"x" * 70_000), NewMessage("a"))

        assert "65536 are allowed; put what is larger into the payload" in done.error
        assert done.receipts == []


@looped
async def test_the_end_of_a_message_is_told_to_who_waits_for_it(store, path):
    async with dispatching(store, path):
        producer = await Producer.connect(path)
        [receipt] = await producer.put(NewMessage("a"))
        producer.say(Await(1, receipt.id, 0.05))
        await producer.until(lambda: producer.of(Ended))
        producer.say(Await(2, receipt.id, 5.0))
        executor = await Executor.connect(path, handle=lambda task: outcome(task, Result.OK, body=b"42"))
        await producer.until(lambda: len(producer.of(Ended)) == 2)
        producer.say(Await(3, receipt.id, 5.0))
        producer.say(Await(4, 4711, 5.0))
        await producer.until(lambda: len(producer.of(Ended)) == 4)

        assert [(one.number, one.state, one.result) for one in producer.of(Ended)][:3] == [
            (1, State.QUEUED, b""),
            (2, State.SUCCEEDED, b"42"),
            (3, State.SUCCEEDED, b"42"),
        ]
        assert producer.of(Ended)[3].error == "there is no message 4711"
        assert executor.ran == 1


@looped
async def test_a_change_that_comes_while_it_runs_makes_one_more_run(store, path):
    async with dispatching(store, path):
        producer, executor = await Producer.connect(path), await Executor.connect(path, handle=never)
        message = NewMessage("a", unique="u", conflict=Conflict.AGAIN)
        [first] = await producer.put(message)
        await executor.until(lambda: executor.ran)
        [second] = await producer.put(message)

        executor.end(ok(executor.tasks[first.id][0]))
        await executor.until(lambda: executor.ran == 2)

        assert first.id != second.id
        assert len(executor.tasks[second.id]) == 1


# -- bad manners


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"\x05\x00\x00\x00hello", "not a frame"),
        (b"\xff\xff\xff\xff", "over the limit"),
        (Stored(1), "before who it is"),
        (Greet("king"), "no role 'king'"),
        (Greet(wire=99), "version 99"),
    ],
)
@looped
async def test_bad_manners_cost_the_connection_and_nothing_else(path, said, why):
    async with dispatching(opened("memory:", ""), path):
        good, bad = await Producer.connect(path), await Client.connect(path)
        if isinstance(said, bytes):
            bad._writer.write(said)
        else:
            bad.say(said)

        await bad.until(lambda: bad.closed)

        assert why in bad.of(Refusal)[0].reason
        assert (await good.put(NewMessage("a")))[0].created


@looped
async def test_a_producer_may_not_speak_as_an_executor(path):
    async with dispatching(opened("memory:", ""), path):
        producer = await Producer.connect(path)
        producer.say(Began([Held(1, 1)]))

        await producer.until(lambda: producer.closed)

        assert "may not say Began" in producer.of(Refusal)[0].reason


@looped
async def test_who_does_not_read_is_dropped(path):
    async with dispatching(opened("memory:", ""), path) as there:
        executor = await Executor.connect(path, credit=400, handle=never)
        await executor.enlisted()
        executor.task.cancel()
        producer = await Producer.connect(path)

        await producer.put(*[NewMessage("a", b'"%s"' % (b"x" * 60_000)) for _ in range(10)])
        for _ in range(20):
            await producer.put(*[NewMessage("a", b'"%s"' % (b"x" * 60_000)) for _ in range(10)])
        [known] = there.roster.executors.values()

        async with asyncio.timeout(5):
            while known.link is not None:
                await asyncio.sleep(0.01)
        assert (await producer.put(NewMessage("a")))[0].created


@looped
async def test_an_unknown_verb_is_answered(path):
    async with dispatching(opened("memory:", ""), path):
        master = await Client.connect(path)
        master.say(Greet("master"))
        master.say(Ask(1, "dance", {}))

        [answered] = await master.until(lambda: master.of(Answered))

        assert answered.code != 0 and "dance" in answered.err
        assert not master.of(Run) and not master.of(Put)
