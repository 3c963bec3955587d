"""One suite over every store: what its protocol promises, one by one."""

from pathlib import Path

import pytest

from bkd.ipc.durable.model import (
    MOST_ARGS,
    MOST_PAYLOAD,
    Conflict,
    Counters,
    Fault,
    NewMessage,
    Notice,
    Result,
    Routing,
    State,
)
from bkd.ipc.durable.policy import KindPolicy
from bkd.ipc.durable.wire import Held
from bkd.workers.store.protocol import Control, Demand, Filter, Lock, Stage, Turn

from .desk import NEW, Desk
from .stores import STORES, make_store, quick_folder


@pytest.fixture(params=STORES)
def store(request):
    with quick_folder() as folder:
        made = make_store(request.param, Path(folder))
        made.open()
        yield made
        assert made.check() == []
        made.close()


@pytest.fixture
def desk(store):
    return Desk(store)


# -- enqueueing


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


# -- claiming


def test_lower_priorities_go_first_then_the_longest_due_then_the_oldest(desk):
    slow = desk.put(priority=90)
    first, second = desk.put(), desk.put("b")
    desk.now += 10
    later, urgent = desk.put(), desk.put("b", priority=10)

    assert [task.id for task in desk.claim()] == [urgent.id, first.id, second.id, later.id, slow.id]


def test_the_aged_claim_takes_the_longest_due_whatever_its_priority(desk):
    slow = desk.put(priority=90)
    desk.now += 1
    urgent, same = desk.put("b", priority=10), desk.put("a", priority=95)

    assert [task.id for task in desk.claim(2, aged=True)] == [slow.id, urgent.id]
    assert [task.id for task in desk.claim(2, aged=True)] == [same.id]


def test_many_of_many_kinds_and_priorities_come_in_one_order(desk):
    messages = [NewMessage("ab"[i % 2], priority=10 * (i % 5), delay=i % 7) for i in range(200)]
    ids = [receipt.id for receipt in desk.store.enqueue(messages, desk.now)]
    desk.now += 10
    line = sorted(zip([m.priority for m in messages], [m.delay for m in messages], ids, strict=True))

    claimed = [task.id for _ in range(5) for task in desk.claim(40)]

    assert claimed == [id for _, _, id in line]


def test_a_task_holds_what_a_run_needs(desk):
    receipt = desk.put(
        "a", b"[1]", priority=7, key="k", max_attempts=9, notify="n", deadline=desk.now + 99, payload=b"xyz"
    )
    desk.now += 5
    task = desk.claim_one()

    assert (task.id, task.guid, task.kind, task.args) == (receipt.id, receipt.guid, "a", b"[1]")
    assert (task.fence, task.counters, task.stage, task.outputs) == (1, Counters(1, 1), 0, [])
    assert (task.priority, task.created, task.due, task.leased) == (7, desk.now - 5, desk.now - 5, desk.now)
    assert (task.key, task.max_attempts, task.notify, task.payload) == ("k", 9, "n", 3)
    assert (task.deadline, task.holder) == (desk.now + 94, desk.holder)


def test_holders_get_theirs_in_order(desk):
    other = desk.store.enlist(desk.node.number, "jobs.2", 101, 8, desk.now)
    for _ in range(3):
        desk.put()

    turned = desk.turn(demands=[Demand(("a",), (other, desk.holder)), Demand(("a", "b"), (desk.holder, other))])

    assert [[task.holder for task in tasks] for tasks in turned.claimed] == [[other, desk.holder], [desk.holder]]
    assert turned.more


def test_nothing_is_claimed_twice(desk):
    desk.put()

    assert len(desk.claim()) == 1
    assert desk.claim() == []


def test_only_kinds_that_were_asked_for(desk):
    desk.put("b")

    assert desk.claim(kinds=["a", "unheard of"]) == []
    assert desk.claim(0) == []
    assert len(desk.claim(kinds=["b", "b"])) == 1


def test_what_is_due_later_is_claimed_then_and_announced(desk):
    soon, later = desk.put(delay=100), desk.put(delay=900)
    desk.put("other", delay=10)

    turned = desk.turn(demands=[Demand(("a", "b"), (desk.holder,) * 5)])
    assert (turned.claimed, turned.next_due, turned.more) == ([[]], desk.now + 100, False)
    desk.now += 100
    turned = desk.turn(demands=[Demand(("a", "b"), (desk.holder,) * 5)])
    assert [task.id for task in turned.claimed[0]] == [soon.id]
    assert turned.next_due == desk.now + 800
    desk.now += 800
    turned = desk.turn(demands=[Demand(("a", "b"), (desk.holder,))])
    assert [task.id for task in turned.claimed[0]] == [later.id]
    assert (turned.next_due, turned.more) == (0, True)


