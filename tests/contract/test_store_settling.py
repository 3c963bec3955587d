"""How runs end, over every store, and what they keep on their way: stages, locks, words."""

import pytest

from bkd.ipc.durable.model import Counters, Notice, Result, State
from bkd.ipc.durable.wire import Held
from bkd.workers.store.protocol import Demand, Filter, Lock, Stage

from .desk import NEW


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
