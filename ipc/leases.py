"""Locks that end by themselves, each with a fence. Plain data: the clock is an argument, in seconds.

The bus's locks do the same in the server (`supervisor/bus/scripts.py`); both have to agree.
"""

import heapq
import math
from typing import NamedTuple

from .errors import RefusedError

MOST_NAMES = 100_000


class Taken(NamedTuple):
    """`fence` > 0: it is yours, and whoever had that name before has a smaller one. 0: it is held by another, for at
    most `wait` seconds more unless that one renews it."""

    fence: int
    wait: float


class _Lease(NamedTuple):
    owner: str
    fence: int
    until: float


def check(owner: str, ttl: float) -> None:
    """Raises ValueError when nobody can hold a lock like that; `ttl` in seconds."""
    if not owner:
        raise ValueError("a lock needs an owner")
    if not math.isfinite(ttl) or ttl <= 0:
        raise ValueError(f"a lock is held for a time of more than 0 seconds, not {ttl:g}")


class Leases:
    """Who holds which name until when.

    Fences come from the clock, in microseconds, and grow even where it does not: so they also grow beyond the end of
    the process that gave them out.
    """

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most = most
        self._fence = 0
        self._held: dict[str, _Lease] = {}
        self._ends: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._held)

    def take(self, name: str, owner: str, ttl: float, now: float) -> Taken:
        """Take the name for `ttl` seconds; for its owner this renews it, with the same fence.

        Raises ValueError for an impossible owner or time, RefusedError when too many names are held.
        """
        check(owner, ttl)
        self.expire(now)
        held = self._held.get(name)
        if held is not None and held.owner != owner:
            return Taken(0, held.until - now)
        lease = _Lease(owner, held.fence if held is not None else self._next_fence(now), now + ttl)
        self._keep(name, lease)
        return Taken(lease.fence, 0.0)

    def renew(self, name: str, owner: str, ttl: float, now: float) -> bool:
        """Hold it for `ttl` seconds from now; False when it is not the owner's any more."""
        check(owner, ttl)
        self.expire(now)
        held = self._held.get(name)
        if held is None or held.owner != owner:
            return False
        self._keep(name, held._replace(until=now + ttl))
        return True

    def free(self, name: str, owner: str) -> bool:
        """Give it back; False when it is not the owner's."""
        held = self._held.get(name)
        if held is None or held.owner != owner:
            return False
        del self._held[name]
        return True

    def free_all(self, owner_prefix: str) -> list[str]:
        """Give back what owners beginning with this hold; the names."""
        names = [name for name, held in self._held.items() if held.owner.startswith(owner_prefix)]
        for name in names:
            del self._held[name]
        return names

    def expire(self, now: float) -> None:
        """Forget what is over; everything else in here does that first."""
        while self._ends and self._ends[0][0] <= now:
            name = heapq.heappop(self._ends)[1]
            held = self._held.get(name)
            if held is not None and held.until <= now:
                del self._held[name]

    def _next_fence(self, now: float) -> int:
        self._fence = max(self._fence + 1, int(now * 1_000_000))
        return self._fence

    def _keep(self, name: str, lease: _Lease) -> None:
        """Each renewal leaves an entry in `_ends` behind; when they are most of it, it is made anew."""
        if name not in self._held and len(self._held) >= self._most:
            raise RefusedError(f"more than {self._most} locks are held: free some, or give them shorter times")
        self._held[name] = lease
        heapq.heappush(self._ends, (lease.until, name))
        if len(self._ends) > 2 * len(self._held) + 64:
            self._ends = [(held.until, name) for name, held in self._held.items()]
            heapq.heapify(self._ends)
