"""What a run comes to: results, words, errors and their classes, and the ends that others wanted."""

import logging
from datetime import UTC, datetime, timedelta

import pytest

from bkd.ipc.durable.model import MOST_OUTPUT, Counters, Fault, Result, Task
from bkd.ipc.durable.wire import Outcomes, packed
from bkd.ipc.errors import HeldError
from bkd.workers.messages.blocking import stepped
from bkd.workers.messages.course import course
from bkd.workers.messages.declaration import Declaration, Terms
from bkd.workers.messages.faults import classed, classifier
from bkd.workers.messages.run import Run
from bkd.workers.messages.words import Reject, Retry, Snooze


class Way:
    """Nobody is asked anything here."""

    async def call(self, run, value, context):
        return run.declaration.call(value, context)


def outcome(function, *, why="", **terms):
    """Of one run of a plain function."""
    run = Run(Task(1, 2, "kind", b"{}", Counters(3, 2), "guid"), Declaration("kind", function, Terms(**terms)))
    run.why = why
    return stepped(course(run, Way()))


def raises(error):
    def function():
        raise error

    return function


def test_a_result_is_kept_as_json():
    found = outcome(lambda: {"at": datetime(2026, 1, 2, tzinfo=UTC)})

    assert (found.result, found.body) == (Result.OK, b'{"at":"2026-01-02T00:00:00Z"}')
    assert found.ended >= found.started > 0


def test_a_result_may_be_as_large_as_it_may_be():
    assert outcome(lambda: "x" * (MOST_OUTPUT - 2)).result is Result.OK
    assert outcome(lambda: "x" * (MOST_OUTPUT - 1)).result is Result.ERROR


@pytest.mark.parametrize("value", [object(), {1j}, "\udcff", {"a": {"b": object()}}])
def test_what_cannot_be_kept_is_final(value):
    found = outcome(lambda: value)

    assert (found.result, found.fault, found.code) == (Result.ERROR, Fault.FINAL, "ResultError")


@pytest.mark.parametrize("said", [raises, lambda word: lambda: word])
def test_words_are_raised_or_returned(said):
    assert outcome(said(Retry("later"))).after == -1
    assert outcome(said(Retry(after=timedelta(seconds=2)))).after == 2000
    assert outcome(said(Retry(at=datetime.fromtimestamp(7, UTC)))).at == 7000
    assert outcome(said(Snooze("1m"))).after == 60_000
    assert outcome(said(Reject("no"))).text == "no"


def test_words_that_make_no_sense():
    with pytest.raises(ValueError, match="not both"):
        Retry(at=datetime.now(UTC), after=3)
    with pytest.raises(ValueError, match="time zone"):
        Retry(at=datetime(2026, 1, 2))
    with pytest.raises(ValueError, match="duration"):
        Snooze("soon")


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError(), OSError(), ValueError(), SystemExit()])
def test_errors_are_retryable_if_nobody_says_otherwise(error):
    assert (outcome(raises(error)).fault, outcome(raises(error)).result) == (Fault.RETRYABLE, Result.ERROR)


def test_a_lock_of_the_fleet_that_is_taken_is_a_lock():
    found = outcome(raises(HeldError("taken", 3.0)))

    assert (found.result, found.fault) == (Result.LOCKED, Fault.LOCK)


def test_the_table_of_a_kind_comes_first_and_the_nearest_class_counts():
    own = classifier({Exception: "final", LookupError: Fault.AUTH, ConnectionError: "retryable"})

    assert classed(ValueError(), own) is Fault.FINAL
    assert classed(KeyError(), own) is Fault.AUTH
    assert classed(BrokenPipeError(), own) is Fault.RETRYABLE
    assert classed(OSError(), own) is Fault.FINAL
    assert classed(SystemExit(), own) is Fault.RETRYABLE


def test_a_function_of_a_kind_may_leave_it_to_the_common_table():
    assert classed(KeyError(), lambda error: None) is Fault.RETRYABLE
    assert classed(KeyError(), lambda error: "final") is Fault.FINAL


@pytest.mark.parametrize("own", [lambda error: "what", lambda error: error.missing])
def test_a_function_that_fails_is_told_of_and_does_not_count(own, caplog):
    with caplog.at_level(logging.ERROR):
        assert classed(KeyError(), own) is Fault.RETRYABLE

    assert "classify= failed" in caplog.text


def test_errors_have_the_stack_of_the_application():
    def inner():
        raise ValueError("out of\norder")

    found = outcome(lambda: inner())

    assert (found.code, found.text) == ("ValueError", "out of\norder")
    assert found.stack.startswith("Traceback")
    assert "in inner" in found.stack
    assert "course.py" not in found.stack


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\udcff" * 10_000, "ä" * 500_000])
def test_whatever_is_raised_fits_into_a_frame(text):
    packed(Outcomes(1, [outcome(raises(ValueError(text)))]))
    packed(Outcomes(1, [outcome(raises(Reject(text)))]))


@pytest.mark.parametrize(
    ("why", "result", "fault"),
    [
        ("timeout", Result.TIMEOUT, Fault.RETRYABLE),
        ("cancelled", Result.CANCELLED, None),
        ("stopped", Result.INTERRUPTED, None),
    ],
)
def test_what_was_to_end_is_not_blamed_for_how_it_ends(why, result, fault):
    found = outcome(raises(RuntimeError("in the middle")), why=why, timeout="30s")

    assert (found.result, found.fault, found.stack) == (result, fault, "")
    assert outcome(lambda: 7, why=why).result is Result.OK


def test_nobody_wants_to_know_what_became_of_a_lost_one():
    assert outcome(raises(RuntimeError()), why="lost") is None


def test_a_lock_that_cannot_be_named_is_an_error():
    found = outcome(lambda: 7, lock=lambda args: 7)

    assert (found.result, found.code, found.started) == (Result.ERROR, "TypeError", 0)
