"""Policies as they come from outside: only those get in with which settling and time limits can count."""

import math
from collections.abc import Iterator

from ...ipc.durable.policy import Calendar, Exponential, Fixed, KindPolicy, Schedule

MOST_NAME = 255
MOST_STAGES = 1000
MOST_COUNT = 2**31 - 2
MOST_SECONDS = 1e11  # some three thousand years


def fault(policy: KindPolicy) -> str:
    """What is wrong with it, in words; "" when it is sound."""
    if not 0 < len(policy.name) <= MOST_NAME:
        return f"the name of a kind has 1 to {MOST_NAME} characters, not {len(policy.name)}"
    if not 0 < len(policy.stages) <= MOST_STAGES:
        return f"{policy.name}: 1 to {MOST_STAGES} stages are possible, not {len(policy.stages)}"
    for name, value, least, most in (*_numbers(policy), *_of_schedule(policy.schedule)):
        if not (math.isfinite(value) and least <= value <= most):
            return f"{policy.name}: {name} {value} is not between {least:.12g} and {most:.12g}"
    return ""


def _numbers(policy: KindPolicy) -> Iterator[tuple[str, float, float, float]]:
    for name in ("max_attempts", "max_crashes", "max_locks", "max_running", "alarm"):
        yield name, getattr(policy, name), 0, MOST_COUNT
    for name in ("timeout", "grace"):
        yield name, getattr(policy, name), 0, MOST_SECONDS
    for name in ("keep", "keep_dead"):
        yield name, getattr(policy, name), -MOST_SECONDS, MOST_SECONDS


def _of_schedule(schedule: Schedule) -> Iterator[tuple[str, float, float, float]]:
    match schedule:
        case Exponential():
            yield "first", schedule.first, 0, MOST_SECONDS
            yield "cap", schedule.cap, 0, MOST_SECONDS
            yield "factor", schedule.factor, 0, 1000
            yield "jitter", schedule.jitter, 0, 1
        case Fixed():
            yield "every", schedule.every, 0, MOST_SECONDS
        case Calendar():
            yield "step", schedule.step, 1, MOST_COUNT
