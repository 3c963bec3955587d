"""Calls of this process that wait for their answers."""

import asyncio
import math
from collections.abc import Callable
from time import monotonic
from typing import Any

from .errors import BkdError, DeadlineError
from .parcel import ERROR, Parcel, raised

MOST = 1000
SHORTEST, LONGEST = 0.001, 300.0
GRAIN = 0.005


Call = tuple[asyncio.Future[Any], float, float, str, str]
"""Where the answer will be, monotonic deadline, the seconds it was given, who was asked, and for what. A plain tuple:
one is made for every call."""


def check(timeout: float) -> None:
    """Raises ValueError for a time that no call may take, in seconds."""
    if not 0.0 < timeout <= LONGEST:
        raise ValueError(f"a call takes between 0 and {LONGEST:g} seconds, not {timeout:g}")


class Calls:
    """Numbered; each ends with an answer, at its deadline, or with the connection.

    One timer serves them all. It is set for the earliest deadline there was and looks again then, so that a call that
    is answered in time costs no timer at all. `pending` are those by number, MOST at most; `expired` is called for each
    that comes to its deadline.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop, self._expired = loop, expired
        self._number = 0
        self.pending: dict[int, Call] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf

    def begin(self, limit: float, to: str, op: str) -> tuple[int, asyncio.Future[Any]]:
        """Number of a new call and where its answer will be: the data, or an error of bkd."""
        deadline = monotonic() + limit
        if deadline < self._due:
            self._wake_at(deadline, limit)
        self._number = number = self._number + 1
        future = self._loop.create_future()
        self.pending[number] = future, deadline, limit, to, op
        return number, future

    def drop(self, number: int) -> None:
        """It was never sent."""
        del self.pending[number]

    def answer(self, parcel: Parcel) -> None:
        """An answer came; nobody waits for one that comes too late."""
        call = self.pending.pop(parcel.re, None)
        if call is None or call[0].done():
            return
        if parcel.op == ERROR:
            call[0].set_exception(raised(parcel.data))
        else:
            call[0].set_result(parcel.data)

    def fail(self, number: int, error: BkdError) -> None:
        """The answer to this one will not come."""
        call = self.pending.pop(number, None)
        if call is not None and not call[0].done():
            call[0].set_exception(error)

    def fail_all(self, kind: type[BkdError], reason: str) -> None:
        """No more answers will come."""
        for number in list(self.pending):
            self.fail(number, kind(reason))
        if self._timer is not None:
            self._timer.cancel()
        self._due = math.inf

    def _wake_at(self, deadline: float, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = self._loop.call_later(max(GRAIN, seconds), self._look)

    def _look(self) -> None:
        now = monotonic()
        for number, (_future, deadline, limit, to, op) in list(self.pending.items()):
            if deadline <= now:
                self.fail(number, DeadlineError(f"{to} did not answer {op} within {limit:g} s"))
                self._expired()
        self._due = math.inf
        earliest = min((call[1] for call in self.pending.values()), default=math.inf)
        if earliest < math.inf:
            self._wake_at(earliest, earliest - now)
