"""Before the first line of a handler runs, the dispatcher has been told: a process that dies in it is known by that."""

import signal

from bkd.ipc.durable.model import Result
from bkd.ipc.durable.wire import Began, Held

from .dispatcher import task


def test_beginning_is_said_before_the_first_line_runs_in_the_main_thread(exclusive):
    executor, connection = exclusive

    connection.run(task(1, "dies"))

    assert connection.hear(Began).holds == [Held(1, 1)]
    assert connection.hear() is None
    assert executor.code() == -signal.SIGKILL


def test_of_several_only_the_one_that_runs_has_begun(exclusive):
    """What waits behind it in the main thread is not suspected when the process dies."""
    executor, connection = exclusive

    connection.run(task(1, "nothing"), task(2, "dies"), task(3, "nothing"))

    assert [connection.hear(Began).holds, connection.hear(Began).holds] == [[Held(1, 1)], [Held(2, 1)]]
    assert executor.code() == -signal.SIGKILL
    assert connection.outcomes(store=False)[1].result is Result.OK
