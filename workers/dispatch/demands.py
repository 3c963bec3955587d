"""What to claim: how much of which kinds, for whom. Executors with the same kinds are one lane."""

from collections import defaultdict
from collections.abc import Set

from ..store.protocol import Demand
from .roster import Executor, Roster

MOST_CLAIMS = 500
AGED = 8  # while more waits than is claimed, each eighth claim takes what has been due longest


class Demands:
    """Composes the demands of each turn, and counts claims."""

    def __init__(self, roster: Roster) -> None:
        self.paused: frozenset[str] = frozenset()
        self._roster = roster
        self._met = 0

    def composed(self, now: float) -> list[Demand]:
        """For all free places, at most MOST_CLAIMS of them; the least loaded executors come first."""
        lanes: defaultdict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for executor in self._roster.executors.values():
            if executor.takes:
                self._places(lanes, executor, now)
        aged = self._met == AGED - 1
        most = MOST_CLAIMS // max(len(lanes), 1)
        return [Demand(kinds, _holders(places, most), aged) for kinds, places in lanes.items()]

    def claimed(self, *, in_full: bool) -> None:
        """A turn has claimed something; `in_full`: there may be more."""
        self._met = (self._met + 1) % AGED if in_full else 0

    def _places(
        self, lanes: defaultdict[tuple[str, ...], list[tuple[int, int]]], executor: Executor, now: float
    ) -> None:
        of_any, altogether = self._roster.room(executor, now)
        kinds = executor.kinds - self.paused
        quick = frozenset(filter(self._roster.is_quick, kinds))
        if kinds == quick:
            of_any = altogether
        _add(lanes, kinds, executor, 0, of_any)
        _add(lanes, quick, executor, of_any, altogether)


def _add(
    lanes: defaultdict[tuple[str, ...], list[tuple[int, int]]],
    kinds: Set[str],
    executor: Executor,
    first: int,
    end: int,
) -> None:
    if kinds and end > first:
        load = len(executor.runs)
        holder = executor.holder
        end = min(end, first + MOST_CLAIMS)
        lanes[tuple(sorted(kinds))] += [(place, holder) for place in range(load + first, load + end)]


def _holders(places: list[tuple[int, int]], most: int) -> tuple[int, ...]:
    places.sort()
    return tuple([holder for _, holder in places[:most]])
