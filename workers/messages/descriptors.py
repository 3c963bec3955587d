"""The descriptors that an executor has left: handlers which do not close what they open use them up."""

import errno
import os
import resource
from collections.abc import Callable
from time import monotonic

SHARE, LEAST, MOST = 10, 16, 256  # a tenth of the limit, but not fewer and not more than these
EVERY, PAUSE = 16, 0.05  # calls, or seconds, between two looks


class Descriptors:
    """Made when the process begins to work: one that has few from the beginning is content with half of these."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._probe = os.eventfd(0, os.EFD_CLOEXEC)
        self._calls, self._looked = 0, 0.0
        limit = self._limit()
        self._least = min(max(LEAST, limit // SHARE), MOST, self._left(limit) // 2)

    def scarce(self) -> str:
        """Why this process had better be replaced, "" while enough are left. Called after each message."""
        self._calls += 1
        now = self._clock()
        if self._calls < EVERY and now < self._looked + PAUSE:
            return ""
        self._calls, self._looked = 0, now
        limit = self._limit()
        left = self._left(limit)
        if left >= self._least:
            return ""
        return f"{left:,} of {limit:,} descriptors left: its handlers open more than they close"

    def _limit(self) -> int:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return soft if soft != resource.RLIM_INFINITY else 1 << 30

    def _left(self, limit: int) -> int:
        """A new one has the lowest number that is free, so that no more than those above it are."""
        try:
            number = os.dup(self._probe)
        except OSError as error:
            return 0 if error.errno == errno.EMFILE else limit  # else the machine has none, and no other process would
        os.close(number)
        return max(0, limit - number)
