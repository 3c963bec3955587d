"""The dispatcher with peers that ask for too much, and with a store that will not write: nobody else is held up, and
nothing that was done is forgotten."""

from contextlib import closing
from pathlib import Path

import apsw
import pytest

from bkd.ipc.durable.model import NewMessage, Result, State
from bkd.ipc.durable.policy import Calendar, KindPolicy
from bkd.ipc.durable.wire import (
    Alarm,
    Await,
    Ended,
    Enlist,
    Frame,
    Greet,
    Held,
    Outcomes,
    PutDone,
    PutPart,
    Refusal,
    StageDone,
    StageKept,
    Stored,
)
from bkd.workers.dispatch import door, producers, turnkeeper
from bkd.workers.dispatch.lookups import MOST_AT_ONCE
from bkd.workers.dispatch.roster import Executor as LocalExecutor
from bkd.workers.store.opening import opened
from bkd.workers.store.protocol import Store, StoreError

from ..dispatching import AT_ONCE, Client, Executor, Producer, dispatching, eventually, looped, never, ok, outcome

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(turnkeeper, "AGAIN_FIRST", 0.02)
    monkeypatch.setattr(turnkeeper, "AGAIN_CAP", 0.05)
    monkeypatch.setattr(turnkeeper, "POLL", 0.1)


