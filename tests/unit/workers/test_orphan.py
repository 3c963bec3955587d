"""When workers without keeper and master leave."""

import math

import pytest

from bkd.ipc.message import DispatcherWork, FunctionWork, MessagesWork, WebWork
from bkd.workers.orphan import Orphan

EXECUTOR, DISPATCHER = MessagesWork(["tasks"], "shared", 10, "messages.sock"), DispatcherWork("memory:", ".", "h/a", [])


@pytest.mark.parametrize("timeout", [0.0, 0.5, 1.0, 3.0, 60.0, 600.0])
def test_an_executor_is_gone_at_the_limit_or_a_moment_later(timeout):
    limits = Orphan.of(EXECUTOR, timeout)

    assert limits.drain <= limits.term <= limits.kill
    assert limits.drain <= 1.0
    assert timeout <= limits.kill <= max(timeout, 2.0) + 1.0
    assert limits.kill - limits.term >= 2.0


def test_an_executor_has_most_of_the_time_for_what_it_runs():
    assert Orphan.of(EXECUTOR, 60.0) == (1.0, 58.0, 60.0)


@pytest.mark.parametrize("timeout", [0.0, 1.0, 60.0])
def test_the_dispatcher_outlives_all_others(timeout):
    executor, dispatcher = Orphan.of(EXECUTOR, timeout), Orphan.of(DISPATCHER, timeout)
    web, function = Orphan.of(WebWork("shop:app", [], 0.0, ""), timeout), Orphan.of(FunctionWork("clock:run"), timeout)

    assert web == function
    assert web.drain == timeout
    assert dispatcher.term >= max(executor.kill, web.term + 5.0)


def test_the_next_limit_is_waited_for():
    limits = Orphan(1.0, 4.0, 6.0)

    assert [limits.wait(alone) for alone in (0.0, 0.5, 1.0, 3.0, 5.5)] == [1.0, 0.5, 3.0, 1.0, 0.5]
    assert limits.wait(6.0) == math.inf
