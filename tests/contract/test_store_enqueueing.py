"""What enqueueing promises, over every store: receipts, limits, keys."""

import pytest

from bkd.ipc.durable.model import MOST_ARGS, MOST_PAYLOAD, Conflict, NewMessage, Routing, State
from bkd.workers.store.protocol import Filter

from .desk import NEW


def test_a_message_is_there_and_says_where_it_comes_from(desk):
    routing = Routing(tracking_id="t1", parent_id=7, sender="shop")
    receipt = desk.put("a", b'{"x":1}', priority=40, key="k", notify="me", max_attempts=3, routing=routing)

    row = desk.row(receipt.id)

    assert (receipt.created, receipt.state, receipt.refused) == (True, State.QUEUED, "")
    assert (row.id, row.guid, row.kind, row.state) == (receipt.id, receipt.guid, "a", State.QUEUED)
    assert (row.args, row.priority, row.key, row.notify, row.max_attempts) == (b'{"x":1}', 40, "k", "me", 3)
    assert (row.created, row.due, row.counters) == (desk.now, desk.now, NEW)
    assert (row.tracking_id, row.parent_id, row.sender) == ("t1", 7, "shop")


def test_receipts_come_in_the_order_of_the_messages_and_one_refusal_spares_the_others(desk):
    messages = [NewMessage("a"), NewMessage("a", b"x" * (MOST_ARGS + 1)), NewMessage("b", unique="u"), NewMessage("a")]

    receipts = desk.store.enqueue(messages, desk.now)

    assert [bool(receipt.refused) for receipt in receipts] == [False, True, False, False]
    assert receipts[1].id == 0
    assert [row.id for row in desk.store.find(Filter(), 10)] == [receipts[0].id, receipts[2].id, receipts[3].id]
    assert desk.store.enqueue([], desk.now) == []


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (NewMessage(""), "kind"),
        (NewMessage("a", b"x" * (MOST_ARGS + 1)), "arguments of a"),
        (NewMessage("a", payload=b"x" * (MOST_PAYLOAD + 1)), "payload of a"),
        (NewMessage("a", key="k" * 256), "key of a"),
        (NewMessage("a", unique="k" * 256), "key of a"),
        (NewMessage("a", priority=1 << 40), "priority"),
        (NewMessage("a", delay=-1), "delay"),
        (NewMessage("a", due=1 << 70), "due"),
        (NewMessage("a", max_attempts=-1), "max_attempts"),
    ],
)
def test_what_is_too_large_is_refused_in_words(desk, message, word):
    (receipt,) = desk.store.enqueue([message], desk.now)

    assert word in receipt.refused
    assert desk.store.count(Filter()) == 0


def test_what_just_fits_is_stored(desk):
    receipt = desk.put("a", b'"' + b"x" * (MOST_ARGS - 2) + b'"', payload=b"y" * MOST_PAYLOAD)

    task = desk.claim_one()

    assert len(task.args) == MOST_ARGS
    assert task.payload == MOST_PAYLOAD
    assert desk.store.payload(receipt.id) == b"y" * MOST_PAYLOAD


def test_without_a_payload_there_is_none(desk):
    assert desk.store.payload(desk.put().id) == b""
    assert desk.store.payload(4711) == b""


def test_a_guid_is_kept_and_the_same_message_again_is_recognised_by_it(desk):
    first = desk.put("a", b"1", guid="g-1", payload=b"p")
    again = desk.put("a", b"1", guid="g-1", payload=b"p", key="other", unique="u")
    both = desk.store.enqueue([NewMessage("b", guid="g-2"), NewMessage("b", guid="g-2"), NewMessage("b")], desk.now)

    assert first.guid == "g-1"
    assert (again.id, again.guid, again.created, again.refused) == (first.id, "g-1", False, "")
    assert [receipt.created for receipt in both] == [True, False, True]
    assert both[0].id == both[1].id
    assert desk.store.count(Filter()) == 3


def test_every_message_has_a_guid_of_its_own(desk):
    guids = {desk.put().guid for _ in range(5)}

    assert len(guids) == 5
    assert all(len(guid) == 36 for guid in guids)


@pytest.mark.parametrize(
    ("delay", "due", "expected"), [(0, 0, 0), (500, 0, 500), (500, 300, 500), (100, 300, 300), (0, -9, 0)]
)
def test_of_delay_and_due_the_later_one_counts(desk, delay, due, expected):
    receipt = desk.put(delay=delay, due=desk.now + due if due else 0)

    assert desk.row(receipt.id).due == desk.now + expected