class Stubborn:
    """The real store, which refuses turns with ends of certain messages; it counts what it is asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.refused: set[int] = set()
        self.refusals = self.finds = 0

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def turn(self, turn):
        if self.refused & {settlement.id for settlement in turn.settled}:
            self.refusals += 1
            raise StoreError("it will not")
        return self._store.turn(turn)

    def find(self, *arguments):
        self.finds += 1
        return self._store.find(*arguments)


@pytest.fixture(params=["memory:", "sqlite:bkd.db"])
def stubborn(request, tmp_path) -> Stubborn:
    return Stubborn(opened(request.param, str(tmp_path)))


def rename(folder: Path, old: str, new: str) -> None:
    with closing(apsw.Connection(str(folder / "bkd.db"))) as db:
        db.set_busy_timeout(20_000)
        db.execute(f"ALTER TABLE {old} RENAME TO {new}")


async def state(dispatcher, id: int) -> State:
    return (await dispatcher.run(lambda store, _now: store.story(id))).row.state


async def refusals(stubborn: Stubborn, count: int) -> None:
    """Until it has refused so often from now on."""
    wanted = stubborn.refusals + count
    await eventually(lambda: stubborn.refusals >= wanted)


# -- a store that will not write


@looped
async def test_an_end_is_told_as_stored_when_it_is_and_not_before(path, tmp_path):
    async with dispatching(opened("sqlite:bkd.db", str(tmp_path)), path) as there:
        executor, producer = await Executor.connect(path, handle=never), await Producer.connect(path)
        master = await Client.connect(path)
        master.say(Greet("master"))
        [receipt] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)

        rename(tmp_path, "attempt", "elsewhere")
        number = executor.end(ok(executor.tasks[receipt.id][0]))
        alarm = await master.until(lambda: next((one for one in master.of(Alarm) if one.fact == "store-error"), None))
        assert "no such table" in alarm.text
        assert not executor.of(Stored)
        rename(tmp_path, "elsewhere", "attempt")

        assert (await executor.stored(number)).stale == []
        assert await state(there, receipt.id) is State.SUCCEEDED
        await master.until(lambda: any(one.fact == "store-back" for one in master.of(Alarm)))


@looped
async def test_what_is_refused_holds_up_nothing_else_and_is_tried_again(stubborn, path):
    async with dispatching(stubborn, path) as there:
        executor, producer = await Executor.connect(path, handle=never), await Producer.connect(path)
        receipts = await producer.put(*[NewMessage("a")] * 3)
        await executor.until(lambda: executor.ran == 3)
        bad, *good = [executor.tasks[receipt.id][0] for receipt in receipts]
        stubborn.refused = {bad.id}

        together = executor.end(ok(bad), ok(good[0]))
        alone = executor.end(ok(good[1]))
        await executor.stored(alone)
        again = executor.end(ok(bad))
        await refusals(stubborn, 4)

        assert [one.number for one in executor.of(Stored)] == [alone]
        assert await state(there, good[0].id) is State.SUCCEEDED
        assert await state(there, bad.id) is State.RUNNING
        stubborn.refused = set()
        assert [(await executor.stored(number)).stale for number in (together, again)] == [[], []]
        assert await state(there, bad.id) is State.SUCCEEDED
        assert executor.ran == 3


@looped
async def test_nothing_more_is_begun_while_too_much_is_refused(stubborn, path, monkeypatch):
    monkeypatch.setattr(turnkeeper, "MOST_REFUSED", 1)
    async with dispatching(stubborn, path):
        executor, producer = await Executor.connect(path, handle=never), await Producer.connect(path)
        [first] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)
        stubborn.refused = {first.id}
        executor.end(ok(executor.tasks[first.id][0]))
        await refusals(stubborn, 2)

        await producer.put(NewMessage("a"))
        await refusals(stubborn, 4)

        assert executor.ran == 1
        stubborn.refused = set()
        await executor.until(lambda: executor.ran == 2)


@looped
async def test_a_stage_that_cannot_be_written_is_neither_lost_nor_run_twice(path, tmp_path):
    policy = KindPolicy("a", stages=("send", "apply"), schedule=AT_ONCE)
    async with dispatching(opened("sqlite:bkd.db", str(tmp_path)), path) as there:
        executor = await Executor.connect(path, kinds=[policy], handle=never)
        producer = await Producer.connect(path)
        [receipt] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)
        [task] = executor.tasks[receipt.id]

        rename(tmp_path, "output", "elsewhere")
        executor.say(StageDone(task.id, task.fence, 0, b'"sent"'))
        await eventually(lambda: there.ledger.refused)
        number = executor.end(outcome(task, Result.TIMEOUT))
        other = await producer.put(NewMessage("b"))
        assert other[0].created
        assert not executor.of(StageKept) and not executor.of(Stored)
        rename(tmp_path, "elsewhere", "output")

        await executor.stored(number)
        await executor.until(lambda: executor.ran == 2)
        assert executor.of(StageKept) == [StageKept(task.id, task.fence, 0, True)]
        again = executor.tasks[receipt.id][1]
        assert (again.stage, again.outputs) == (1, [b'"sent"'])


# -- peers that ask for too much


@looped
async def test_a_thousand_who_wait_cost_a_few_looks(stubborn, path):
    async with dispatching(stubborn, path):
        waiting, producer = await Producer.connect(path), await Producer.connect(path)
        receipts = await producer.put(*[NewMessage("nobody's")] * 1000)

        for number, receipt in enumerate(receipts):
            waiting.say(Await(number, receipt.id, 0.0))
        await waiting.until(lambda: len(waiting.of(Ended)) == 1000)

        assert {one.state for one in waiting.of(Ended)} == {State.QUEUED}
        assert stubborn.finds < 20 * 1000 / MOST_AT_ONCE


@looped
async def test_a_message_that_cannot_be_is_not_waited_for(stubborn, path):
    async with dispatching(stubborn, path):
        producer = await Producer.connect(path)
        producer.say(Await(1, 2**64 - 1, 5.0))

        [ended] = await producer.until(lambda: producer.of(Ended))

        assert "there is no message" in ended.error
        assert stubborn.finds == 0


@looped
async def test_too_many_messages_in_one_put_are_refused_and_all_others_are_stored(path):
    async with dispatching(opened("memory:", ""), path):
        greedy, modest = await Producer.connect(path), await Producer.connect(path)
        number = greedy.begin_put(*[NewMessage("a")] * (producers.MOST_IN_PUT + 1))
        [receipt] = await modest.put(NewMessage("a"))
        await greedy.until(lambda: greedy.of(PutDone))

        assert receipt.created
        assert greedy.of(PutDone)[0].number == number
        assert "5,000 are allowed" in greedy.of(PutDone)[0].error
        assert (await greedy.put(NewMessage("a")))[0].created


@looped
async def test_refusals_that_do_not_fit_into_a_frame_are_cut_short(path):
    async with dispatching(opened("memory:", ""), path):
        producer = await Producer.connect(path)

        receipts = await producer.put(*[NewMessage("k" * 150, max_attempts=-1)] * producers.MOST_IN_PUT)

        assert len(receipts) == producers.MOST_IN_PUT
        assert {receipt.refused for receipt in receipts} == {
            "max_attempts -1 of kkkkkkkkkkkkkkkkkkkkk"[: producers.CUT]
        }


@pytest.mark.parametrize("parts", [[PutPart(1, 0, b"")], [PutPart(1, index, b"x") for index in range(6)]])
@looped
async def test_parts_of_payloads_are_counted_even_if_there_is_little_in_them(path, parts, monkeypatch):
    monkeypatch.setattr(producers, "MOST_PARTS", 1000)
    async with dispatching(opened("memory:", ""), path):
        producer = await Producer.connect(path)
        for part in parts:
            producer.say(part)

        await producer.until(lambda: producer.closed)

        assert producer.of(Refusal)


@looped
async def test_a_boundless_credit_is_cut(path):
    async with dispatching(opened("memory:", ""), path):
        executor = await Executor.connect(path, credit=10**9)
        producer = await Producer.connect(path)
        await executor.enlisted()

        await producer.put(*[NewMessage("a")] * 2)

        await executor.until(lambda: executor.ran == 2)


@looped
async def test_a_policy_that_nothing_can_be_counted_with_is_refused(path):
    async with dispatching(opened("memory:", ""), path):
        executor = await Executor.connect(path, kinds=[KindPolicy("a", schedule=Calendar(-(10**6), "month"))])

        await executor.until(lambda: executor.closed)

        assert executor.of(Refusal)[0].reason == "a: step -1000000 is not between 1 and 2147483646"


@looped
async def test_who_speaks_of_what_another_one_holds_changes_nothing(stubborn, path):
    async with dispatching(stubborn, path) as there:
        executor, producer = await Executor.connect(path, handle=never), await Producer.connect(path)
        [receipt] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)
        [task] = executor.tasks[receipt.id]
        stranger = LocalExecutor(99, Enlist("jobs.9", "jobs", 99, 1, "shared", 1, []), "h1")
        answers = Answers()

        there.engine.outcomes(stranger, answers, Outcomes(1, [ok(task)]))
        await eventually(lambda: answers.said)

        assert answers.said == [Stored(1, [Held(task.id, task.fence)])]
        assert await state(there, receipt.id) is State.RUNNING
        assert (await executor.stored(executor.end(ok(task)))).stale == []


class Answers:
    """A link that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[Frame] = []

    def send(self, what: Frame) -> None:
        self.said.append(what)

    def close(self) -> None:
        """There is nothing to close."""


