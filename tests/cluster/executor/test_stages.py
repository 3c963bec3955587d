"""What runs ask for and tell on their way: stages, locks, progress, payloads."""

import pytest

from bkd.ipc.durable.model import Counters, Fault, Result
from bkd.ipc.durable.wire import (
    Cancel,
    LockAnswered,
    LockAsked,
    PayloadAsked,
    PayloadPart,
    ProgressMade,
    StageDone,
    StageKept,
)

from .dispatcher import task


def test_stages_are_kept_and_not_run_twice(shared):
    _, connection = shared
    connection.run(task(1, "staged"))

    assert connection.hear(StageDone) == StageDone(1, 1, 0, b'"send {}"')
    connection.run(task(2, "nothing"))
    assert set(connection.outcomes()) == {2}
    connection.say(StageKept(1, 1, 0))
    outcome = connection.outcomes()[1]
    assert (outcome.result, outcome.fault, outcome.stage) == (Result.ERROR, Fault.RETRYABLE, 1)

    again = task(1, "staged", fence=2, counters=Counters(2, 2), stage=1, outputs=[b'"send {}"'])
    outcome = connection.outcome(again)
    assert (outcome.body, outcome.stage) == (b"\"apply {'send': 'send {}'}\"", 1)
    assert not [frame for frame in connection.waiting if isinstance(frame, StageDone)]


def test_a_stage_is_told_again_to_the_next_dispatcher(shared, dispatcher):
    _, connection = shared
    connection.run(task(1, "staged", counters=Counters(2, 2)))
    done = connection.hear(StageDone)
    connection.close()
    connection, _ = dispatcher.accept()

    assert connection.hear(StageDone) == done
    connection.say(StageKept(1, 1, 0), StageKept(1, 1, 0))
    assert connection.outcomes()[1].result is Result.OK


def test_a_run_whose_stage_is_not_kept_says_nothing_more(shared):
    _, connection = shared
    connection.run(task(1, "staged"))
    connection.hear(StageDone)
    connection.say(StageKept(1, 1, 0, held=False))

    assert connection.outcome(task(2, "nothing")).id == 2


@pytest.mark.parametrize("kind", ["locked", "plain-locked"])
@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_a_lock_is_asked_for_first(start, mode, kind):
    _, connection, _ = start(mode=mode, level="DEBUG")
    for id, granted in ((1, False), (2, True)):
        connection.run(task(id, kind, {"name": "invoice:7"}))
        assert connection.hear(LockAsked) == LockAsked(id, 1, "invoice:7")
        connection.say(LockAnswered(id, 1, "invoice:7", granted))
    outcomes = connection.outcomes(2)

    assert (outcomes[1].result, outcomes[1].fault, outcomes[1].started) == (Result.LOCKED, Fault.LOCK, 0)
    assert (outcomes[2].result, outcomes[2].body) == (Result.OK, b'"invoice:7"')


def test_no_lock_is_asked_for_without_a_key(shared):
    _, connection = shared

    assert connection.outcome(task(1, "locked", {"name": ""})).body == b'""'


@pytest.mark.parametrize("kind", ["locked", "plain-locked"])
def test_who_waits_for_a_lock_can_be_cancelled(shared, kind):
    _, connection = shared
    connection.run(task(1, kind, {"name": "invoice:7"}))
    connection.hear(LockAsked)

    connection.say(Cancel(1, 1, "cancelled"))

    assert connection.outcomes()[1].result is Result.CANCELLED


def test_progress_is_told_once_a_second(shared):
    _, connection = shared
    connection.run(task(1, "progress"))

    told = [connection.hear(ProgressMade).progress for _ in range(2)]

    assert told == [b'{"step":0}', b'{"step":4}']


@pytest.mark.parametrize("kind", ["payload", "plain-payload"])
@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_payloads_come_in_parts(start, mode, kind):
    _, connection, _ = start(mode=mode)
    connection.run(task(1, kind, payload=5))
    for offset, data in ((0, b"abc"), (3, b"de")):
        assert connection.hear(PayloadAsked) == PayloadAsked(1, 1, offset)
        connection.say(PayloadPart(1, offset, data, offset > 0))

    assert connection.outcomes()[1].body == b"5"
