"""Dispatchers and their executors in SQLite, and what they hold."""

from collections.abc import Iterable
from typing import Any

from ...ipc.durable.model import Counters
from ...ipc.durable.wire import Held
from .protocol import Leased, Node, Renewal
from .sqlitedatabase import Database


def register(db: Database, name: str, until: int) -> Node:
    """A dispatcher of this name begins; its number stays, its generation grows."""
    db.run("register_node", (name, until))
    number, generation = db.run("node_named", (name,)).fetchall()[0]
    return Node(number, name, generation)


def enlist(db: Database, node: int, slot: str, pid: int, start: int, now: int) -> int:
    """The number of this executor."""
    db.run("enlist", (node, slot, pid, start, now))
    return int(db.run("executor", (node, slot, pid, start)).fetchall()[0][0])


def renew(db: Database, node: int, until: int) -> Renewal:
    """The node lives on, if it was not declared dead."""
    db.run("renew_node", (until, node))
    known = db.changes() > 0
    return Renewal(known, [Held(*row) for row in db.run("cancels", (node,))], db.kinds.controls())


def alive(db: Database, node: int) -> bool:
    """Whether it may hold leases."""
    return db.one("node_alive", (node,)) is not None


def leave(db: Database, node: int) -> None:
    """The node ends in order: what it may have left is an orphan from now on."""
    db.run("leave_node", (node,))


def leases(db: Database, node: int) -> list[Leased]:
    """What a node holds."""
    return _leased(db.run("leases", (node,)))


def orphans(db: Database, now: int, limit: int) -> list[Leased]:
    """What nodes hold that were not renewed in time; they count as lost from now on."""
    db.run("lose_nodes", (now,))
    return _leased(db.run("orphans", (limit,)))


def _leased(rows: Iterable[tuple[Any, ...]]) -> list[Leased]:
    return [_lease(*row) for row in rows]


def _lease(*row: Any) -> Leased:
    """From the columns of `leases` in nodes.sql, the six counters in the midst of them."""
    values = (*row[:8], Counters(*row[8:14]), *row[14:17], bool(row[17]), row[18])
    return Leased(*values)