@looped
async def test_a_run_of_a_host_that_was_taken_for_dead_is_interrupted_or_ends_in_time(stubborn, path):
    async with dispatching(stubborn, path) as there:
        executor, producer = await Executor.connect(path, handle=never), await Producer.connect(path)
        receipts = await producer.put(NewMessage("a"), NewMessage("a"))
        await executor.until(lambda: executor.ran == 2)
        done, cut = [executor.tasks[receipt.id][0] for receipt in receipts]
        leases = await there.run(lambda store, _now: store.leases(there.keeper.node))

        await there.engine.fenced()
        number = executor.end(ok(done))
        await executor.stored(number)
        there.settler.reconcile(leases)
        await executor.until(lambda: executor.ran == 3)

        stories = [await there.run(lambda store, _now, id=task.id: store.story(id)) for task in (done, cut)]
        assert (stories[0].row.state, stories[0].row.counters) == (State.SUCCEEDED, done.counters)
        assert [one.result for one in stories[1].attempts] == [Result.INTERRUPTED]
        assert (stories[1].row.counters.runs, stories[1].row.counters.attempts) == (2, 1)


@looped
async def test_one_process_does_not_take_all_places(path, monkeypatch):
    monkeypatch.setattr(door, "MOST_OF_ONE", 3)
    async with dispatching(opened("memory:", ""), path):
        clients = [await Producer.connect(path) for _ in range(4)]

        await clients[3].until(lambda: clients[3].closed)

        assert "3 connections already" in clients[3].of(Refusal)[0].reason
        assert (await clients[0].put(NewMessage("a")))[0].created


@looped
async def test_alarms_are_one_line_whatever_a_handler_says(path):
    policy = KindPolicy("a", max_attempts=1)
    async with dispatching(opened("memory:", ""), path):
        await Executor.connect(
            path, kinds=[policy], handle=lambda task: outcome(task, Result.ERROR, text="\x1b[31mred\nand more")
        )
        producer, master = await Producer.connect(path), await Client.connect(path)
        master.say(Greet("master"))
        await producer.put(NewMessage("a"))

        [alarm] = await master.until(lambda: master.of(Alarm))

        assert alarm.text.endswith(r"\x1b[31mred\nand more")
