"""Durable messages in a SQLite file: the store of one host. See protocol.Store for what its methods promise."""

import time
from collections.abc import Sequence
from pathlib import Path

from ...ipc.durable.model import NewMessage, Receipt
from ...ipc.durable.policy import KindPolicy
from . import sqliteadmission, sqlitedeeds, sqlitenodes, sqlitequeries, sqlitesettling, sqlitesweeping
from .protocol import Control, Filter, Leased, Node, Renewal, Row, Store, Story, Swept, Tally, Turn, Turned
from .sqliteclaiming import Claim
from .sqlitedatabase import Database
from .sqlitefile import StoreFile


class SqliteStore(Store):
    """The store in this file. One process at a time can open it."""

    def __init__(self, path: Path) -> None:
        self._db = Database(StoreFile(path))

    def open(self) -> None:
        self._db.open()

    def close(self) -> None:
        self._db.close()

    def migrate(self) -> list[str]:
        return self._db.migrate()

    def check(self) -> list[str]:
        self._db.refuse_swapped()
        with self._db.reading():
            faults = [text for name in self._db.names("check_") for (text,) in self._db.run(name)]
            return faults + [index.fault for index in self._db.gone_indexes()]

    def clock(self) -> int:
        return time.time_ns() // 1_000_000

    def register(self, name: str, now: int, until: int) -> Node:
        with self._db.writing(lasting=False):
            return sqlitenodes.register(self._db, name, until)

    def enlist(self, node: int, slot: str, pid: int, start: int, now: int) -> int:
        with self._db.writing(lasting=False):
            return sqlitenodes.enlist(self._db, node, slot, pid, start, now)

    def declare(self, node: int, kinds: Sequence[KindPolicy], now: int) -> None:
        with self._db.writing(lasting=False):
            self._db.kinds.declare(node, kinds)

    def policies(self) -> dict[str, KindPolicy]:
        with self._db.reading():
            return self._db.kinds.policies()

    def renew(self, node: int, now: int, until: int) -> Renewal:
        self._db.refuse_swapped()
        self._db.lengthen()
        with self._db.writing(lasting=False):
            return sqlitenodes.renew(self._db, node, until)

    def leases(self, node: int) -> list[Leased]:
        with self._db.reading():
            return sqlitenodes.leases(self._db, node)

    def orphans(self, now: int, limit: int) -> list[Leased]:
        with self._db.writing(lasting=False):
            return sqlitenodes.orphans(self._db, now, limit)

    def leave(self, node: int, now: int) -> None:
        with self._db.writing(lasting=False):
            sqlitenodes.leave(self._db, node)

    def turn(self, turn: Turn) -> Turned:
        db = self._db
        with db.writing(lasting=bool(turn.settled or turn.stages or turn.new)):
            receipts = sqliteadmission.enqueue(db, turn.new, turn.now)
            kept = sqlitesettling.keep_stages(db, turn.stages)
            sqlitesettling.begin(db, turn.began, turn.now)
            sqlitesettling.note(db, turn.progress)
            stale = sqlitesettling.settle(db, turn.settled, turn.now)
            granted = sqlitesettling.lock(db, turn.locks)
            if not turn.demands or not sqlitenodes.alive(db, turn.node):
                return Turned([[] for _ in turn.demands], stale, granted, kept, receipts=receipts)
            claim = Claim(db, turn)
            next_due = claim.promote()
            claimed = [claim.take(demand) for demand in turn.demands]
        return Turned(claimed, stale, granted, kept, next_due, claim.more, receipts)

    def enqueue(self, messages: Sequence[NewMessage], now: int) -> list[Receipt]:
        with self._db.writing():
            return sqliteadmission.enqueue(self._db, messages, now)

    def payload(self, id: int) -> bytes:
        with self._db.reading():
            found = self._db.one("payload", (id,))
        return found[0] if found else b""

    def ended(self, ids: Sequence[int]) -> list[Row]:
        with self._db.reading():
            return sqlitequeries.ended(self._db, list(ids))

    def sweep(self, now: int, limit: int) -> Swept:
        with self._db.writing():
            swept = sqlitesweeping.sweep(self._db, now, limit)
        if swept == Swept():
            self._db.checkpoint()
        return swept

    def find(self, filter: Filter, limit: int, after: int = 0) -> list[Row]:
        with self._db.reading():
            return sqlitequeries.find(self._db, filter, limit, after, self.clock())

    def count(self, filter: Filter) -> int:
        with self._db.reading():
            return sqlitequeries.count(self._db, filter, self.clock())

    def story(self, id: int) -> Story | None:
        with self._db.reading():
            return sqlitequeries.story(self._db, id)

    def stats(self, now: int) -> list[Tally]:
        with self._db.reading():
            return sqlitequeries.stats(self._db, now)

    def retry(self, ids: Sequence[int], actor: str, now: int) -> list[int]:
        with self._db.writing():
            return sqlitedeeds.retry(self._db, ids, actor, now)

    def cancel(self, ids: Sequence[int], actor: str, now: int) -> tuple[list[int], list[int]]:
        with self._db.writing():
            return sqlitedeeds.cancel(self._db, ids, actor, now)

    def clone(self, ids: Sequence[int], actor: str, now: int) -> list[Receipt]:
        with self._db.writing():
            return sqlitedeeds.clone(self._db, ids, actor, now)

    def purge(self, ids: Sequence[int], actor: str, now: int) -> list[int]:
        with self._db.writing():
            return sqlitedeeds.purge(self._db, ids)

    def control(self, control: Control) -> None:
        with self._db.writing():
            self._db.kinds.control(control)

    def controls(self) -> list[Control]:
        with self._db.reading():
            return self._db.kinds.controls()