def test_two_thousand_that_become_due_at_once_take_two_turns_at_most(desk):
    desk.store.enqueue([NewMessage("a", delay=100)] * 2_000, desk.now)
    desk.now += 100

    assert len(desk.claim(2_000)) + len(desk.claim(2_000)) == 2_000


def test_paused_kinds_wait(desk):
    desk.put("a")
    desk.store.control(Control("a", paused=True, by="me", at=desk.now, reason="broken"))

    assert desk.claim() == []
    desk.store.control(Control("a", by="me", at=desk.now))
    assert len(desk.claim()) == 1


def test_a_limited_kind_runs_so_often_and_no_more(desk):
    desk.store.control(Control("a", max_running=2))
    for _ in range(5):
        desk.put("a")
    last = desk.put("b")

    turned = desk.turn(demands=[Demand(("a",), (desk.holder,)), Demand(("a", "b"), (desk.holder,) * 9)])

    assert [[task.kind for task in tasks] for tasks in turned.claimed] == [["a"], ["a", "b"]]
    assert turned.claimed[1][1].id == last.id
    assert desk.claim(aged=True) == []
    desk.end(turned.claimed[0][0])
    assert len(desk.claim(aged=True)) == 1


def test_the_policy_limits_until_an_operator_says_otherwise(desk):
    desk.store.declare(desk.node.number, [KindPolicy("a", max_running=1)], desk.now)
    for _ in range(3):
        desk.put("a")

    assert len(desk.claim()) == 1
    desk.store.control(Control("a", max_running=0))
    assert len(desk.claim()) == 2


def test_a_node_that_is_gone_claims_nothing(desk):
    desk.put()
    desk.store.leave(desk.node.number, desk.now)

    assert desk.claim() == []
    assert desk.store.turn(Turn(desk.now, 4711, demands=[Demand(("a",), (1,))])).claimed == [[]]


# -- settling


def test_a_success_is_an_end_with_a_result_and_an_attempt(desk):
    desk.put()
    task = desk.claim_one()
    desk.now += 7
    turned = desk.end(task, body=b'{"ok":1}')

    row, story = desk.row(task.id), desk.store.story(task.id)
    assert turned.stale == []
    assert (row.state, row.result, row.finished, row.counters) == (
        State.SUCCEEDED,
        b'{"ok":1}',
        desk.now,
        task.counters,
    )
    assert (row.worker, row.pid, row.leased) == ("", 0, 0)
    assert story.attempts == [desk.attempt(task)]
    assert desk.claim() == []


def test_a_retry_waits_for_its_time_and_counts_on(desk):
    desk.put()
    task = desk.claim_one()
    failed = desk.attempt(task, Result.ERROR, fault="retryable", code="ValueError", text="no", stack="at …")
    desk.end(task, State.RETRY_SCHEDULED, attempt=failed, due=desk.now + 50)

    row = desk.row(task.id)
    assert (row.state, row.due, row.fault, row.error) == (State.RETRY_SCHEDULED, desk.now + 50, "retryable", "no")
    assert desk.store.story(task.id).attempts == [failed]
    assert desk.claim() == []
    desk.now += 50
    assert desk.state(task.id) is State.RETRY_SCHEDULED
    again = desk.claim_one()
    assert (again.fence, again.counters) == (2, Counters(2, 2))


@pytest.mark.parametrize("state", [State.QUEUED, State.RETRY_SCHEDULED, State.WAITING_REMOTE])
def test_what_waits_again_may_be_due_at_once(desk, state):
    desk.put()
    desk.end(desk.claim_one(), state, due=desk.now)

    assert desk.claim_one().counters == Counters(2, 2)


def test_counters_are_those_of_the_settlement(desk):
    desk.put()
    counters = Counters(1, 0, 2, 3, 4, 5)
    task = desk.claim_one()
    desk.end(task, State.RETRY_SCHEDULED, counters=counters)

    assert desk.row(task.id).counters == counters
    assert desk.claim_one().counters == Counters(2, 1, 2, 3, 4, 5)


def test_what_was_not_begun_keeps_its_place_in_the_line(desk):
    first = desk.put()
    desk.now += 10
    desk.put()
    desk.now += 10
    (task,) = desk.claim(1)
    desk.give_back(task)

    assert desk.row(first.id).counters == NEW
    assert desk.store.story(first.id).attempts == []
    assert [task.id for task in desk.claim(1)] == [first.id]


