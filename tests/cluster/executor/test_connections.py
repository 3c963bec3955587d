"""Dispatchers that go and come while an executor works, and beginnings."""

import contextlib
import signal
from pathlib import Path

from bkd.ipc.durable.model import Result
from bkd.ipc.durable.wire import Began, Held, Outcomes, Stored

from .dispatcher import Executor, task, until


def test_beginning_is_said_before_the_first_line_runs(shared):
    executor, connection = shared

    connection.run(task(1, "dies"))

    assert connection.hear(Began).holds == [Held(1, 1)]
    assert connection.hear() is None
    assert executor.code() == -signal.SIGKILL


def test_a_lost_dispatcher_costs_nothing(shared, dispatcher, tmp_path):
    """It reconnects while it runs, says what it holds, and repeats what nobody has confirmed."""
    _, connection = shared
    connection.run(task(1, "thread-block", {"path": str(tmp_path / "go")}), task(2, "nothing"))
    connection.outcomes(store=False)
    dispatcher.die()
    dispatcher.open()

    connection, enlist = dispatcher.accept()

    assert sorted(enlist.holds, key=lambda held: held.id) == [Held(1, 1), Held(2, 1)]
    assert connection.hear(Outcomes).outcomes[0].id == 2
    assert connection.hear(Began) == Began([Held(1, 1)])
    (tmp_path / "go").touch()
    assert connection.outcomes()[1].body == b'"went on"'


def test_an_outcome_is_repeated_under_its_number_until_it_is_stored(shared, dispatcher):
    _, connection = shared
    connection.run(task(1, "nothing"))
    first = connection.hear(Outcomes)
    for _ in range(2):
        connection.close()
        connection, enlist = dispatcher.accept()
        assert enlist.holds == [Held(1, 1)]
        assert connection.hear(Outcomes) == first
    connection.say(Stored(first.number))
    connection.outcome(task(2, "nothing"))
    connection.close()

    assert dispatcher.accept()[1].holds == []


def test_a_blocked_loop_keeps_the_connection_and_finds_the_next_one(shared, dispatcher, tmp_path):
    _, connection = shared
    connection.run(task(1, "block", {"path": str(tmp_path / "go")}))
    connection.began(1)
    connection.close()

    connection, enlist = dispatcher.accept()

    assert enlist.holds == [Held(1, 1)]
    assert connection.hear() == Began([Held(1, 1)])
    connection.run(task(2, "nothing"))
    (tmp_path / "go").touch()
    assert set(connection.outcomes(2)) == {1, 2}


def test_what_was_lost_meanwhile_is_cancelled_in_silence(start, dispatcher):
    _, connection, _ = start(concurrency=1)
    connection.run(task(1, "nothing"))
    connection.outcomes(store=False)
    connection.run(task(2, "sleep", {"seconds": 30}), task(3, "nothing"), task(4, "nothing"))
    connection.began(2)
    connection.close()

    connection, enlist = dispatcher.accept(lost=[Held(1, 1), Held(2, 1), Held(3, 1)])

    assert {held.id for held in enlist.holds} == {1, 2, 3, 4}
    assert set(connection.outcomes()) == {4}
    connection.close()
    assert dispatcher.accept()[1].holds == []


def test_a_blocked_main_thread_keeps_the_connection(exclusive, dispatcher, tmp_path):
    _, connection = exclusive
    connection.run(task(1, "stubborn", {"path": str(tmp_path / "go")}))
    connection.began(1)
    connection.close()

    connection, enlist = dispatcher.accept()

    assert enlist.holds == [Held(1, 1)]
    (tmp_path / "go").touch()
    assert connection.outcomes()[1].result is Result.OK


def test_a_quiet_one_is_ready_and_takes_no_work_before_it_may(zygote, dispatcher):
    executor = Executor(zygote, dispatcher.path, quiet=True)
    with contextlib.closing(executor):
        executor.ready()
        executor.order("serve")
        connection, _ = dispatcher.accept()
        assert connection.outcome(task(1, "nothing")).result is Result.OK


def test_it_waits_for_a_dispatcher_that_is_not_there_yet(zygote, dispatcher):
    dispatcher.die()
    executor = Executor(zygote, dispatcher.path)
    with contextlib.closing(executor):
        tasks = Path(f"/proc/{executor.pid}/task")
        until(lambda: len(list(tasks.iterdir())) > 2, "threads of the heartbeat and the courier")
        dispatcher.open()
        dispatcher.accept()
        executor.ready()
