"""What a handler says instead of a result. Raised or returned: it is no error."""

import datetime

from ...ipc.durable.model import Result
from .draft import Duration, moment, seconds

FAR = 1 << 53  # ms: later than any store can keep


class Word(Exception):
    """Base of them. `at` in ms of UTC (0: none), `after` in ms (-1: none)."""

    result = Result.RETRY

    def __init__(self, reason: str = "", *, at: int = 0, after: int = -1) -> None:
        super().__init__(reason)
        self.reason, self.at, self.after = reason, at, after


class Retry(Word):
    """Run me again: `at` a moment (with a time zone), or `after` a while (`7`, "7s"), else as the kind is retried. It
    counts as an attempt. Raises ValueError for both, or for what is no time."""

    def __init__(self, reason: str = "", *, at: datetime.datetime | None = None, after: Duration | None = None) -> None:
        if at is not None and after is not None:
            raise ValueError("Retry takes `at` or `after`, not both")
        super().__init__(reason, at=0 if at is None else moment(at), after=-1 if after is None else _millis(after))


class Reject(Word):
    """This message will never work: it becomes a dead letter at once (`rejected`)."""

    result = Result.REJECTED


class Invalid(Reject):
    """What this message says cannot be, such as the number of something that is not there: dead, too (`invalid`)."""

    result = Result.INVALID


class Snooze(Word):
    """Run me again `after` a while; this was no attempt."""

    result = Result.SNOOZED

    def __init__(self, after: Duration, reason: str = "") -> None:
        super().__init__(reason, after=_millis(after))


def _millis(duration: Duration) -> int:
    return max(0, min(round(seconds(duration) * 1000), FAR))