def test_blocked_ones_wait_for_something_else_than_time(desk):
    receipt = desk.put()
    desk.end(desk.claim_one(), State.BLOCKED, reason="auth")
    desk.now += 10_000

    assert desk.claim() == []
    assert (desk.state(receipt.id), desk.row(receipt.id).reason) == (State.BLOCKED, "auth")


def test_a_dead_letter_says_why_and_tells_once(desk):
    desk.put()
    task = desk.claim_one()
    notice = Notice("ops@example.org", "a is dead", "text", f"dead:{task.id}")
    desk.kill(task, "exhausted", notice=notice)

    assert (desk.state(task.id), desk.row(task.id).reason) == (State.DEAD_LETTER, "exhausted")
    assert desk.store.story(task.id).notices == ["ops@example.org: a is dead"]
    desk.store.retry([task.id], "me", desk.now)
    desk.kill(desk.claim_one(), "exhausted", notice=notice)
    assert len(desk.store.story(task.id).notices) == 1


def test_a_late_end_changes_nothing_and_is_told(desk):
    desk.put()
    old = desk.claim_one()
    desk.end(old, State.RETRY_SCHEDULED, result=Result.LOST)
    new = desk.claim_one()
    turned = desk.end(old, body=b"late")

    assert turned.stale == [Held(old.id, old.fence)]
    assert (desk.state(old.id), desk.row(old.id).counters) == (State.RUNNING, new.counters)
    (attempt,) = desk.store.story(old.id).attempts
    assert attempt.result is Result.LOST
    assert "ok" in attempt.late
    assert desk.end(new).stale == []


def test_a_late_end_of_a_run_that_was_given_back_is_told(desk):
    desk.put()
    task = desk.claim_one()
    desk.give_back(task)

    assert desk.end(task).stale == [Held(task.id, task.fence)]
    (attempt,) = desk.store.story(task.id).attempts
    assert (attempt.fence, bool(attempt.late)) == (1, True)
    assert desk.state(task.id) is State.QUEUED


def test_an_end_that_is_said_again_is_recognised(desk):
    desk.put()
    task = desk.claim_one()
    desk.end(task)

    assert desk.end(task).stale == []
    assert desk.store.story(task.id).attempts[0].late == ""


def test_of_two_ends_in_one_turn_the_first_counts(desk):
    desk.put()
    task = desk.claim_one()
    turned = desk.turn(settled=[desk.settlement(task), desk.settlement(task, State.CANCELLED, result=Result.CANCELLED)])

    assert turned.stale == [Held(task.id, task.fence)]
    assert desk.state(task.id) is State.SUCCEEDED


def test_ends_of_nothing_are_stale(desk):
    desk.put()
    task = desk.claim_one()
    desk.end(task)
    desk.store.purge([task.id], "me", desk.now)

    assert desk.end(task).stale == [Held(task.id, task.fence)]
    assert desk.store.count(Filter()) == 0


def test_finishing_and_claiming_is_one_turn(desk):
    for _ in range(4):
        desk.put()
    tasks = desk.claim(2)
    settled = [desk.settlement(task) for task in tasks]
    turned = desk.turn(settled=settled, demands=[Demand(("a",), (desk.holder,) * 2)])

    assert len(turned.claimed[0]) == 2
    assert desk.store.count(Filter(states=(State.SUCCEEDED,))) == 2


# -- stages, locks, words


def test_finished_stages_are_not_lost(desk):
    desk.put()
    task = desk.claim_one()
    turned = desk.turn(stages=[Stage(task.id, task.fence, 0, b"[0]"), Stage(task.id, task.fence, 1, b"[1]")])
    desk.end(task, State.RETRY_SCHEDULED, stage=0)

    again = desk.claim_one()
    assert turned.kept == [Held(task.id, task.fence)] * 2
    assert (again.stage, again.outputs) == (2, [b"[0]", b"[1]"])
    assert desk.store.story(task.id).outputs == [b"[0]", b"[1]"]
    assert desk.row(task.id).stage == 2


def test_a_stage_that_was_kept_stays_as_it_is(desk):
    desk.put()
    task = desk.claim_one()
    desk.turn(stages=[Stage(task.id, task.fence, 0, b"[0]"), Stage(task.id, task.fence, 1, b"[1]")])
    turned = desk.turn(stages=[Stage(task.id, task.fence, 0, b"other")])

    assert turned.kept == [Held(task.id, task.fence)]
    assert desk.store.story(task.id).outputs == [b"[0]", b"[1]"]
    assert desk.row(task.id).stage == 2


