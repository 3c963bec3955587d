"""Which messages run next, in SQLite.

The primary key of `ready` is the order in which the messages of a kind run, so a claim reads as many rows as it takes.
What is taken is always the beginning of a level (a kind and a priority), and is deleted as one range.
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any

from ...ipc.durable.model import Counters, Task
from .protocol import Demand, StoreError, Turn
from .sqlitedatabase import Database, Rows
from .sqlitekinds import Kind
from .sqlitesettling import numbers

PROMOTED = 5_000  # of a kind, in one turn

Row = tuple[Any, ...]
_by_priority: Callable[[Row], Any] = itemgetter(0, 1, 2)
_by_age: Callable[[Row], Any] = itemgetter(1, 2)


class Claim:
    """The claims of one turn."""

    def __init__(self, db: Database, turn: Turn) -> None:
        self._db = db
        self._turn = turn
        names = dict.fromkeys(name for demand in turn.demands for name in demand.kinds)
        found = (db.kinds.find(name) for name in names)
        self._kinds = {kind.name: kind for kind in found if kind is not None and not kind.paused}
        self._room = {kind.id: self._left(kind) for kind in self._kinds.values() if kind.limit}
        self.more = False

    def promote(self) -> int:
        """What has become due may be claimed; the nearest moment at which something else becomes due, 0: none."""
        return min(filter(None, map(self._promote, self._kinds.values())), default=0)

    def take(self, demand: Demand) -> list[Task]:
        """Lease what the demand asks for, as far as it is there."""
        rows = self._first(demand)
        if not rows:
            return []
        self.more |= len(rows) == len(demand.holders)
        for row in rows:
            if row[4] in self._room:
                self._room[row[4]] -= 1
        self._lease(rows, demand.holders)
        outputs = self._outputs([row[2] for row in rows if row[5]])
        return [self._task(row, holder, outputs) for row, holder in zip(rows, demand.holders, strict=False)]

    def _left(self, kind: Kind) -> int:
        return max(0, kind.limit - int(self._db.run("running", (kind.id,)).fetchall()[0][0]))

    def _promote(self, kind: Kind) -> int:
        now = self._turn.now
        due = self._next_due(kind)
        if not 0 < due <= now:
            return due
        last = self._db.one("last_due", (kind.id, now, PROMOTED)) or self._db.one("last_of_due", (kind.id, now)) or ()
        self._db.run("promote", (kind.id, *last))
        self._db.run("leave_delayed", (kind.id, *last))
        return self._next_due(kind)

    def _next_due(self, kind: Kind) -> int:
        found = self._db.one("next_due", (kind.id,))
        return int(found[0] or 0) if found else 0

    def _first(self, demand: Demand) -> list[Row]:
        """The rows that are to run, as in `offer`."""
        most = len(demand.holders)
        kinds = [self._kinds[name] for name in dict.fromkeys(demand.kinds) if name in self._kinds]
        offers = [offer for kind in kinds for offer in self._offers(kind, demand.aged, most)]
        if len(offers) == 1:
            return offers[0].fetchall()
        ordered = merge(*offers, key=_by_age if demand.aged else _by_priority)
        found = list(islice(self._within_room(ordered), most))
        for offer in offers:
            offer.close()
        return found

    def _offers(self, kind: Kind, aged: bool, most: int) -> list[Rows]:
        most = min(most, self._room.get(kind.id, most))
        if not most:
            return []
        if not aged:
            return [self._db.run("offer", (kind.id, most))]
        levels = self._db.run("levels", (kind.id,)).fetchall()
        return [self._db.run("offer_of_level", (kind.id, level, most)) for (level,) in levels]

    def _within_room(self, rows: Iterator[Row]) -> Iterator[Row]:
        room = dict(self._room)
        for row in rows:
            left = room.get(row[4])
            if left == 0:
                continue
            if left is not None:
                room[row[4]] = left - 1
            yield row

    def _lease(self, rows: Sequence[Row], holders: Sequence[int]) -> None:
        node, now = self._turn.node, self._turn.now
        last: dict[tuple[int, int], Row] = {}
        leases = []
        for row, holder in zip(rows, holders, strict=False):
            priority, due, id, fence, kind, stage, runs, attempts, crashes, locks, polls, auths, marks = row[:13]
            last[kind, priority] = row
            leases.append(
                (
                    id, fence + 1, kind, priority, due, stage, runs + 1, attempts + 1, crashes, locks, polls, auths,
                    marks, node, holder, now,
                )
            )  # fmt: skip
        before = self._db.all_changes()
        for (kind, priority), row in last.items():
            self._db.run("leave_ready", (kind, priority, row[1], row[2]))
        if self._db.all_changes() - before != len(rows):
            raise StoreError("the store holds waiting rows without their messages: run `bkd store check`")
        self._db.many("add_lease", leases)

    def _outputs(self, ids: list[int]) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        if ids:
            for id, body in self._db.run("outputs", (numbers(ids),)):
                found.setdefault(id, []).append(body)
        return found

    def _task(self, row: Row, holder: int, outputs: dict[int, list[bytes]]) -> Task:
        """From the columns of `offer`."""
        priority, due, id, fence, kind, stage, runs, attempts, crashes, locks, polls, auths, _ = row[:13]
        guid, args, created, deadline, key, max_attempts, notify, payload, tracking, parent, sender = row[13:]
        counters = Counters(runs + 1, attempts + 1, crashes, locks, polls, auths)
        return Task(
            id, fence + 1, self._db.kinds.at(kind).name, args, counters, guid, stage, outputs.get(id, []),
            priority, created, due, self._turn.now, deadline, key, max_attempts, notify, payload, tracking, parent,
            sender, holder,
        )  # fmt: skip
