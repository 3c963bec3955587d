"""A turn at a store that does not always do what it should: everybody hears what became of his, once."""

import pytest

from bkd.ipc.durable.model import Counters, NewMessage, Settlement, State
from bkd.ipc.durable.wire import Held
from bkd.workers.dispatch.ledger import Batch, Put, Report
from bkd.workers.dispatch.turn import Stroke
from bkd.workers.store.memory import MemoryStore
from bkd.workers.store.protocol import Demand, Filter, StoreAway, StoreError, Turn

NOW = 1_000_000


class Books(MemoryStore):
    """Counts its turns; `refuses` says of one what is wrong with it."""

    def __init__(self):
        super().__init__()
        self.turns = 0
        self.refuses = lambda turn: None
        self.node = self.register("h1", NOW, NOW + 30_000).number

    def turn(self, turn):
        self.turns += 1
        if error := self.refuses(turn):
            raise error
        return super().turn(turn)


class Told(list):
    """Answers that came while the turn went on."""

    def __call__(self, answers):
        self.extend(answers)


@pytest.fixture
def store():
    return Books()


def put(*messages):
    return Put(messages, lambda receipts, error: None, 0.0)


def stroke(store, told, *puts, demands=((("a",), (1, 1)),), settled=()):
    batch = Batch([Report(settled)] if settled else [], [], [], [], [])
    return Stroke(NOW, store.node, puts, batch, [Demand(*one) for one in demands], told)


def answered(answers):
    return [([receipt.id for receipt in answer.receipts], answer.error) for answer in answers]


def test_puts_and_claims_are_one_turn(store):
    told = Told()
    done = stroke(store, told, put(NewMessage("a"), NewMessage("a")), put(NewMessage("b"))).done(store)

    assert (store.turns, told) == (1, [])
    assert answered(done.answers) == [([1, 2], ""), ([3], "")]
    assert [task.id for task in done.turned.claimed[0]] == [1, 2]


def test_puts_alone_are_no_turn(store):
    told = Told()
    done = stroke(store, told, put(NewMessage("a")), demands=()).done(store)

    assert (store.turns, told, answered(done.answers)) == (0, [], [([1], "")])


@pytest.mark.parametrize("key", [{"key": "k"}, {"unique": "u"}])
def test_what_has_keys_is_stored_and_answered_before_the_turn(store, key):
    told = Told()
    done = stroke(store, told, put(NewMessage("a", **key)), put(NewMessage("a"))).done(store)

    assert answered(told) == [([1], ""), ([2], "")]
    assert (done.answers, len(done.turned.claimed[0])) == ((), 2)


def test_a_turn_that_is_refused_with_its_puts_is_done_without_them(store):
    store.refuses = lambda turn: StoreError("no") if turn.new else None
    told = Told()
    done = stroke(store, told, put(NewMessage("a"))).done(store)

    assert answered(told) == [([1], "")]
    assert (done.why, [task.id for task in done.turned.claimed[0]]) == ("", [1])


def test_an_end_that_cannot_be_written_costs_puts_and_claims_nothing(store):
    store.enqueue([NewMessage("a")], NOW)
    [[task]] = store.turn(Turn(NOW, store.node, demands=[Demand(("a",), (1,))])).claimed
    store.refuses = lambda turn: StoreError("no") if turn.settled else None
    told = Told()
    settled = [Settlement(task.id, task.fence, State.SUCCEEDED, Counters(1, 1))]
    done = stroke(store, told, put(NewMessage("a")), settled=settled).done(store)

    assert answered(told) == [([2], "")]
    assert (done.refused, done.why) == ({Held(task.id, task.fence)}, "no")
    assert [task.id for task in done.turned.claimed[0]] == [2]


def test_of_a_store_that_is_away_nobody_hears_anything(store):
    store.refuses = lambda turn: StoreAway("gone")
    told = Told()
    with pytest.raises(StoreAway):
        stroke(store, told, put(NewMessage("a"))).done(store)

    assert (told, store.count(Filter())) == ([], 0)