def test_stages_come_before_the_end_in_the_same_turn(desk):
    desk.put()
    task = desk.claim_one()
    lost = desk.settlement(task, State.RETRY_SCHEDULED, result=Result.LOST)
    desk.turn(stages=[Stage(task.id, task.fence, 0, b"[0]")], settled=[lost])

    assert desk.claim_one().outputs == [b"[0]"]


def test_nobody_keeps_stages_of_a_lease_that_is_gone(desk):
    desk.put()
    task = desk.claim_one()
    desk.end(task, State.RETRY_SCHEDULED)
    desk.claim_one()

    assert desk.turn(stages=[Stage(task.id, task.fence, 0, b"[0]")]).kept == []
    assert desk.store.story(task.id).outputs == []


def test_a_lock_is_one_runs_until_its_lease_goes(desk):
    desk.put(), desk.put()
    one, two = desk.claim()
    ask_one, ask_two = Lock(one.id, one.fence, "invoice:1"), Lock(two.id, two.fence, "invoice:1")

    assert desk.turn(locks=[ask_one, ask_two]).granted == [Held(one.id, one.fence)]
    assert desk.turn(locks=[ask_one]).granted == [Held(one.id, one.fence)]
    assert desk.store.story(one.id).locks == ["invoice:1"]
    assert desk.turn(settled=[desk.settlement(one)], locks=[ask_two, ask_one]).granted == [Held(two.id, two.fence)]
    assert desk.store.story(one.id).locks == []


def test_a_lock_is_free_when_its_run_was_lost_even_if_the_message_runs_again(desk):
    desk.put(), desk.put()
    one, two = desk.claim()
    desk.turn(locks=[Lock(one.id, one.fence, "l")])
    desk.end(one, State.RETRY_SCHEDULED, result=Result.LOST)
    again = desk.claim_one()

    assert desk.turn(locks=[Lock(one.id, one.fence, "l")]).granted == []
    assert desk.turn(locks=[Lock(two.id, two.fence, "l")]).granted == [Held(two.id, two.fence)]
    assert desk.turn(locks=[Lock(again.id, again.fence, "l")]).granted == []


def test_a_message_may_have_several_locks(desk):
    desk.put()
    task = desk.claim_one()

    assert len(desk.turn(locks=[Lock(task.id, task.fence, "l1"), Lock(task.id, task.fence, "l2")]).granted) == 2
    assert desk.store.story(task.id).locks == ["l1", "l2"]


def test_a_run_says_that_it_has_begun_and_how_far_it_is(desk):
    desk.put()
    task = desk.claim_one()
    held = Held(task.id, task.fence)
    before = desk.store.leases(desk.node.number)[0].began
    desk.turn(began=[held], progress=[(held, b'"half"')])

    assert (before, desk.store.leases(desk.node.number)[0].began) == (False, True)
    row = desk.row(task.id)
    assert (row.progress, row.worker, row.pid, row.leased) == (b'"half"', "jobs.1@h1", 100, desk.now)
    old = Held(task.id, task.fence - 1)
    desk.turn(began=[old], progress=[(old, b'"other"')])
    assert desk.row(task.id).progress == b'"half"'


# -- nodes


def test_a_node_keeps_its_number_and_its_generation_grows(desk):
    again = desk.store.register("h1/shop", desk.now, desk.now + 30_000)
    other = desk.store.register("h2", desk.now, desk.now + 30_000)

    assert (again.number, again.generation) == (desk.node.number, desk.node.generation + 1)
    assert other.number != again.number


def test_an_executor_is_the_same_by_slot_and_process(desk):
    enlist, node = desk.store.enlist, desk.node.number

    assert enlist(node, "jobs.1", 100, 7, desk.now) == desk.holder
    assert len({enlist(node, "jobs.1", 100, 8, desk.now), enlist(node, "jobs.2", 100, 7, desk.now), desk.holder}) == 3


def test_the_next_dispatcher_finds_what_the_last_one_held(desk):
    desk.put(max_attempts=4, notify="n")
    task = desk.claim_one()
    node = desk.store.register("h1/shop", desk.now, desk.now + 30_000)

    (lease,) = desk.store.leases(node.number)
    assert (lease.id, lease.fence, lease.kind, lease.holder) == (task.id, task.fence, "a", desk.holder)
    assert (lease.slot, lease.pid, lease.start, lease.node) == ("jobs.1", 100, 7, "h1/shop")
    assert (lease.counters, lease.stage, lease.max_attempts) == (task.counters, 0, 4)
    assert (lease.leased, lease.began, lease.notify) == (desk.now, False, "n")
    assert desk.end(task).stale == []
    assert desk.store.leases(node.number) == []


