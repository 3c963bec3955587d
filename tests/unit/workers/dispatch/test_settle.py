"""What becomes of a message after a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bkd.ipc.durable.model import ENDS, MOST_OUTPUT, Counters, Dead, Fault, Outcome, Result, State, Task
from bkd.ipc.durable.policy import Exponential, Fixed, KindPolicy
from bkd.workers.dispatch.settle import LEAST_SNOOZE, MOST_AUTHS, MOST_TEXT, Runner, settle, unbegun, unstorable

NOW = 1_800_000_000_000
POLICY = KindPolicy("invoice.send", schedule=Fixed(60.0), max_attempts=5, notify="ops@example.org")
GIVES_BACK = {Result.SNOOZED, Result.LOCKED, Result.INTERRUPTED}

COUNTERS = st.builds(
    lambda runs, shares: Counters(runs, *(max(1, runs // shares[0]), *(runs // share for share in shares[1:]))),
    st.integers(1, 10**6),
    st.lists(st.integers(1, 50), min_size=5, max_size=5),
)
TASKS = st.builds(
    Task,
    id=st.integers(1, 2**62),
    fence=st.integers(1, 2**62),
    kind=st.just("invoice.send"),
    args=st.just(b"{}"),
    counters=COUNTERS,
    guid=st.just("g"),
    stage=st.integers(0, 3),
    due=st.integers(0, 2 * NOW),
    leased=st.just(NOW - 5),
    deadline=st.sampled_from([0, NOW - 1000, NOW + 1000, 2 * NOW]),
    max_attempts=st.integers(0, 10),
    notify=st.sampled_from(["", "me@example.org"]),
)
OUTCOMES = st.builds(
    Outcome,
    id=st.just(1),
    fence=st.just(1),
    result=st.sampled_from(Result),
    stage=st.integers(0, 3),
    started=st.sampled_from([0, NOW - 4]),
    ended=st.sampled_from([0, NOW]),
    body=st.sampled_from([b"", b"1"]),
    fault=st.sampled_from([None, *Fault]),
    code=st.text(max_size=5),
    text=st.text(max_size=20),
    at=st.sampled_from([0, 1, NOW + 7000, 2**63 - 1]),
    after=st.sampled_from([-1, 0, 7000, 2**63 - 1]),
)
POLICIES = st.builds(
    KindPolicy,
    name=st.just("invoice.send"),
    schedule=st.just(Exponential()),
    max_attempts=st.integers(0, 10),
    max_crashes=st.integers(1, 4),
    max_locks=st.integers(0, 20),
    notify=st.sampled_from(["", "ops@example.org"]),
)
CHANCES = st.floats(0.0, 1.0, exclude_max=True)


def task(**more) -> Task:
    counters = more.pop("counters", Counters(runs=1, attempts=1))
    return Task(7, 3, "invoice.send", b"{}", counters, "g", leased=NOW - 5, **more)


def outcome(result: Result, **more) -> Outcome:
    return Outcome(7, 3, result, **more)


@given(TASKS, OUTCOMES, POLICIES, CHANCES)
def test_what_holds_for_every_settlement(task, outcome, policy, chance):
    found = settle(task, outcome, policy, NOW, chance)

    assert (found.id, found.fence) == (task.id, task.fence)
    assert found.attempt is not None and found.attempt.result in (outcome.result, Result.ERROR)
    assert found.counters.runs == task.counters.runs
    assert found.state in ENDS or found.state is State.BLOCKED or NOW <= found.due < 2**62
    assert (found.state is State.DEAD_LETTER) == (found.reason in set(Dead))
    assert found.stage >= task.stage
    assert not (found.state is State.RETRY_SCHEDULED and task.deadline > NOW and outcome.result is Result.RETRY) or (
        found.due <= task.deadline
    )


@given(TASKS, OUTCOMES, POLICIES, CHANCES)
def test_an_attempt_is_given_back_exactly_when_the_message_had_no_part_in_it(task, outcome, policy, chance):
    blameless = outcome.result in GIVES_BACK or (
        outcome.result is Result.ERROR and outcome.fault in (Fault.AUTH, Fault.LOCK)
    )

    found = settle(task, outcome, policy, NOW, chance)

    assert found.counters.attempts == task.counters.attempts - blameless


@given(TASKS, OUTCOMES, POLICIES, CHANCES)
def test_a_dead_letter_has_one_notice_if_somebody_is_to_be_told(task, outcome, policy, chance):
    found = settle(task, outcome, policy, NOW, chance)

    wanted = found.state is State.DEAD_LETTER and (task.notify or policy.notify)
    assert (found.notice is not None) == bool(wanted)
    if found.notice is not None:
        assert found.notice.to == (task.notify or policy.notify)
        assert found.notice.dedup == f"dead-{task.id}-{task.fence}"


@given(TASKS, CHANCES, st.sampled_from([Result.ERROR, Result.RETRY, Result.TIMEOUT]))
def test_no_message_has_attempts_without_limit(task, chance, result):
    last = replace(task, counters=replace(task.counters, attempts=task.max_attempts or POLICY.max_attempts))

    assert settle(last, outcome(result), POLICY, NOW, chance).reason == Dead.EXHAUSTED


def test_success_keeps_its_result():
    found = settle(task(), outcome(Result.OK, body=b'{"a":1}', started=NOW - 3, ended=NOW - 1), POLICY, NOW, 0.5)

    assert (found.state, found.result, found.due) == (State.SUCCEEDED, b'{"a":1}', 0)
    assert found.attempt is not None
    assert (found.attempt.started, found.attempt.ended, found.attempt.number) == (NOW - 3, NOW - 1, 1)


def test_a_part_that_failed_is_no_failure_of_the_whole():
    assert settle(task(), outcome(Result.PARTIAL, body=b"[]"), POLICY, NOW, 0.5).state is State.PARTIAL


def test_an_error_is_tried_again_by_schedule_and_then_no_more():
    again = settle(task(), outcome(Result.ERROR, code="ValueError", text="no"), POLICY, NOW, 0.5)
    last = settle(task(counters=Counters(5, 5)), outcome(Result.ERROR, code="ValueError", text="no"), POLICY, NOW, 0.5)

    assert (again.state, again.due, again.notice) == (State.RETRY_SCHEDULED, NOW + 60_000, None)
    assert (last.state, last.reason) == (State.DEAD_LETTER, Dead.EXHAUSTED)
    assert last.notice is not None and last.notice.text == "5 runs, 0 crashes; the last one: ValueError: no"


def test_max_attempts_of_the_message_beat_those_of_its_kind():
    assert settle(task(max_attempts=1), outcome(Result.ERROR), POLICY, NOW, 0.5).reason == Dead.EXHAUSTED


@pytest.mark.parametrize(
    ("result", "fault", "reason"),
    [
        (Result.REJECTED, None, Dead.REJECTED),
        (Result.ERROR, Fault.FINAL, Dead.REJECTED),
        (Result.INVALID, None, Dead.INVALID),
    ],
)
def test_what_is_final_is_not_tried_again(result, fault, reason):
    found = settle(task(), outcome(result, fault=fault), POLICY, NOW, 0.5)

    assert (found.state, found.reason, found.counters.attempts) == (State.DEAD_LETTER, reason, 1)


def test_the_handlers_own_moment_beats_the_schedule():
    assert settle(task(), outcome(Result.RETRY, at=NOW + 7000), POLICY, NOW, 0.5).due == NOW + 7000
    assert settle(task(), outcome(Result.RETRY, after=7000), POLICY, NOW, 0.5).due == NOW + 7000
    assert settle(task(), outcome(Result.RETRY, at=NOW - 7000), POLICY, NOW, 0.5).due == NOW


def test_a_retry_is_not_put_beyond_the_deadline():
    assert settle(task(deadline=NOW + 500), outcome(Result.ERROR), POLICY, NOW, 0.5).due == NOW + 500
    assert settle(task(deadline=NOW - 500), outcome(Result.ERROR), POLICY, NOW, 0.5).due == NOW + 60_000


def test_a_snooze_costs_nothing_but_cannot_spin():
    found = settle(task(), outcome(Result.SNOOZED, after=0), POLICY, NOW, 0.5)

    assert found.state is State.RETRY_SCHEDULED
    assert found.due == NOW + int(1000 * LEAST_SNOOZE)
    assert found.counters == Counters(runs=1, attempts=0)


def test_a_lock_that_is_taken_has_its_own_limit_and_waits_longer_each_time():
    found = [
        settle(task(counters=Counters(n + 1, 1, locks=n)), outcome(Result.LOCKED), POLICY, NOW, 0.5) for n in range(20)
    ]
    over = settle(task(counters=Counters(21, 1, locks=20)), outcome(Result.LOCKED), POLICY, NOW, 0.5)

    assert [one.counters.locks for one in found] == list(range(1, 21))
    assert [one.due for one in found] == sorted(one.due for one in found)
    assert (found[0].due, found[-1].due) == (NOW + 200, NOW + 5000)
    assert (over.state, over.reason) == (State.DEAD_LETTER, Dead.EXHAUSTED)


def test_without_a_session_it_waits_until_there_is_one_but_not_for_ever():
    once = settle(task(), outcome(Result.ERROR, fault=Fault.AUTH), POLICY, NOW, 0.5)
    often = settle(
        task(counters=Counters(4, 1, auths=MOST_AUTHS)), outcome(Result.ERROR, fault=Fault.AUTH), POLICY, NOW, 0.5
    )

    assert (once.state, once.reason, once.counters) == (State.BLOCKED, "auth", Counters(1, 0, auths=1))
    assert (often.state, often.reason) == (State.DEAD_LETTER, Dead.REJECTED)


def test_a_crash_is_counted_apart_and_the_third_one_is_the_last():
    lost = outcome(Result.LOST, text="SIGSEGV", started=NOW - 4)
    first = settle(task(), lost, POLICY, NOW, 0.5)
    third = settle(task(counters=Counters(3, 3, crashes=2)), lost, POLICY, NOW, 0.5)

    assert (first.state, first.counters) == (State.RETRY_SCHEDULED, Counters(1, 1, crashes=1))
    assert NOW < first.due <= NOW + 100
    assert (third.state, third.reason, third.counters.crashes) == (State.DEAD_LETTER, Dead.POISON, 3)
    assert third.notice is not None and "SIGSEGV" in third.notice.text
    assert third.attempt is not None and third.attempt.fault == "lost"


def test_a_lost_run_that_may_not_have_begun_is_an_attempt_and_no_crash():
    first = settle(task(), outcome(Result.LOST), POLICY, NOW, 0.5)
    last = settle(task(max_attempts=1), outcome(Result.LOST), POLICY, NOW, 0.5)

    assert (first.state, first.counters) == (State.RETRY_SCHEDULED, Counters(1, 1))
    assert (last.state, last.reason, last.counters.crashes) == (State.DEAD_LETTER, Dead.EXHAUSTED, 0)


def test_what_never_began_is_due_now_even_if_the_clock_was_set_back():
    assert unbegun(task(due=NOW + 3_600_000), NOW).due == NOW


def test_an_interrupted_run_begins_again_at_once_and_costs_nothing():
    found = settle(task(), outcome(Result.INTERRUPTED), POLICY, NOW, 0.5)

    assert (found.state, found.due, found.counters) == (State.QUEUED, NOW, Counters(1, 0))


def test_what_never_began_leaves_no_trace():
    found = unbegun(task(due=NOW - 100, stage=1), NOW)

    assert (found.state, found.due, found.stage) == (State.QUEUED, NOW - 100, 1)
    assert (found.counters, found.attempt) == (Counters(), None)


def test_a_result_over_the_limit_is_an_error_that_says_so():
    found = settle(task(), outcome(Result.OK, body=b"x" * (MOST_OUTPUT + 1)), POLICY, NOW, 0.5)

    assert (found.state, found.reason, found.result) == (State.DEAD_LETTER, Dead.REJECTED, b"")
    assert found.attempt is not None and "65537 bytes" in found.attempt.text


def test_texts_are_such_that_every_store_can_keep_them():
    found = settle(task(), outcome(Result.ERROR, text="a\0b" + "x" * MOST_TEXT, stack="\0"), POLICY, NOW, 0.5)

    assert found.attempt is not None
    assert len(found.attempt.text) == MOST_TEXT
    assert "\0" not in found.attempt.text + found.attempt.stack


def test_what_a_store_refuses_to_write_becomes_a_dead_letter_that_says_why():
    found = unstorable(settle(task(), outcome(Result.OK, body=b"1"), POLICY, NOW, 0.5), "no such column")

    assert (found.state, found.reason, found.result) == (State.DEAD_LETTER, Dead.REJECTED, b"")
    assert found.attempt is not None and found.attempt.text == "no such column"


def test_who_ran_it_is_recorded():
    found = settle(task(), outcome(Result.OK), POLICY, NOW, 0.5, Runner("jobs.1@h1", 42))

    assert found.attempt is not None and (found.attempt.worker, found.attempt.pid) == ("jobs.1@h1", 42)
