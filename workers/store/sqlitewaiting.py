"""Messages that wait, in SQLite: in `ready`, `delayed` or `parked`, by whether and when they may run."""

from typing import NamedTuple

from ...ipc.durable.model import ENDS, State
from .sqlitedatabase import Database

UNIQUE, LOCKED = 1, 2  # marks of a row: it has a unique key, it may have locks


class Waiting(NamedTuple):
    """A row of one of the three."""

    id: int
    kind: int
    due: int
    priority: int
    fence: int
    state: State
    stage: int
    runs: int
    attempts: int
    crashes: int
    locks: int
    polls: int
    auths: int
    marks: int
    reason: str = ""


def waiting(db: Database, id: int) -> Waiting | None:
    """The row of a message that waits."""
    row = db.one("waiting", {"id": id})
    return Waiting(*row) if row is not None else None


def take_out(db: Database, row: Waiting) -> None:
    """It waits no more."""
    db.run("leave_ready_one", (row.kind, row.priority, row.due, row.id))
    db.run("leave_delayed_one", (row.kind, row.due, row.id))
    db.run("leave_parked_one", (row.id,))


def put_in(db: Database, row: Waiting, now: int) -> None:
    """It waits: for its time, or for being run."""
    if row.state is State.BLOCKED:
        db.run("add_parked", row)
    elif row.due > now:
        db.run("add_delayed", row)
    else:
        db.run("add_ready", row[:-1])


def move(db: Database, row: Waiting, due: int, now: int) -> None:
    """It is due at another time."""
    take_out(db, row)
    db.run("move_due", (due, row.id))
    put_in(db, row._replace(due=due), now)


def end(db: Database, row: Waiting, state: State, reason: str, now: int) -> None:
    """It will not run."""
    assert state in ENDS
    take_out(db, row)
    counters = (row.runs, row.attempts, row.crashes, row.locks, row.polls, row.auths)
    db.run("add_done", (row.id, row.kind, state, now, reason, row.fence, row.stage, *counters, b""))
    if row.marks & UNIQUE:
        free_unique(db, row.id, now)


def free_unique(db: Database, id: int, now: int) -> None:
    """A message has ended: its unique key is its successor's, or nobody's."""
    row = db.one("unique_of", (id,))
    if row is None:
        return
    kind, key, owner, successor = row
    if owner != id:
        db.run("set_unique", (owner, 0 if successor == id else successor, kind, key))
        return
    after = waiting(db, successor) if successor else None
    if after is None:
        db.run("free_unique", (kind, key))
        return
    db.run("set_unique", (successor, 0, kind, key))
    take_out(db, after)
    put_in(db, after._replace(state=State.QUEUED, reason=""), now)