def test_leases_of_a_node_that_is_not_renewed_are_orphans(desk):
    desk.put()
    task = desk.claim_one()
    other = Desk(desk.store, "h2")

    assert other.store.orphans(desk.now + 30_000, 10) == []
    (lease,) = other.store.orphans(desk.now + 30_001, 10)
    assert (lease.id, lease.fence, lease.slot) == (task.id, task.fence, "jobs.1")
    other.turn(settled=[other.settlement(task, State.RETRY_SCHEDULED, result=Result.LOST)])
    assert other.store.orphans(desk.now + 30_001, 10) == []
    assert not desk.store.renew(desk.node.number, desk.now, desk.now + 60_000).known
    assert desk.claim() == []
    assert desk.end(task).stale == [Held(task.id, task.fence)]


def test_a_renewed_node_keeps_its_leases(desk):
    desk.put()
    desk.claim_one()

    assert desk.store.renew(desk.node.number, desk.now + 29_000, desk.now + 59_000).known
    assert desk.store.orphans(desk.now + 31_000, 10) == []


def test_a_node_that_was_declared_dead_begins_anew(desk):
    desk.store.orphans(desk.now + 30_001, 10)
    node = desk.store.register("h1/shop", desk.now + 30_002, desk.now + 60_000)

    assert desk.store.renew(node.number, desk.now + 30_003, desk.now + 60_000).known


def test_who_leaves_holds_nothing(desk):
    desk.put()
    task = desk.claim_one()
    desk.store.leave(desk.node.number, desk.now)

    assert not desk.store.renew(desk.node.number, desk.now, desk.now + 1_000).known
    assert [lease.id for lease in desk.store.orphans(desk.now, 10)] == [task.id]


def test_an_executor_that_was_idle_for_days_is_still_known(desk):
    desk.now += 2 * 86_400_000
    desk.store.renew(desk.node.number, desk.now, desk.now + 30_000)
    desk.store.sweep(desk.now, 100)
    desk.put()
    task = desk.claim_one()

    assert [(lease.slot, lease.pid, lease.start) for lease in desk.store.leases(desk.node.number)] == [
        ("jobs.1", 100, 7)
    ]
    assert desk.row(task.id).worker == "jobs.1@h1"


def test_the_newest_policy_of_a_kind_counts(desk):
    newer = KindPolicy("a", ("send", "apply"), max_attempts=9)
    desk.store.declare(desk.node.number, [newer], desk.now)

    assert desk.store.policies() == {"a": newer, "b": KindPolicy("b")}


# -- operators


def test_cancel_ends_what_waits_and_marks_what_runs(desk):
    running = desk.put("b")
    desk.claim_one()
    now, later = desk.put(), desk.put(delay=50)
    ended = [now.id, later.id]

    waiting, marked = desk.store.cancel([*ended, running.id, 4711], "me", desk.now)

    assert (sorted(waiting), marked) == (ended, [running.id])
    assert {desk.state(id) for id in ended} == {State.CANCELLED}
    assert desk.row(running.id).cancelling
    assert desk.store.renew(desk.node.number, desk.now, desk.now + 9_000).cancels == [Held(running.id, 1)]
    assert [(deed.actor, deed.verb) for deed in desk.store.story(now.id).deeds] == [("me", "cancel")]
    assert desk.store.cancel(ended, "me", desk.now) == ([], [])
    assert desk.claim() == []


@pytest.mark.parametrize("state", [State.QUEUED, State.RETRY_SCHEDULED, State.WAITING_REMOTE, State.BLOCKED])
def test_a_run_that_was_cancelled_is_not_run_again_whatever_it_came_to(desk, state):
    receipt = desk.put(unique="u")
    task = desk.claim_one()
    desk.store.cancel([task.id], "me", desk.now)
    desk.end(task, state, due=desk.now, reason="why", result=Result.ERROR)

    row = desk.row(receipt.id)
    assert (row.state, row.reason, row.finished, row.cancelling) == (State.CANCELLED, "", desk.now, False)
    assert [attempt.result for attempt in desk.store.story(task.id).attempts] == [Result.ERROR]
    assert desk.store.renew(desk.node.number, desk.now, desk.now + 9_000).cancels == []
    assert desk.claim() == []
    assert desk.put(unique="u").created


