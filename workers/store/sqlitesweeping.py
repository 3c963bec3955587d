"""Housekeeping in SQLite: deadlines, and what has been kept long enough."""

from collections.abc import Sequence

from ...ipc.durable.model import Dead, Notice, State
from .deadlines import KEPT, deadline_notice, expired_notice, kept_since
from .protocol import Swept
from .sqlitedatabase import Database
from .sqlitesettling import numbers
from .sqlitewaiting import end, waiting

EXECUTOR_MS = 86_400_000

_BELONGINGS = (
    "delete_attempts",
    "delete_outputs",
    "delete_payloads",
    "delete_remotes",
    "delete_items",
    "delete_keys",
    "delete_notices",
    "delete_deeds",
    "delete_done",
    "delete_messages",
)


def sweep(db: Database, now: int, limit: int) -> Swept:
    """At most `limit` of each."""
    expired = alerted = 0
    for at, id, kind, on_deadline, to in db.run("past_deadline", (now, limit)).fetchall():
        to = to or db.kinds.at(kind).policy.notify
        if on_deadline == "alert":
            alerted += _alert(db, at, id, kind, to, now)
        else:
            expired += _expire(db, at, id, kind, to, now)
    removed = _outlived(db, now, limit)
    delete(db, removed)
    db.run("forget_deadlines", (now,))
    db.run("drop_locks")
    unlocked = db.changes()
    db.run("sweep_executors", (now - EXECUTOR_MS,))
    return Swept(expired, alerted, len(removed), unlocked)


def delete(db: Database, ids: Sequence[int]) -> None:
    """Messages that have ended, with all that belongs to them."""
    for name in _BELONGINGS if ids else ():
        db.run(name, (numbers(ids),))


def _expire(db: Database, at: int, id: int, kind: int, to: str, now: int) -> bool:
    row = waiting(db, id)
    db.run("drop_deadline", (at, id))
    if row is None:
        return False
    end(db, row, State.DEAD_LETTER, Dead.EXPIRED, now)
    if to:
        notify(db, id, expired_notice(id, db.kinds.at(kind).name, to), now)
    return True


def _alert(db: Database, at: int, id: int, kind: int, to: str, now: int) -> bool:
    db.run("drop_deadline", (at, id))
    if waiting(db, id) is None and not db.one("is_running", (id,)):
        return False
    if to:
        notify(db, id, deadline_notice(id, db.kinds.at(kind).name, to), now)
    return True


def notify(db: Database, id: int, notice: Notice, now: int) -> None:
    """A notification that is to be sent."""
    db.run("add_notice", (id, notice.to, notice.subject, notice.text, notice.dedup, now))


def _outlived(db: Database, now: int, limit: int) -> list[int]:
    found: list[int] = []
    for kind in db.kinds.all():
        for state in KEPT:
            since = kept_since(kind.policy, state, now)
            if since and len(found) < limit:
                rows = db.run("outlived", (kind.id, state, since, limit - len(found)))
                found += [id for (id,) in rows]
    return found
