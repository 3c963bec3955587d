"""When a group is to be restarted by the clock: `restart_every` in monotonic time, `restart_at` in local time. Pure."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zlib import crc32

from .config.schema import GroupSection

JITTER = 0.1


def due(section: GroupSection, since: float, now: float, salt: str) -> float | None:
    """The monotonic moment of the next restart by `restart_every`, `now` when it has passed, None when it is off.

    Counted from `since`, a tenth earlier or later at most; the same `salt` gives the same moment.
    """
    if not section.restart_every:
        return None
    share = crc32(salt.encode()) / 0xFFFFFFFF
    return max(now, since + section.restart_every * (1.0 - JITTER + 2.0 * JITTER * share))


def next_at(times: list[str], now: datetime) -> datetime | None:
    """The first moment after `now` at which the clock shows one of `times` (`"04:00"`), None without times.

    The clock is that of the zone `now` is in; when that is a mere offset or none, it is this machine's. A time that
    the clock skips comes at the end of the gap, one that it shows twice at the first.
    """
    zone = MachineZone() if now.tzinfo is None or isinstance(now.tzinfo, timezone) else now.tzinfo
    return min((_next(time, now.astimezone(zone)) for time in times), key=datetime.timestamp, default=None)


class MachineZone(tzinfo):
    """The zone of this machine with its changes of the clock, which the offset that `astimezone` gives has not."""

    def utcoffset(self, when: datetime | None) -> timedelta | None:
        """What the C library says."""
        return None if when is None else when.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, when: datetime | None) -> timedelta | None:
        """Not known."""
        return None

    def tzname(self, when: datetime | None) -> str | None:
        """What the C library says."""
        return None if when is None else when.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, when: datetime) -> datetime:
        """The clock of this machine at a moment given in UTC; `fold` is 1 when it shows that for the second time."""
        local = when.replace(tzinfo=UTC).astimezone()
        first = local.replace(tzinfo=self)
        return first if first.utcoffset() == local.utcoffset() else first.replace(fold=1)


def _next(time: str, now: datetime) -> datetime:
    from cronsim import CronSim

    hour, minute = time.split(":")
    moments = CronSim(f"{int(minute)} {int(hour)} * * *", now)
    # In an hour that comes twice the next showing may be the one before `now`; datetimes of one zone compare by what
    # the clock shows, so they are compared in UTC.
    return next(moment for moment in moments if moment.astimezone(UTC) > now.astimezone(UTC))
