"""Where the living rows of a queue begin, as far as one dispatcher has seen.

Rows that were claimed stay in the index until they are vacuumed, and as long as somebody's old snapshot could need them
they are not; whoever begins at the head of the index steps over all of them. So a claim begins where the last one has
ended, less a margin for rows that were committed late, and now and then at the head.
"""

from collections.abc import Iterable
from typing import NamedTuple

from .postgres_arrays import numbers

MARGIN_MS = 1_000
WHOLE_EVERY = 2.0  # seconds between claims that begin at the head
WHOLE_SHARE = 20.0  # and if these take long, they are at most a twentieth of the time
LONGEST = 30.0
BEFORE_ALL = -(2**31)


class Known(NamedTuple):
    """Levels of priority and where they begin, as arrays; a row of BEFORE_ALL and -1 for each kind."""

    kinds: str
    priorities: str
    dues: str


class Marks:
    """The marks of one dispatcher."""

    def __init__(self) -> None:
        self._levels: dict[tuple[int, int], int] = {}
        self._delayed: dict[int, int] = {}
        self._whole_at = 0.0
        self._begun = 0.0
        self._whole = False

    def begin(self, moment: float) -> None:
        """A turn begins, at this moment of a monotonic clock."""
        self._begun = moment
        self._whole = moment >= self._whole_at
        if self._whole:
            self.forget()

    def end(self, moment: float) -> None:
        """The turn has ended."""
        if self._whole:
            took = moment - self._begun
            self._whole_at = moment + min(LONGEST, max(WHOLE_EVERY, took * WHOLE_SHARE))

    def forget(self) -> None:
        """Begin at the head the next time: something older may have come in."""
        self._levels, self._delayed = {}, {}

    def known(self, kinds: Iterable[int]) -> Known:
        """What is known of these kinds."""
        wanted = list(kinds)
        rows = [(kind, BEFORE_ALL, -1) for kind in wanted]
        rows += [(kind, priority, due) for (kind, priority), due in self._levels.items() if kind in wanted]
        return Known(*(numbers(column) for column in zip(*rows, strict=True)))

    def beginning(self, kind: int) -> tuple[int, int] | None:
        """Where the only level known of this kind begins (priority, due), or before all; None: several are known."""
        levels = [(priority, due) for (of, priority), due in self._levels.items() if of == kind]
        return (levels or [(BEFORE_ALL, 0)])[0] if len(levels) <= 1 else None

    def delayed(self, kinds: Iterable[int]) -> str:
        """Where delayed messages of these kinds begin, an array."""
        return numbers(self._delayed.get(kind, 0) for kind in kinds)

    def claimed(self, rows: Iterable[tuple[int, int, int]]) -> None:
        """These were claimed, in the order in which they wait: kind, priority, due."""
        for kind, priority, due in rows:
            level = (kind, priority)
            self._levels[level] = max(self._levels.get(level, 0), due - MARGIN_MS)

    def promoted(self, kinds: Iterable[int], now: int) -> None:
        """All delayed messages of these kinds that are due may run."""
        self._delayed.update((kind, max(0, now - MARGIN_MS)) for kind in kinds)

    def rewind(self, due: int) -> bool:
        """Something that was due then may run; whether it lay before a mark."""
        behind = {level: due for level, mark in self._levels.items() if mark > due}
        self._levels.update(behind)
        return bool(behind)
