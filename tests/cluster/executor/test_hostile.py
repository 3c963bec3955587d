"""Handlers that harm nobody but themselves: whatever they do comes to an outcome, and the next message runs."""

import contextlib

import pytest

from bkd.ipc.durable.model import Fault, Result
from bkd.ipc.durable.wire import StageDone, StageKept

from .dispatcher import Executor, task

FAR = 1 << 53


@pytest.fixture(params=["shared", "exclusive"])
def connection(request, zygote, dispatcher):
    executor = Executor(zygote, dispatcher.path, handlers=["hostile"], mode=request.param)
    with contextlib.closing(executor):
        connection, _ = dispatcher.accept()
        executor.ready()
        yield connection


@pytest.mark.parametrize(
    ("kind", "result", "fault", "code"),
    [
        ("generator-exit", Result.ERROR, Fault.RETRYABLE, "GeneratorExit"),
        ("generator-exit-plain", Result.ERROR, Fault.RETRYABLE, "GeneratorExit"),
        ("untold", Result.ERROR, Fault.RETRYABLE, "untold"),
        ("long-name", Result.ERROR, Fault.RETRYABLE, "X" * 200),
        ("long-lock", Result.ERROR, Fault.RETRYABLE, "ValueError"),
        ("unsayable-lock", Result.ERROR, Fault.RETRYABLE, "UnicodeEncodeError"),
        ("stderr", Result.ERROR, Fault.RETRYABLE, "ValueError"),
        ("fork", Result.OK, None, ""),
        ("fork-plain", Result.OK, None, ""),
    ],
)
def test_it_comes_to_an_outcome_and_the_next_one_runs(connection, kind, result, fault, code):
    said = connection.outcome(task(1, kind))
    assert (said.result, said.fault, said.code) == (result, fault, code)
    assert said.body in (b"", b'"parent"')

    assert [connection.outcome(task(id, "ok")).result for id in (2, 3)] == [Result.OK] * 2


def test_a_moment_that_never_comes_is_one_that_can_be_said(connection):
    said = connection.outcome(task(1, "never"))

    assert (said.result, said.after) == (Result.RETRY, FAR)


def test_what_could_not_be_asked_is_not_asked_again(connection, dispatcher):
    connection.outcome(task(1, "unsayable-lock"))
    connection.close()

    again, _ = dispatcher.accept()

    assert again.outcome(task(2, "ok")).result is Result.OK


def test_stages_that_no_later_run_could_be_given_fail_at_once(connection):
    connection.run(task(1, "stages"))
    for stage in range(13):
        assert connection.hear(StageDone).stage == stage
        connection.say(StageKept(1, 1, stage))
    outcome = connection.outcomes()[1]

    assert (outcome.result, outcome.fault, outcome.code) == (Result.ERROR, Fault.FINAL, "ResultError")
    assert outcome.stage == 13
