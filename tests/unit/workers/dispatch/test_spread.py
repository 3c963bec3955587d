"""Retries that failed together do not come back together: chance decides within the share of the schedule."""

from bkd.ipc.durable.model import Counters, Outcome, Result, Task
from bkd.ipc.durable.policy import Exponential, KindPolicy
from bkd.workers.dispatch.delay import due
from bkd.workers.dispatch.settle import AFTER_CRASH, BUSY_LOCK, settle

NOW = 1_800_000_000_000


def delays(schedule, retry=3):
    return [due(schedule, retry, NOW, chance) - NOW for chance in (0.0, 0.5, 0.999999)]


def test_chance_moves_a_retry_by_the_whole_share():
    assert delays(Exponential(first=1, cap=100, factor=2, jitter=0.25)) == [3000, 4000, 4999]


def test_without_a_share_chance_moves_nothing():
    assert delays(Exponential(first=1, cap=100, factor=2, jitter=0)) == [4000, 4000, 4000]


def test_by_default_and_after_crashes_and_locks_retries_are_spread():
    for schedule in (Exponential(), AFTER_CRASH, BUSY_LOCK):
        earliest, middle, latest = delays(schedule)
        assert earliest < 0.85 * middle < 1.15 * middle < latest


def test_what_is_settled_is_spread_by_the_chance_it_is_given():
    task, failed = Task(1, 1, "a", b"{}", Counters(1, 1), "g"), Outcome(1, 1, Result.ERROR)

    moments = {settle(task, failed, KindPolicy("a"), NOW, chance / 10).due for chance in range(10)}

    assert len(moments) == 10
