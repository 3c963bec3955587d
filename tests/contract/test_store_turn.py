"""Messages that are stored in the turn that does everything else."""

from bkd.ipc.durable.model import MOST_ARGS, NewMessage, Routing, State
from bkd.workers.store.protocol import Demand, Filter, StoreError


def demand(desk, places=10):
    return [Demand(("a", "b"), (desk.holder,) * places)]


def test_what_is_new_is_claimed_in_the_same_turn(desk):
    new = [NewMessage("a", b"1"), NewMessage("b", b"2", priority=10), NewMessage("a", b"3", delay=1_000)]
    turned = desk.turn(new=new, demands=demand(desk))

    assert [receipt.created for receipt in turned.receipts] == [True] * 3
    one, two, three = (receipt.id for receipt in turned.receipts)
    assert [(task.id, task.args, task.fence) for task in turned.claimed[0]] == [(two, b"2", 1), (one, b"1", 1)]
    assert turned.next_due == desk.row(three).due == desk.now + 1_000
    assert {task.guid for task in turned.claimed[0]} < {receipt.guid for receipt in turned.receipts}


def test_ends_and_new_messages_are_one_turn(desk):
    desk.put()
    task = desk.claim_one()
    turned = desk.turn(new=[NewMessage("a")] * 3, settled=[desk.settlement(task)], demands=demand(desk, 2))

    assert desk.state(task.id) is State.SUCCEEDED
    assert [one.id for one in turned.claimed[0]] == [receipt.id for receipt in turned.receipts[:2]]
    assert desk.state(turned.receipts[2].id) is State.QUEUED


def test_without_demands_what_is_new_waits(desk):
    (receipt,) = desk.turn(new=[NewMessage("a", payload=b"p", routing=Routing(sender="shop"))]).receipts

    assert desk.row(receipt.id).sender == "shop"
    assert desk.store.payload(receipt.id) == b"p"
    assert desk.claim_one().id == receipt.id


def test_a_node_that_is_gone_stores_and_claims_nothing(desk):
    desk.store.orphans(desk.now + 60_000, 10)
    turned = desk.turn(new=[NewMessage("a")], demands=demand(desk))

    assert (turned.claimed, [receipt.created for receipt in turned.receipts]) == ([[]], [True])


def test_one_refusal_spares_the_others(desk):
    turned = desk.turn(new=[NewMessage("a"), NewMessage("a", b"x" * (MOST_ARGS + 1)), NewMessage("b")])

    assert [bool(receipt.refused) for receipt in turned.receipts] == [False, True, False]
    assert [row.id for row in desk.store.find(Filter(), 10)] == [turned.receipts[0].id, turned.receipts[2].id]


def test_a_guid_that_is_there_is_recognised_or_nothing_of_the_turn_is_done(desk):
    first = desk.put(guid="g-1")
    task = desk.claim_one()
    again = [NewMessage("a", guid="g-1"), NewMessage("a", guid="g-2")]
    try:
        receipts = desk.turn(new=again, settled=[desk.settlement(task)], demands=demand(desk, 1)).receipts
        assert desk.state(task.id) is State.SUCCEEDED
    except StoreError:
        assert desk.state(task.id) is State.RUNNING
        assert desk.store.count(Filter()) == 1
        receipts = desk.store.enqueue(again, desk.now)

    assert [(receipt.id == first.id, receipt.created) for receipt in receipts] == [(True, False), (False, True)]
    assert desk.store.count(Filter()) == 2
