"""How the handlers of an application say when a message is run again. `schedule` raises ValueError for what cannot be.

Durations are seconds, or text such as "2s", "1h30m".
"""

from typing import Protocol, get_args

import msgspec

from ...ipc.durable import policy
from .draft import Duration, seconds

ATTEMPTS = 5
LONGEST_STEP = 10_000


class Retrying(Protocol):
    """A way to retry, with its limit."""

    @property
    def max_attempts(self) -> int:
        """How many runs there are at most."""

    def schedule(self) -> policy.Schedule:
        """The same as plain numbers."""


class Exponential(msgspec.Struct, frozen=True):
    """Each delay is `factor` times the one before: from `first` up to `cap`, give or take the share `jitter`."""

    first: Duration = 2.0
    cap: Duration = 3600.0
    factor: float = 2.0
    jitter: float = 0.2
    max_attempts: int = ATTEMPTS

    def schedule(self) -> policy.Schedule:
        first, cap = positive("first", self.first), positive("cap", self.cap)
        if cap < first:
            raise ValueError(f"cap: {self.cap!r} is less than first: {self.first!r}")
        if not 1 <= self.factor <= 1000:
            raise ValueError(f"factor: {self.factor!r} is not between 1 and 1000")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter: {self.jitter!r} is not between 0 and 1")
        return policy.Exponential(first, cap, float(self.factor), float(self.jitter))


class Fixed(msgspec.Struct, frozen=True):
    """Always the same delay."""

    every: Duration = 60.0
    max_attempts: int = ATTEMPTS

    def schedule(self) -> policy.Schedule:
        return policy.Fixed(positive("every", self.every))


class Calendar(msgspec.Struct, frozen=True):
    """`step` units of the calendar later, in UTC: second, minute, hour, day, week, month."""

    step: int = 1
    unit: policy.Unit = "day"
    max_attempts: int = ATTEMPTS

    def schedule(self) -> policy.Schedule:
        if self.unit not in get_args(policy.Unit):
            raise ValueError(f"unit: {self.unit!r} is none of {', '.join(get_args(policy.Unit))}")
        if not isinstance(self.step, int) or not 1 <= self.step <= LONGEST_STEP:
            raise ValueError(f"step: {self.step!r} is no number from 1 to {LONGEST_STEP}")
        return policy.Calendar(self.step, self.unit)


def positive(what: str, duration: Duration) -> float:
    """Seconds, more than none; raises ValueError that names `what`."""
    value = span(what, duration)
    if not value:
        raise ValueError(f"{what}: {duration!r} is no time at all")
    return value


def span(what: str, duration: Duration) -> float:
    """Seconds, or none; raises ValueError that names `what`."""
    try:
        value = seconds(duration)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{what}: {duration!r} is no duration: say it like "30s", or 30') from error
    if not 0 <= value < float("inf"):
        raise ValueError(f"{what}: {duration!r} is no duration")
    return value
