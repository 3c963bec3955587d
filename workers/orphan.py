"""When a worker leaves by itself that has neither master nor keeper any more: nobody else would end it. Pure.

An executor begins nothing more as soon as that is sure, has until `orphan_timeout` for what it runs, and is gone then.
The dispatcher goes on for longer: it writes what executors came to, and what other workers enqueue while they drain.
"""

from typing import NamedTuple

from ..ipc.message import DispatcherWork, MessagesWork, Work

SURE = 1.0  # a process that has just been born has another parent for a moment
FAREWELL = 2.0  # of an executor: until what it had to interrupt is stored
DRAIN = 25.0
TERM = 5.0
LONGER = 5.0  # that the dispatcher has, after the others got SIGTERM


class Orphan(NamedTuple):
    """Seconds after which it drains, sends itself SIGTERM, and sends itself SIGKILL."""

    drain: float
    term: float
    kill: float

    @classmethod
    def of(cls, work: Work, timeout: float) -> "Orphan":
        """The limits of a worker that does this work; `timeout`: the seconds of `orphan_timeout`."""
        match work:
            case MessagesWork():
                term = timeout - min(FAREWELL, timeout / 2)
                return cls(min(SURE, timeout / 4), term, max(timeout, term + FAREWELL))
            case DispatcherWork():
                term = timeout + DRAIN + LONGER
            case _:
                term = timeout + DRAIN
        return cls(timeout, term, term + TERM)

    def wait(self, alone: float) -> float:
        """Seconds until the next limit, of one that has been alone for so many; infinity after the last."""
        return min((limit - alone for limit in self if limit > alone), default=float("inf"))
