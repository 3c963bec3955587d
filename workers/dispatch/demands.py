"""What to claim: how much of which kinds, for whom. Executors with the same kinds are one lane."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ..store.protocol import Demand
from .roster import Executor, Roster

MOST_CLAIMS = 500
AGED = 8  # while more waits than is claimed, each eighth claim takes what has been due longest


class _Places(NamedTuple):
    """Of one executor, by how much it will have to do when they are taken."""

    first: int
    end: int
    holder: int


Lanes = defaultdict[frozenset[str], list[_Places]]


class Demands:
    """Composes the demands of each turn, and counts claims."""

    def __init__(self, roster: Roster) -> None:
        self.paused: frozenset[str] = frozenset()
        self._roster = roster
        self._met = 0

    def composed(self, now: float) -> list[Demand]:
        """For all free places, at most MOST_CLAIMS of them; the least loaded executors come first."""
        lanes: Lanes = defaultdict(list)
        for executor in self._roster.executors.values():
            if executor.takes:
                self._places(lanes, executor, now)
        aged = self._met == AGED - 1
        most = MOST_CLAIMS // max(len(lanes), 1)
        return [Demand(tuple(sorted(kinds)), _holders(places, most), aged) for kinds, places in lanes.items()]

    def claimed(self, *, in_full: bool) -> None:
        """A turn has claimed something; `in_full`: there may be more."""
        self._met = (self._met + 1) % AGED if in_full else 0

    def _places(self, lanes: Lanes, executor: Executor, now: float) -> None:
        of_any, altogether = self._roster.room(executor, now)
        kinds = executor.kinds - self.paused
        quick = frozenset(filter(self._roster.is_quick, kinds))
        if kinds == quick:
            of_any = altogether
        _add(lanes, kinds, executor, 0, of_any)
        _add(lanes, quick, executor, of_any, altogether)


def _add(lanes: Lanes, kinds: frozenset[str], executor: Executor, first: int, end: int) -> None:
    if kinds and end > first:
        load = len(executor.runs)
        lanes[kinds].append(_Places(load + first, load + min(end, first + MOST_CLAIMS), executor.holder))


def _holders(places: Sequence[_Places], most: int) -> tuple[int, ...]:
    """One for each place: all first places before the second ones. Whole stretches at a time, in which the same
    executors have places."""
    if len(places) == 1:
        return (places[0].holder,) * min(places[0].end - places[0].first, most)
    found: list[int] = []
    for first, end in pairwise(sorted({edge for one in places for edge in (one.first, one.end)})):
        if len(found) >= most:
            break
        found += sorted(one.holder for one in places if one.first <= first < one.end) * (end - first)
    return tuple(found[:most])