def test_a_cancelled_run_that_was_done_in_time_is_done(desk):
    desk.put()
    task = desk.claim_one()
    desk.store.cancel([task.id], "me", desk.now)
    desk.end(task)

    assert desk.state(task.id) is State.SUCCEEDED


def test_retry_queues_dead_letters_again_with_what_they_have_finished(desk):
    receipt = desk.put(unique="u")
    task = desk.claim_one()
    desk.turn(stages=[Stage(task.id, task.fence, 0, b"[0]")])
    desk.kill(task, counters=Counters(1, 1, 2, 3), stage=1)

    assert desk.store.retry([task.id, 4711], "me", desk.now + 1) == [task.id]
    desk.now += 1
    row = desk.row(task.id)
    assert (row.state, row.guid, row.due, row.counters) == (State.QUEUED, receipt.guid, desk.now, Counters(1))
    assert (row.reason, row.finished, row.stage) == ("", 0, 1)
    again = desk.claim_one()
    assert (again.fence, again.counters, again.stage, again.outputs) == (2, Counters(2, 1), 1, [b"[0]"])
    assert [deed.verb for deed in desk.store.story(task.id).deeds] == ["retry"]


def test_retry_has_no_retry_wait(desk):
    desk.put()
    task = desk.claim_one()
    desk.end(task, State.RETRY_SCHEDULED, due=desk.now + 10_000)

    assert desk.store.retry([task.id], "me", desk.now) == [task.id]
    again = desk.claim_one()
    assert again.counters == Counters(2, 2)


def test_what_has_succeeded_or_runs_is_not_retried(desk):
    desk.put()
    task = desk.claim_one()

    assert desk.store.retry([task.id], "me", desk.now) == []
    desk.end(task)
    assert desk.store.retry([task.id], "me", desk.now) == []


def test_no_retry_makes_two_of_one_unique_key(desk):
    dead = desk.put(unique="u")
    desk.kill(desk.claim_one())
    living = desk.put(unique="u")

    assert desk.store.retry([dead.id], "me", desk.now) == []
    desk.store.cancel([living.id], "me", desk.now)
    assert desk.store.retry([dead.id], "me", desk.now) == [dead.id]
    assert desk.put(unique="u").id == dead.id


def test_a_clone_is_another_message_of_the_same_arguments(desk):
    original = desk.put("a", b"[1]", payload=b"p", priority=3, key="k", notify="n", routing=Routing(tracking_id="t"))
    desk.end(desk.claim_one())

    clone, none = desk.store.clone([original.id, 4711], "me", desk.now)

    row = desk.row(clone.id)
    assert clone.created
    assert clone.guid != original.guid
    assert (row.args, row.priority, row.parent_id, row.notify, row.tracking_id) == (b"[1]", 3, original.id, "n", "t")
    assert (row.key, row.state, desk.store.payload(clone.id)) == ("", State.QUEUED, b"p")
    assert (none.id, bool(none.refused)) == (0, True)
    assert [deed.verb for deed in desk.store.story(clone.id).deeds] == ["clone"]


def test_purge_deletes_what_has_ended_and_nothing_else(desk):
    ended = desk.put(payload=b"p", key="k")
    task = desk.claim_one()
    desk.turn(stages=[Stage(task.id, task.fence, 0, b"[0]")])
    desk.end(task)
    waiting = desk.put("b")

    assert desk.store.purge([ended.id, waiting.id, 4711], "me", desk.now) == [ended.id]
    assert desk.store.story(ended.id) is None
    assert desk.store.payload(ended.id) == b""
    assert [row.id for row in desk.store.find(Filter(), 10)] == [waiting.id]
    assert desk.put().id > waiting.id


def test_numbers_are_not_used_again(desk):
    last = desk.put()
    desk.store.cancel([last.id], "me", desk.now)
    desk.store.purge([last.id], "me", desk.now)

    assert desk.put().id > last.id


def test_those_that_have_ended_can_be_asked_for(desk):
    done, waiting = desk.put(), desk.put(priority=90)
    desk.end(desk.claim(1)[0], body=b"1")

    rows = desk.store.ended([done.id, waiting.id, 4711])

    assert [(row.id, row.state, row.result) for row in rows] == [(done.id, State.SUCCEEDED, b"1")]


def test_controls_are_kept_for_kinds_that_nobody_has_seen(desk):
    said = Control("new", paused=True, max_running=3, by="me", at=desk.now, reason="why")
    desk.store.control(said)

    assert desk.store.controls() == [said]
    assert desk.store.renew(desk.node.number, desk.now, desk.now + 9_000).controls == [said]
    desk.put("new")
    assert desk.claim(kinds=["new"]) == []


