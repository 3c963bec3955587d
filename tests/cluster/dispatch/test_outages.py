"""A store that goes away, or refuses what it is given."""

import pytest

from bkd.ipc.durable.model import NewMessage, Result, State
from bkd.ipc.durable.policy import KindPolicy
from bkd.ipc.durable.wire import Alarm, Greet, PutDone, Stored
from bkd.workers.store.protocol import Store, StoreAway

from ..dispatching import Client, Executor, Producer, dispatching, ended, eventually, looped, never, ok, outcome, story

pytestmark = pytest.mark.timeout(60)


class Outage:
    """The real store, which does not answer while it is `away`. It goes away with the next call of `loses`, which is
    done, and not answered. `asked`: how often it was asked meanwhile."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.away = False
        self.loses = ""
        self.asked = 0

    def __getattr__(self, name: str):
        def call(*arguments):
            if name == self.loses:
                self.loses, self.away = "", True
                getattr(self._store, name)(*arguments)
            elif not self.away:
                return getattr(self._store, name)(*arguments)
            self.asked += 1
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

        outage.away, outage.loses = not done, "turn" if done else ""
        number = executor.end(ok(task))
        await master.until(lambda: any(alarm.fact == "store-away" for alarm in master.of(Alarm)))
        there.changed()
        put = producer.begin_put(NewMessage("a"), NewMessage("a"))
        before = outage.asked
        await eventually(lambda: outage.asked >= before + 3)
        assert not executor.of(Stored) and not any(one.number == put for one in producer.of(PutDone))
        outage.away = False

        assert (await executor.stored(number)).stale == []
        await executor.until(lambda: executor.ran == 3)
        await master.until(lambda: any(alarm.fact == "store-back" for alarm in master.of(Alarm)))
        assert [one.result for one in (await ended(there, receipt.id)).attempts] == [Result.OK]
        assert sum(len(tasks) for tasks in executor.tasks.values()) == len(executor.tasks) == 3


@looped
async def test_a_put_that_was_stored_although_nobody_heard_is_not_stored_twice(store, path):
    outage = Outage(store)
    async with dispatching(outage, path):
        producer = await Producer.connect(path)
        outage.loses = "enqueue"
        number = producer.begin_put(NewMessage("a"))
        await eventually(lambda: outage.away)
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
    async with dispatching(outage, path) as there:
        producer, executor = await Producer.connect(path), await Executor.connect(path, kinds=[KindPolicy("a")])
        await executor.enlisted()
        there.keeper.claims = False
        [receipt] = await producer.put(NewMessage("a"))
        await there.run(lambda store, _now: story(store, receipt.id))  # after the turn that stored it

        outage.loses = "turn"
        there.keeper.claims = True
        there.keeper.ring()
        await eventually(lambda: outage.away)
        outage.away = False

        await executor.until(lambda: executor.ran)
        assert executor.tasks[receipt.id][0].counters.runs == 1
        assert (await ended(there, receipt.id)).row.counters.runs == 1


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
