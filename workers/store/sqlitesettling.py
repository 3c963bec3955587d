"""What a turn of the dispatcher writes of runs, in SQLite: stages, locks, and how they ended.

Every write names (id, fence): where that is not the lease that is there, nothing changes.
"""

from array import array
from collections.abc import Sequence
from typing import Any

import apsw
from msgspec.structs import astuple, replace

from ...ipc.durable.model import ENDS, Settlement, State
from ...ipc.durable.wire import Held
from .deadlines import late_word
from .protocol import Lock, Stage
from .sqlitedatabase import Database
from .sqlitewaiting import LOCKED, UNIQUE, free_unique

Values = tuple[Any, ...]


def keep_stages(db: Database, stages: Sequence[Stage]) -> list[Held]:
    """The stages that were kept: those whose lease is there."""
    kept = []
    for stage in stages:
        db.run("advance_stage", (stage.stage + 1, stage.id, stage.fence))
        if db.changes():
            db.run("keep_output", (stage.id, stage.stage, stage.output))
            kept.append(Held(stage.id, stage.fence))
    return kept


def begin(db: Database, began: Sequence[Held], now: int) -> None:
    """These runs have begun."""
    db.many("begin", [(now, held.id, held.fence) for held in began])


def note(db: Database, progress: Sequence[tuple[Held, bytes]]) -> None:
    """A word about how far they are."""
    db.many("note_progress", [(word, held.id, held.fence) for held, word in progress])


def lock(db: Database, asked: Sequence[Lock]) -> list[Held]:
    """The runs that have their lock now."""
    granted = []
    for lock in asked:
        db.run("lock", (lock.key, lock.id, lock.fence))
        if db.changes():
            db.run("mark_locked", (LOCKED, lock.id))
            granted.append(Held(lock.id, lock.fence))
    return granted


def settle(db: Database, settled: Sequence[Settlement], now: int) -> list[Held]:
    """Write how runs have ended; those that came too late."""
    if not settled:
        return []
    batch = _Batch(now)
    held = {row[0]: row for row in db.run("leases_of", (numbers([one.id for one in settled]),))}
    late, stale = [], []
    for one in settled:
        lease = held.get(one.id)
        if lease is None or lease[1] != one.fence:
            late.append(one)
        elif one.late:
            stale.append(Held(one.id, one.fence))
        else:
            batch.add(one, held.pop(one.id))
    batch.write(db)
    return stale + [Held(one.id, one.fence) for one in late if not _is_repeated(db, one, now)]


def numbers(values: Sequence[int]) -> Any:
    """Numbers as a table of one column, `carray`."""
    return apsw.carray(array("q", values))


class _Batch:
    """The rows that settlements come to."""

    def __init__(self, now: int) -> None:
        self._now = now
        self._freed: list[int] = []
        self._attempts: list[Values] = []
        self._ended: list[Values] = []
        self._ready: list[Values] = []
        self._delayed: list[Values] = []
        self._parked: list[Values] = []
        self._moved: list[Values] = []
        self._notices: list[Values] = []
        self._unlocked: list[int] = []
        self._without_key: list[int] = []

    def add(self, one: Settlement, lease: Values) -> None:
        """One that holds its lease; `lease` as in leases_of. What an operator has cancelled does not run again."""
        id, fence, kind, priority, due, stage, marks, cancel = lease
        if cancel and one.state not in ENDS:
            one = replace(one, state=State.CANCELLED, reason="")
        self._freed.append(id)
        if one.attempt is not None:
            self._attempts.append(astuple(one.attempt))
        if one.notice is not None:
            notice = one.notice
            self._notices.append((id, notice.to, notice.subject, notice.text, notice.dedup, self._now))
        if marks & LOCKED:
            self._unlocked.append(id)
        stage = max(stage, one.stage)
        if one.state in ENDS:
            self._ended.append(
                (id, kind, one.state, self._now, one.reason, fence, stage, *astuple(one.counters), one.result)
            )
            if marks & UNIQUE:
                self._without_key.append(id)
        else:
            marks &= ~LOCKED
            rest = (priority, fence, one.state, stage, *astuple(one.counters), marks)
            self._wait(one, kind, due, rest)

    def _wait(self, one: Settlement, kind: int, due: int, rest: Values) -> None:
        if one.due and one.due != due:
            due = one.due
            self._moved.append((due, one.id))
        if one.state is State.BLOCKED:
            self._parked.append((one.id, kind, due, *rest, one.reason))
        elif due > self._now:
            self._delayed.append((one.id, kind, due, *rest, one.reason))
        else:
            self._ready.append((one.id, kind, due, *rest))

    def write(self, db: Database) -> None:
        """All of it."""
        if self._freed:
            db.run("free_leases", (numbers(self._freed),))
        for name, rows in (
            ("add_attempt", self._attempts),
            ("add_done", self._ended),
            ("add_ready", self._ready),
            ("add_delayed", self._delayed),
            ("add_parked", self._parked),
            ("move_due", self._moved),
            ("add_notice", self._notices),
        ):
            if rows:
                db.many(name, rows)
        if self._unlocked:
            db.run("unlock", (numbers(self._unlocked),))
        for id in self._without_key:
            free_unique(db, id, self._now)


def _is_repeated(db: Database, one: Settlement, now: int) -> bool:
    """Whether this very settlement was written before; if not, the attempt of its lease is told that it came late."""
    if one.attempt is None:
        return False
    there = db.one("attempt_result", (one.id, one.fence))
    if there is not None and there == (one.attempt.result, ""):
        return True
    if 0 < one.fence <= db.run("last_gone", {"id": one.id}).fetchall()[0][0]:
        db.run("add_late", (*astuple(one.attempt)[:-1], late_word(one.attempt, now)))
    return False