# -- asking


@pytest.fixture
def shelf(desk):
    """Messages of all sorts, by name."""
    ids = {
        "done": desk.put("a", b'{"document_id":5000}').id,
        "dead": desk.put("a", b'{"document_id":5001,"order":{"id":"x"}}').id,
        "retried": desk.put("b", b'{"document_id":"5000","items":[{"n":1}]}').id,
    }
    tasks = {task.id: task for task in desk.claim()}
    desk.end(tasks[ids["done"]])
    failed = desk.attempt(tasks[ids["dead"]], Result.REJECTED, fault=Fault.FINAL, text="bad")
    desk.end(tasks[ids["dead"]], State.DEAD_LETTER, reason="rejected", attempt=failed)
    desk.end(tasks[ids["retried"]], State.RETRY_SCHEDULED)
    desk.end(desk.claim_one(), State.RETRY_SCHEDULED, due=desk.now + 60_000)
    ids["broken"] = desk.put("b", b"no json").id
    ids["running"] = desk.put("a", b"[]", priority=1).id
    desk.claim(1)
    ids["delayed"] = desk.put("a", b"{}", delay=50_000).id
    desk.shelf = ids
    return desk


@pytest.mark.parametrize(
    ("filter", "names"),
    [
        (Filter(), {"done", "dead", "retried", "broken", "running", "delayed"}),
        (Filter(states=(State.QUEUED,)), {"broken", "delayed"}),
        (Filter(states=(State.RUNNING, State.DEAD_LETTER)), {"running", "dead"}),
        (Filter(states=(State.RETRY_SCHEDULED,), kinds=("b",)), {"retried"}),
        (Filter(states=(State.BLOCKED,)), set()),
        (Filter(kinds=("b",)), {"retried", "broken"}),
        (Filter(kinds=("nobody",)), set()),
        (Filter(kinds=("nobody",), states=(State.QUEUED,)), set()),
        (Filter(fault="final"), {"dead"}),
        (Filter(reason="rejected"), {"dead"}),
        (Filter(runs_over=1), {"retried"}),
        (Filter(runs_over=0), {"done", "dead", "retried", "running"}),
        (Filter(where=(("document_id", 5000),)), {"done"}),
        (Filter(where=(("document_id", "5000"),)), {"retried"}),
        (Filter(where=(("order.id", "x"), ("document_id", 5001))), {"dead"}),
        (Filter(where=(("items.0.n", 1),)), {"retried"}),
        (Filter(where=(("items.0.n", True),)), set()),
        (Filter(where=(("nothing", None),)), set()),
        (Filter(older=5_000_000), {"done", "dead", "retried", "broken", "running", "delayed"}),
        (Filter(newer=5_000_000), set()),
        (Filter(older=1, newer=100_000_000, kinds=("b",)), {"retried", "broken"}),
    ],
)
def test_filters_select(shelf, filter, names):
    found = [row.id for row in shelf.store.find(filter, 100)]

    assert found == sorted(shelf.shelf[name] for name in names)
    assert shelf.store.count(filter) == len(names)


def test_messages_can_be_named_by_number_and_by_guid(shelf):
    done, dead = shelf.shelf["done"], shelf.shelf["dead"]
    guid = shelf.row(dead).guid

    assert [row.id for row in shelf.store.find(Filter(ids=(done,), guids=(guid, "none")), 9)] == [done, dead]
    assert shelf.store.count(Filter(ids=(done,), kinds=("b",))) == 0


def test_rows_come_in_pages(shelf):
    first = shelf.store.find(Filter(), 4)
    rest = shelf.store.find(Filter(), 4, after=first[-1].id)

    assert [row.id for row in first + rest] == sorted(shelf.shelf.values())


def test_numbers_of_every_kind(shelf):
    shelf.store.control(Control("b", paused=True, max_running=7))
    shelf.put("unhandled")
    tallies = {tally.kind: tally for tally in shelf.store.stats(shelf.now + 100)}

    assert tallies["a"].states == {
        State.SUCCEEDED: 1,
        State.DEAD_LETTER: 1,
        State.RUNNING: 1,
        State.QUEUED: 1,
    }
    assert tallies["b"].states == {State.RETRY_SCHEDULED: 1, State.QUEUED: 1}
    assert (tallies["a"].oldest, tallies["b"].oldest) == (0, 100)
    assert (tallies["b"].paused, tallies["b"].max_running) == (True, 7)
    assert (tallies["a"].handled, tallies["unhandled"].handled) == (True, False)


