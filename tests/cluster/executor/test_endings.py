"""How runs are cancelled, and how an executor drains and ends."""

import time
from pathlib import Path

import pytest

from bkd.ipc.durable.model import Result
from bkd.ipc.durable.wire import Cancel, GivenBack, Held, Outcomes, Retiring, Stored

from .dispatcher import task


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
@pytest.mark.parametrize(("why", "result"), [("cancelled", Result.CANCELLED), ("timeout", Result.TIMEOUT)])
def test_async_handlers_are_interrupted(start, mode, why, result):
    _, connection, _ = start(mode=mode)
    connection.run(task(1, "sleep", {"seconds": 30}))
    connection.began(1)

    connection.say(Cancel(1, 1, why))

    outcome = connection.outcomes()[1]
    assert (outcome.result, outcome.code) == (result, why)
    assert outcome.started
    assert connection.outcome(task(2, "nothing")).result is Result.OK


def test_what_waits_is_cancelled_without_having_run(start):
    _, connection, _ = start(concurrency=1)
    connection.run(task(1, "sleep", {"seconds": 30}), task(2, "nothing"))
    connection.began(1)

    connection.say(Cancel(2, 1, "cancelled"))

    outcome = connection.outcomes()[2]
    assert (outcome.result, outcome.started) == (Result.CANCELLED, 0)


def test_plain_handlers_can_look_whether_they_are_cancelled(shared, tmp_path):
    _, connection = shared
    connection.run(task(1, "thread-block", {"path": str(tmp_path / "never")}))
    connection.began(1)

    connection.say(Cancel(1, 1, "timeout"))

    assert connection.outcomes()[1].result is Result.TIMEOUT


def test_a_handler_that_is_done_all_the_same_is_done(shared, tmp_path):
    _, connection = shared
    connection.run(task(1, "stubborn", {"path": str(tmp_path / "go")}))
    connection.began(1)
    connection.say(Cancel(1, 1, "timeout"))
    (tmp_path / "go").touch()

    assert connection.outcomes()[1].result is Result.OK


def test_draining_gives_back_what_has_not_begun(start, tmp_path):
    executor, connection, _ = start(concurrency=1)
    blocking = task(1, "thread-block", {"path": str(tmp_path / "go")})
    connection.run(blocking, task(2, "nothing"), task(3, "nothing"))
    connection.began(1)

    executor.drain()

    assert connection.hear(Retiring).unbegun == [Held(2, 1), Held(3, 1)]
    connection.run(task(4, "nothing"))
    assert connection.hear(Retiring).unbegun == [Held(4, 1)]
    (tmp_path / "go").touch()
    assert connection.hear(Outcomes).outcomes[0].body == b'"went on"'
    assert Path(f"/proc/{executor.pid}").exists()
    connection.say(Stored(1))
    assert executor.code() == 0


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
@pytest.mark.parametrize("blocking", ["thread-block", "block"])
def test_what_waits_behind_long_runs_is_given_back(start, mode, blocking, tmp_path):
    _, connection, _ = start(mode=mode, concurrency=1)
    connection.run(task(1, blocking, {"path": str(tmp_path / "go")}), task(2, "nothing"), task(3, "nothing"))
    connection.began(1)

    assert connection.hear(GivenBack).unbegun == [Held(2, 1), Held(3, 1)]

    connection.run(task(4, "nothing"))
    assert connection.hear(GivenBack).unbegun == [Held(4, 1)]
    (tmp_path / "go").touch()
    assert connection.outcomes()[1].result is Result.OK
    assert connection.outcome(task(2, "nothing", fence=2)).result is Result.OK


def test_what_drains_says_so_to_the_next_dispatcher(start, dispatcher, tmp_path):
    executor, connection, _ = start(concurrency=1)
    connection.run(task(1, "thread-block", {"path": str(tmp_path / "go")}), task(2, "nothing"))
    connection.began(1)
    executor.drain()
    connection.hear(Retiring)
    connection.close()

    connection, enlist = dispatcher.accept()

    assert (enlist.draining, enlist.holds) == (True, [Held(1, 1)])
    (tmp_path / "go").touch()
    connection.outcomes()
    assert executor.code() == 0


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_sigterm_interrupts_what_runs(start, mode):
    executor, connection, _ = start(mode=mode, concurrency=1)
    connection.run(task(1, "sleep", {"seconds": 30}), task(2, "nothing"))
    connection.began(1)
    began = time.monotonic()

    executor.terminate()

    assert connection.hear(Retiring).unbegun == [Held(2, 1)]
    outcome = connection.outcomes()[1]
    assert (outcome.result, outcome.code) == (Result.INTERRUPTED, "interrupted")
    assert executor.hear() == {"terminated": True}
    assert executor.code() == 0
    assert time.monotonic() - began < 15.0  # half of what it would have slept


def test_sigterm_interrupts_a_plain_handler_in_the_main_thread(exclusive, tmp_path):
    executor, connection = exclusive
    connection.run(task(1, "stubborn", {"path": str(tmp_path / "never")}))
    connection.began(1)

    executor.terminate()

    assert connection.outcomes()[1].result is Result.INTERRUPTED
    assert executor.code() == 0


def test_a_thread_that_does_not_end_keeps_no_executor(shared, tmp_path):
    """Nothing is said of it: it may be running until the very end."""
    executor, connection = shared
    connection.run(task(1, "stubborn", {"path": str(tmp_path / "never")}))
    connection.began(1)

    executor.terminate()

    assert connection.hear(Retiring) == Retiring([])
    assert connection.hear(Outcomes) is None
    assert executor.code() == 0


def test_sigterm_ends_one_that_idles(exclusive):
    executor, connection = exclusive
    executor.terminate()

    assert connection.hear(Retiring) == Retiring([])
    assert executor.code() == 0
