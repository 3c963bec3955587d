"""When a message is run again: arithmetic of schedules. Moments are ms of UTC; `chance` in [0, 1) is the dice."""

import calendar
from datetime import UTC, datetime, timedelta
from typing import assert_never

from ...ipc.durable.policy import Calendar, Exponential, Fixed, Schedule

NEVER_LATER = 253_370_764_800_000  # 9999-01-01: what a calendar can still count
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_YEAR = 9998
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}


def due(schedule: Schedule, retry: int, now: int, chance: float) -> int:
    """The moment of the `retry`-th retry (from 1), never before `now`."""
    match schedule:
        case Exponential():
            return later(now, _exponential(schedule, retry, chance))
        case Fixed():
            return later(now, schedule.every)
        case Calendar():
            return min(_by_calendar(schedule, now), NEVER_LATER)
        case other:
            assert_never(other)


def later(now: int, seconds: float) -> int:
    """So many seconds after `now`."""
    return bounded(now, now + 1000 * seconds)


def bounded(now: int, moment: float) -> int:
    """A moment that is not in the past, and that a store can keep."""
    return int(max(now, min(moment, NEVER_LATER)))


def envelope(schedule: Exponential, retry: int) -> float:
    """The delay in seconds without its jitter: grows with `retry`, up to `cap`."""
    try:
        return min(schedule.first * schedule.factor ** (max(retry, 1) - 1), schedule.cap)
    except OverflowError:
        return schedule.cap


def _exponential(schedule: Exponential, retry: int, chance: float) -> float:
    share = 1 + schedule.jitter * (2 * chance - 1)
    return min(envelope(schedule, retry) * share, schedule.cap)


def _by_calendar(schedule: Calendar, now: int) -> int:
    step = max(schedule.step, 0)
    if schedule.unit != "month":
        return bounded(now, now + 1000 * step * _SECONDS[schedule.unit])
    moment = _EPOCH + now * _MILLISECOND
    months = moment.year * 12 + moment.month - 1 + step
    year, month = months // 12, months % 12 + 1
    if year > _LAST_YEAR:
        return NEVER_LATER
    day = min(moment.day, calendar.monthrange(year, month)[1])
    return (moment.replace(year=year, month=month, day=day) - _EPOCH) // _MILLISECOND
