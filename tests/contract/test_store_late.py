"""Ends that come too late, or from somebody whose lease it is not: told where they belong, and nothing else."""

import pytest

from bkd.ipc.durable.model import Result, State
from bkd.ipc.durable.wire import Held
from bkd.workers.store.protocol import Demand

from .desk import NEW


def held(task):
    return Held(task.id, task.fence)


def attempts(desk, task):
    return [(run.fence, run.result, run.late.partition(" ")[0]) for run in desk.store.story(task.id).attempts]


def claimed(desk):
    desk.put()
    return desk.claim_one()


def cancelled(desk, task):
    return desk.settlement(task, State.CANCELLED, result=Result.CANCELLED)


@pytest.mark.parametrize("turns", range(3))
def test_of_two_ends_in_one_turn_the_first_counts_whichever_it_is(desk, turns):
    task = claimed(desk)
    ends = [desk.settlement(task), cancelled(desk, task)]
    turned = desk.turn(settled=ends[turns % 2 :] + ends[: turns % 2])

    assert turned.stale == [held(task)]
    expected = (Result.CANCELLED, "ok") if turns % 2 else (Result.OK, "cancelled")
    assert attempts(desk, task) == [(1, *expected)]


def test_what_is_given_back_runs_again_in_the_turn_that_hears_of_its_end(desk):
    tasks = [claimed(desk) for _ in range(20)]
    back = [desk.settlement(task, State.QUEUED, counters=NEW, attempt=None, due=desk.now) for task in tasks]
    ends = [desk.settlement(task, body=b"1") for task in tasks]
    settled = [one for pair in zip(back, ends, strict=True) for one in pair]
    turned = desk.turn(settled=settled, demands=[Demand(("a",), (desk.holder,) * 20)])

    assert set(turned.stale) == {held(task) for task in tasks}
    again = turned.claimed[0]
    assert [(task.fence, task.counters.runs) for task in again] == [(2, 1)] * 20
    assert [attempts(desk, task) for task in again] == [[(1, Result.OK, "ok")]] * 20
    assert desk.turn(settled=[desk.settlement(task) for task in again]).stale == []


def test_of_several_late_ends_the_first_is_the_attempt_and_the_last_is_told(desk):
    task = claimed(desk)
    desk.give_back(task)
    turned = desk.turn(settled=[desk.settlement(task), cancelled(desk, task)])

    assert turned.stale == [held(task)] * 2
    assert attempts(desk, task) == [(1, Result.OK, "cancelled")]


@pytest.mark.parametrize("before", [True, False])
def test_who_does_not_hold_a_lease_changes_nothing_even_if_it_is_there(desk, before):
    task = claimed(desk)
    foreign = desk.settlement(task, State.DEAD_LETTER, reason="rejected", result=Result.REJECTED, late=True)

    assert desk.turn(settled=[foreign]).stale == [held(task)]
    assert (desk.state(task.id), attempts(desk, task)) == (State.RUNNING, [])
    own = desk.settlement(task)
    assert desk.turn(settled=[foreign, own] if before else [own, foreign]).stale == [held(task)]
    assert desk.state(task.id) is State.SUCCEEDED
    assert attempts(desk, task) == [(1, Result.OK, "" if before else "rejected")]


def test_an_end_of_before_is_recognised_though_it_says_that_it_is_late(desk):
    task = claimed(desk)
    desk.end(task)

    assert desk.turn(settled=[desk.settlement(task, late=True)]).stale == []
    assert attempts(desk, task) == [(1, Result.OK, "")]


@pytest.mark.parametrize("ahead", [1, 2])
def test_an_end_of_a_lease_that_nobody_had_is_no_attempt(desk, ahead):
    task = claimed(desk)
    fence = task.fence + ahead
    wrong = desk.settlement(task, fence=fence, attempt=desk.attempt(task, fence=fence))

    assert desk.turn(settled=[wrong]).stale == [Held(task.id, fence)]
    assert attempts(desk, task) == []
    for _ in range(ahead):
        desk.give_back(task)
        task = desk.claim_one()
    assert desk.end(task).stale == []
    assert attempts(desk, task) == [(fence, Result.OK, "")]