def test_a_kind_is_not_handled_when_its_host_is_gone(desk):
    desk.store.leave(desk.node.number, desk.now)

    assert [tally.handled for tally in desk.store.stats(desk.now)] == [False, False]


def test_there_is_no_story_of_nothing(desk):
    assert desk.store.story(4711) is None


# -- housekeeping


def test_what_waits_beyond_its_deadline_is_dead_and_told(desk):
    expiring, fine = desk.put(deadline=desk.now + 100, notify="ops"), desk.put(deadline=desk.now + 9_000)
    silent = desk.put(deadline=desk.now + 100, delay=50_000)

    assert desk.store.sweep(desk.now + 50, 10).expired == 0
    assert desk.store.sweep(desk.now + 101, 10).expired == 2
    assert (desk.state(expiring.id), desk.row(expiring.id).reason) == (State.DEAD_LETTER, "expired")
    assert (desk.state(silent.id), desk.state(fine.id)) == (State.DEAD_LETTER, State.QUEUED)
    assert len(desk.store.story(expiring.id).notices) == 1
    assert desk.store.story(silent.id).notices == []
    assert desk.store.sweep(desk.now + 200, 10).expired == 0
    assert [task.id for task in desk.claim()] == [fine.id]


def test_a_run_is_left_to_its_end(desk):
    desk.put(deadline=desk.now + 100)
    task = desk.claim_one()

    assert desk.store.sweep(desk.now + 101, 10).expired == 0
    desk.now += 102
    desk.end(task, State.RETRY_SCHEDULED, due=desk.now + 50_000)
    assert desk.store.sweep(desk.now + 5_000, 10).expired == 1


def test_a_deadline_may_only_be_told_of(desk):
    receipt = desk.put(deadline=desk.now + 100, on_deadline="alert", notify="ops")

    assert desk.store.sweep(desk.now + 101, 10).alerted == 1
    assert desk.store.sweep(desk.now + 202, 10).alerted == 0
    assert len(desk.store.story(receipt.id).notices) == 1
    assert desk.state(receipt.id) is State.QUEUED


def test_an_expired_message_can_be_retried(desk):
    receipt = desk.put(deadline=desk.now + 100)
    desk.store.sweep(desk.now + 101, 10)
    desk.now += 200
    desk.store.retry([receipt.id], "me", desk.now)

    assert desk.store.sweep(desk.now + 1, 10).expired == 0
    assert desk.claim_one().id == receipt.id


def test_ends_are_kept_as_long_as_their_kind_says(desk):
    policies = [KindPolicy("a", keep=10, keep_dead=100), KindPolicy("b", keep=-1)]
    desk.store.declare(desk.node.number, policies, desk.now)
    done, dead, forever = desk.put(), desk.put(), desk.put("b")
    one, two, three = desk.claim()
    desk.end(one), desk.kill(two), desk.end(three)

    assert desk.store.sweep(desk.now + 9_000, 10).removed == 0
    assert desk.store.sweep(desk.now + 11_000, 10).removed == 1
    assert desk.state(done.id) is None
    assert desk.store.sweep(desk.now + 101_000, 10).removed == 1
    assert desk.state(dead.id) is None
    assert desk.store.sweep(desk.now + 9_000_000, 10).removed == 0
    assert desk.state(forever.id) is State.SUCCEEDED


def test_housekeeping_goes_in_steps(desk):
    for _ in range(5):
        desk.put(deadline=desk.now + 1)

    assert [desk.store.sweep(desk.now + 2, 2).expired for _ in range(4)] == [2, 2, 1, 0]


# -- durability


@pytest.mark.parametrize("name", [name for name in STORES if name != "memory"])
def test_everything_is_there_after_it_was_opened_again(name):
    with quick_folder() as folder:
        store = make_store(name, Path(folder))
        store.open()
        desk = Desk(store)
        desk.put(delay=100), desk.put("b", key="k"), desk.put("b", unique="u")
        task = desk.claim(1)[0]
        store.control(Control("a", paused=True, by="me", at=desk.now))
        before = store.find(Filter(), 10)
        store.close()
        store.open()

        assert store.find(Filter(), 10) == before
        assert [lease.id for lease in store.leases(desk.node.number)] == [task.id]
        assert store.controls()[0].paused
        assert store.migrate() == []
        assert not desk.put("b", key="k").created
        store.close()


def lease_of(desk, id):
    return next(lease for lease in desk.store.leases(desk.node.number) if lease.id == id)
