"""What runs come to, and what is said of them; the executor is a real process, over a real socket."""

import contextlib
import re
import time

import pytest

from bkd.ipc.durable.model import Fault, Result
from bkd.ipc.durable.wire import Began, Cancel, Held, Outcomes

from .dispatcher import Dispatcher, Executor, task


def test_it_says_who_it_is_and_what_it_can_run(start):
    executor, _, enlist = start(concurrency=3)

    assert (enlist.slot, enlist.group, enlist.pid) == ("jobs.1", "jobs", executor.pid)
    assert (enlist.mode, enlist.credit, enlist.holds, enlist.draining) == ("shared", 3, [], False)
    kinds = {policy.name: policy for policy in enlist.kinds}
    assert kinds["staged"].stages == ("send", "apply")
    assert "alone" not in kinds


def test_handlers_of_one_mode_are_offered_there_alone(start):
    _, connection, enlist = start(mode="exclusive")

    assert enlist.credit == 1
    assert "alone" in {policy.name for policy in enlist.kinds}
    assert connection.outcome(task(1, "alone")).body == b'"alone"'


def test_results_come_back(shared):
    _, connection = shared

    before = time.time() * 1000 - 1
    outcome = connection.outcome(task(1, "add", {"a": 2, "b": 3}))

    assert (outcome.result, outcome.body, outcome.fence) == (Result.OK, b"5", 1)
    assert before <= outcome.started <= outcome.ended <= time.time() * 1000 + 1
    assert connection.outcome(task(2, "nothing")).body == b"null"
    assert b"MainThread" not in connection.outcome(task(3, "plain")).body


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
@pytest.mark.parametrize(
    ("word", "result", "fault", "code", "text", "after"),
    [
        ("retry", Result.RETRY, None, "Retry", "later", 7000),
        ("retry-returned", Result.RETRY, None, "Retry", "", 3000),
        ("reject", Result.REJECTED, Fault.FINAL, "Reject", "no such invoice", -1),
        ("invalid", Result.INVALID, Fault.FINAL, "Invalid", "no such entity", -1),
        ("snooze", Result.SNOOZED, None, "Snooze", "", 2000),
        ("error", Result.ERROR, Fault.RETRYABLE, "ValueError", "out of order", -1),
        ("exit", Result.ERROR, Fault.RETRYABLE, "SystemExit", "3", -1),
        ("large", Result.ERROR, Fault.FINAL, "ResultError", "70,002 bytes", -1),
        ("object", Result.ERROR, Fault.FINAL, "ResultError", "cannot be kept as JSON", -1),
    ],
)
def test_what_a_handler_says(said, mode, word, result, fault, code, text, after):
    outcome = said[mode, word]

    assert (outcome.result, outcome.fault, outcome.code, outcome.after) == (result, fault, code, after)
    assert text in outcome.text
    assert ("says" in outcome.stack) == (result is Result.ERROR and code != "ResultError")


@pytest.fixture(scope="module")
def said(zygote, tmp_path_factory):
    """What both modes make of each word."""
    words = ["retry", "retry-returned", "reject", "invalid", "snooze", "error", "exit", "large", "object"]
    outcomes = {}
    for mode in ("shared", "exclusive"):
        with contextlib.closing(Dispatcher(tmp_path_factory.mktemp(mode) / "messages.sock")) as dispatcher:
            executor = Executor(zygote, dispatcher.path, mode=mode)
            connection, _ = dispatcher.accept()
            connection.run(*(task(number, "says", {"word": word}) for number, word in enumerate(words)))
            found = connection.outcomes(len(words))
            outcomes |= {(mode, word): found[number] for number, word in enumerate(words)}
            executor.close()
    return outcomes


def test_arguments_are_checked_on_every_run(shared):
    _, connection = shared

    for number, args in enumerate([{}, {"a": "2"}, {"a": 2, "c": 3}, [1]]):
        outcome = connection.outcome(task(number, "add", args))
        assert (outcome.result, outcome.fault, outcome.started) == (Result.INVALID, Fault.FINAL, 0)
    assert connection.outcome(task(9, "add", {"a": 1})).body == b"2"


def test_errors_are_classed_by_the_kind_and_else_by_the_common_table(shared):
    _, connection = shared

    classes = {}
    for number, error in enumerate(["value", "permission", "key", "os"]):
        outcome = connection.outcome(task(number, "classed", {"error": error}))
        classes[error] = outcome.result, outcome.fault

    assert classes == {
        "value": (Result.ERROR, Fault.FINAL),
        "permission": (Result.ERROR, Fault.AUTH),
        "key": (Result.LOCKED, Fault.LOCK),
        "os": (Result.ERROR, Fault.RETRYABLE),
    }


def test_no_more_run_at_once_than_there_is_credit_for(start):
    executor, connection, _ = start(concurrency=2)

    connection.run(*(task(number, "sleep", {"seconds": 30}) for number in range(3)))

    assert connection.hear(Began).holds == [Held(0, 1), Held(1, 1)]
    assert executor.load() == {"load": [2, pytest.approx(0, abs=5), 0], "work": ["sleep 0", "sleep 1"]}
    connection.say(Cancel(0, 1, "cancelled"))
    connection.began(2)


def test_many_outcomes_travel_together(shared):
    executor, connection = shared

    connection.run(*(task(number, "nothing") for number in range(500)))
    outcomes = connection.outcomes(500)

    assert {outcome.result for outcome in outcomes.values()} == {Result.OK}
    frames = [frame for frame in connection.heard if isinstance(frame, Outcomes)]
    assert len(frames) < 250  # a frame of its own for each would be 500
    assert executor.load()["load"][2] == 500


def test_in_exclusive_mode_handlers_have_the_main_thread_for_themselves(exclusive):
    _, connection = exclusive
    connection.run(task(1, "main"), task(2, "own-loop"), task(3, "sleep", {"seconds": 0.01}), task(4, "nothing"))
    outcomes = connection.outcomes(4)

    assert [outcomes[id].body for id in (1, 2, 3, 4)] == [b"true", b'"looped"', b'"slept"', b"null"]


def test_the_log_says_which_message_failed(shared):
    executor, connection = shared
    connection.run(task(7, "says", {"word": "error"}), task(8, "add", {"a": "secret"}), task(9, "nothing"))
    connection.outcomes(3)
    executor.drain()

    log = executor.said()
    assert "says 7 #1 error: ValueError: out of order\nTraceback" in log
    assert "add 8 #1 invalid: ValidationError: Expected `int`, got `str`" in log
    assert "secret" not in log
    assert "nothing 9" not in log


def test_at_the_lowest_level_it_says_what_each_run_was_given_and_came_to(start):
    executor, connection, _ = start(level="TRACE")
    connection.run(task(9, "add", {"a": 1}))
    connection.outcomes()
    executor.drain()

    log = executor.said()
    assert 'add 9 #1 begins: {"a":1}' in log
    assert re.search(r"add 9 #1 ok after \d", log)


def test_modules_without_handlers_are_refused(zygote, dispatcher):
    executor = Executor(zygote, dispatcher.path, handlers=["json"])
    with contextlib.closing(executor):
        assert "none of the modules json declares a handler for mode shared" in executor.said()
