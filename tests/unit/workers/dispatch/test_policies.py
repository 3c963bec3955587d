"""Which policies get in: those that every schedule and time limit can count with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.ipc.durable.model import Counters, Outcome, Result, Task
from bkd.ipc.durable.policy import Calendar, Exponential, Fixed, KindPolicy
from bkd.workers.dispatch.delay import NEVER_LATER
from bkd.workers.dispatch.policies import fault
from bkd.workers.dispatch.settle import settle

NOW = 1_700_000_000_000
NUMBERS = st.floats()
SCHEDULES = st.one_of(
    st.builds(Exponential, *[NUMBERS] * 4),
    st.builds(Fixed, NUMBERS),
    st.builds(Calendar, st.integers(-(10**18), 10**18), st.sampled_from(["second", "day", "week", "month"])),
)


def test_what_is_usual_is_sound():
    assert fault(KindPolicy("invoice.send")) == ""
    assert fault(KindPolicy("a", timeout=0.0, grace=0.0, keep=-1.0, schedule=Calendar(3, "month"))) == ""


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (KindPolicy(""), "1 to 255 characters"),
        (KindPolicy("a", stages=()), "1 to 1000 stages"),
        (KindPolicy("a", timeout=float("nan")), "a: timeout nan is not between"),
        (KindPolicy("a", grace=-1.0), "a: grace -1.0 is not between"),
        (KindPolicy("a", max_attempts=2**31), "a: max_attempts 2147483648 is not between 0 and 2147483646"),
        (KindPolicy("a", schedule=Calendar(0)), "a: step 0 is not between 1"),
        (KindPolicy("a", schedule=Fixed(float("inf"))), "a: every inf is not between"),
        (KindPolicy("a", schedule=Exponential(jitter=2.0)), "a: jitter 2.0 is not between 0 and 1"),
    ],
)
def test_what_nothing_can_be_counted_with_is_named(policy, why):
    assert why in fault(policy)


@given(SCHEDULES, st.integers(0, 10**6))
def test_whatever_the_schedule_says_a_run_can_be_settled(schedule, attempts):
    task = Task(1, 1, "a", b"", Counters(attempts, attempts), "", max_attempts=10**9)

    found = settle(task, Outcome(1, 1, Result.ERROR), KindPolicy("a", schedule=schedule), NOW, 0.5)

    assert NOW <= found.due <= NEVER_LATER
