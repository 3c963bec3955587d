"""What operators do with messages, in SQLite. Everything is noted at the message."""

from collections.abc import Sequence

from ...ipc.durable.model import Conflict, NewMessage, Receipt, Routing, State
from .sqliteadmission import enqueue
from .sqlitedatabase import Database
from .sqlitesweeping import delete
from .sqlitewaiting import UNIQUE, Waiting, end, move, put_in, waiting


def retry(db: Database, ids: Sequence[int], actor: str, now: int) -> list[int]:
    """Queue dead letters and cancelled ones again, and have no retry wait any longer; those this was true for."""
    done = []
    for id in dict.fromkeys(ids):
        row = waiting(db, id)
        if _revived(db, id, now) if row is None else _hurried(db, row, now):
            _note(db, id, now, actor, "retry")
            done.append(id)
    return done


def cancel(db: Database, ids: Sequence[int], actor: str, now: int) -> tuple[list[int], list[int]]:
    """Those that waited and are cancelled, and those that run and are marked."""
    waited, running = [], []
    for id in dict.fromkeys(ids):
        row = waiting(db, id)
        if row is not None:
            end(db, row, State.CANCELLED, "", now)
            waited.append(id)
        else:
            db.run("cancel_run", (now, id))
            if not db.changes():
                continue
            running.append(id)
        _note(db, id, now, actor, "cancel")
    return waited, running


def clone(db: Database, ids: Sequence[int], actor: str, now: int) -> list[Receipt]:
    """New messages like these; a receipt for each."""
    return [_cloned(db, id, actor, now) for id in ids]


def purge(db: Database, ids: Sequence[int]) -> list[int]:
    """Delete those that have ended."""
    ended = [id for id in dict.fromkeys(ids) if db.one("done_row", (id,)) is not None]
    delete(db, ended)
    return ended


def _hurried(db: Database, row: Waiting, now: int) -> bool:
    if row.state != State.RETRY_SCHEDULED:
        return False
    if row.due > now:
        move(db, row, now, now)
    return True


def _revived(db: Database, id: int, now: int) -> bool:
    row = db.one("done_row", (id,))
    if row is None or row[0] not in (State.DEAD_LETTER, State.CANCELLED):
        return False
    _, kind, priority, unique, fence, stage, runs = row
    if unique:
        db.run("take_unique", (kind, unique, id))
        if not db.changes():
            return False
    db.run("undo_done", (id,))
    db.run("move_due", (now, id))
    marks = UNIQUE if unique else 0
    put_in(db, Waiting(id, kind, now, priority, fence, State.QUEUED, stage, runs, 0, 0, 0, 0, 0, marks), now)
    return True


def _cloned(db: Database, id: int, actor: str, now: int) -> Receipt:
    row = db.one("to_clone", (id,))
    if row is None:
        return Receipt(refused=f"there is no message {id}")
    kind, args, payload, priority, unique, max_attempts, notify, *routing = row
    message = NewMessage(
        kind,
        args,
        payload or b"",
        priority,
        unique=unique,
        conflict=Conflict.REJECT,
        max_attempts=max_attempts,
        notify=notify,
        routing=Routing(*routing),
    )
    (receipt,) = enqueue(db, [message], now)
    if receipt.created:
        _note(db, id, now, actor, "clone", f"as {receipt.id}")
        _note(db, receipt.id, now, actor, "clone", f"of {id}")
    return receipt


def _note(db: Database, id: int, now: int, actor: str, verb: str, detail: str = "") -> None:
    db.run("add_deed", (id, now, actor, verb, detail))