def test_an_idempotency_key_stands_for_its_message(desk):
    first = desk.put("a", b"1", key="k")
    again = desk.put("a", b"1", key="k")
    other = desk.put("a", b"2", key="k")
    elsewhere = desk.put("a", b"2", key="k", routing=Routing(sender="s"))

    assert (again.id, again.created, again.refused) == (first.id, False, "")
    assert other.id == first.id
    assert "another message" in other.refused
    assert elsewhere.created


def test_a_key_knows_its_arguments_in_any_order(desk):
    first = desk.put("a", b'{"sku":7,"to":"ann"}', key="k")

    again = desk.put("a", b'{ "to": "ann", "sku": 7 }', key="k")
    other = desk.put("a", b'{"sku":7,"to":"bob"}', key="k")

    assert (again.id, again.created, again.refused) == (first.id, False, "")
    assert "another message" in other.refused


def test_an_idempotency_key_outlives_the_end_but_not_the_message(desk):
    first = desk.put("a", key="k")
    desk.end(desk.claim_one())

    assert desk.put("a", key="k").state is State.SUCCEEDED
    desk.store.purge([first.id], "me", desk.now)
    assert desk.put("a", key="k").created


def test_a_unique_key_is_of_one_living_message_of_its_kind(desk):
    first = desk.put("a", unique="u")

    assert (desk.put("a", unique="u").id, desk.put("a", unique="u").created) == (first.id, False)
    assert desk.put("b", unique="u").created
    assert desk.put("a", unique="v").created
    desk.end(desk.claim(1)[0])
    assert desk.put("a", unique="u").created


def test_a_unique_key_can_be_guarded(desk):
    first = desk.put("a", unique="u")

    refused = desk.put("a", unique="u", conflict=Conflict.REJECT)

    assert refused.id == first.id
    assert "unique key" in refused.refused


def test_a_waiting_message_gets_new_arguments_a_running_one_does_not(desk):
    first = desk.put("a", b"1", unique="u", payload=b"old")

    replaced = desk.put("a", b"2", unique="u", payload=b"newer", conflict=Conflict.REPLACE)
    task = desk.claim_one()
    late = desk.put("a", b"3", unique="u", conflict=Conflict.REPLACE)

    assert (replaced.id, replaced.created) == (first.id, False)
    assert (task.args, task.payload, desk.store.payload(task.id)) == (b"2", 5, b"newer")
    assert (late.id, late.state, desk.row(first.id).args) == (first.id, State.RUNNING, b"2")


def test_once_more_means_once_after_the_run(desk):
    first = desk.put("a", b"1", unique="u")
    waiting = desk.put("a", b"2", unique="u", conflict=Conflict.AGAIN)
    task = desk.claim_one()
    successor = desk.put("a", b"3", unique="u", conflict=Conflict.AGAIN)
    another = desk.put("a", b"4", unique="u", conflict=Conflict.AGAIN)

    assert waiting.id == first.id
    assert (successor.created, successor.state) == (True, State.BLOCKED)
    assert another.id == successor.id
    assert desk.claim() == []
    desk.end(task, State.RETRY_SCHEDULED)
    assert [one.id for one in desk.claim()] == [first.id]
    desk.end(lease_of(desk, first.id))
    assert desk.claim_one().args == b"3"


def test_a_successor_that_is_due_later_waits_for_its_time(desk):
    desk.put("a", unique="u")
    task = desk.claim_one()
    successor = desk.put("a", unique="u", conflict=Conflict.AGAIN, delay=500)
    desk.end(task)

    assert desk.state(successor.id) is State.QUEUED
    assert desk.claim() == []
    desk.now += 500
    assert desk.claim_one().id == successor.id


def test_a_cancelled_successor_leaves_the_key_to_its_owner(desk):
    desk.put("a", unique="u")
    task = desk.claim_one()
    successor = desk.put("a", unique="u", conflict=Conflict.AGAIN)

    assert desk.store.cancel([successor.id], "me", desk.now) == ([successor.id], [])
    assert desk.put("a", unique="u").id == task.id
    desk.end(task)
    assert desk.put("a", unique="u").created


def lease_of(desk, id):
    return next(lease for lease in desk.store.leases(desk.node.number) if lease.id == id)
