"""What operators do with messages in PostgreSQL, and housekeeping. An operator's deeds are noted at the message."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...ipc.durable.model import Conflict, Dead, NewMessage, Notice, Receipt, Routing, State
from ...ipc.durable.policy import KindPolicy
from .deadlines import KEPT, deadline_notice, expired_notice, kept_since
from .postgres_arrays import numbers, texts
from .postgres_enqueue import Enqueuing
from .postgres_kinds import Kinds, tell_change
from .postgres_link import Link, Patient
from .protocol import Swept

TRIES = 3  # for a message that goes from one place to another while it is looked for
LOCK_ROUNDS = 10  # of locks that are dropped at a time
LATER_MS = 1_000  # a run is left to its end
EXECUTOR_MS = 86_400_000


class Deeds:
    """Changes that no run has caused."""

    def __init__(self, link: Link, sql: Mapping[str, str], kinds: Kinds, enqueuing: Enqueuing) -> None:
        self._link = link
        self._sql = sql
        self._kinds = kinds
        self._enqueuing = enqueuing

    def retry(self, ids: Sequence[int], actor: str, now: int) -> list[int]:
        """Queue ends again, and have no retry wait any longer; those this was true for."""
        values = {"ids": numbers(ids), "now": now}
        with self._link.session() as db, db.transaction():
            done = self._ids(db, "revive", **values) | self._ids(db, "hurry", **values)
            self._note(db, done, now, actor, "retry")
            if done:
                tell_change(db, self._sql, self._link)
        return _ordered(ids, done)

    def cancel(self, ids: Sequence[int], actor: str, now: int) -> tuple[list[int], list[int]]:
        """Those that waited and are cancelled, and those that run and are marked."""
        with self._link.session() as db, db.transaction():
            waited, running = self._end(db, ids, State.CANCELLED, "", now, mark=True)
            self._note(db, waited | running, now, actor, "cancel")
            if running:
                tell_change(db, self._sql, self._link)
        return _ordered(ids, waited), _ordered(ids, running)

    def clone(self, ids: Sequence[int], actor: str, now: int) -> list[Receipt]:
        """New messages like these; a receipt for each."""
        with self._link.session() as db, db.transaction():
            return [self._cloned(db, id, actor, now) for id in ids]

    def purge(self, ids: Sequence[int]) -> list[int]:
        """Delete those that have ended."""
        with self._link.session() as db:
            return _ordered(ids, self._ids(db, "delete_ended", ids=numbers(ids)))

    def sweep(self, policies: Mapping[str, KindPolicy], now: int, limit: int) -> Swept:
        """At most `limit` of each."""
        with self._link.session() as db, db.transaction():
            expired, alerted = self._past_deadline(db, policies, now, limit)
        with self._link.session() as db:
            removed = self._ids(db, "delete_ended", ids=numbers(self._outlived(db, policies, now, limit)))
            db.execute(self._sql["forget_deadlines"], {"now": now})
            for name in ("sweep_executors", "sweep_nodes"):
                db.execute(self._sql[name], {"before": now - EXECUTOR_MS})
            unlocked = self._drop_locks(db, limit)
        return Swept(expired, alerted, len(removed), unlocked)

    def _end(
        self, db: Patient, ids: Iterable[int], state: State, reason: str, now: int, *, mark: bool = False
    ) -> tuple[set[int], set[int]]:
        """End those that wait; with `mark`, tell those that run. Which of them did either."""
        wanted = numbers(ids)
        db.execute(self._sql["guard_unique"], {"ids": wanted})
        waited: set[int] = set()
        running: set[int] = set()
        for _ in range(TRIES):
            waited |= self._ids(db, "end_waiting", ids=wanted, state=str(state), reason=reason, now=now)
            if mark:
                running |= self._ids(db, "cancel_runs", ids=wanted)
            if not self._ids(db, "moving", ids=wanted):
                break
        ended = numbers(waited)
        db.execute(self._sql["forget_next"], {"ids": ended})
        db.execute(self._sql["release_unique"], {"ids": ended, "now": now})
        return waited, running

    def _cloned(self, db: Patient, id: int, actor: str, now: int) -> Receipt:
        row = db.execute(self._sql["to_clone"], {"id": id}, binary=True).fetchone()
        if row is None:
            return Receipt(created=False, refused=f"there is no message {id}")
        kind, args, payload, priority, unique, max_attempts, notify, *routing = row
        message = NewMessage(
            kind,
            args,
            payload,
            priority,
            unique=unique,
            conflict=Conflict.REJECT,
            max_attempts=max_attempts,
            notify=notify,
            routing=Routing(*routing),
        )
        (receipt,) = self._enqueuing.enqueue_with(db, [message], now)
        if receipt.created:
            self._note(db, [id], now, actor, "clone", f"as {receipt.id}")
            self._note(db, [receipt.id], now, actor, "clone", f"of {id}")
        return receipt

    def _past_deadline(self, db: Patient, policies: Mapping[str, KindPolicy], now: int, limit: int) -> tuple[int, int]:
        rows = db.execute(self._sql["past_deadline"], {"now": now, "limit": limit}).fetchall()
        if not rows:
            return 0, 0
        alive = self._ids(db, "alive_of", ids=numbers(row[1] for row in rows))
        expiring = [row for row in rows if row[3] != "alert" and row[1] in alive]
        late = [row for row in rows if row[3] == "alert" and row[1] in alive]
        expired, _ = self._end(db, [row[1] for row in expiring], State.DEAD_LETTER, Dead.EXPIRED, now)
        notices = [(row, expired_notice) for row in expiring if row[1] in expired]
        notices += [(row, deadline_notice) for row in late]
        self._notify(db, [(row[1], say(row[1], row[2], _told(row, policies))) for row, say in notices], now)
        running = [row for row in expiring if row[1] not in expired]
        looked_at = [row for row in rows if row not in running]
        db.execute(self._sql["drop_deadlines"], _keys(looked_at))
        db.execute(self._sql["postpone_deadlines"], _keys(running) | {"later": now + LATER_MS})
        return len(expired), len(late)

    def _notify(self, db: Patient, notices: Sequence[tuple[int, Notice]], now: int) -> None:
        told = [(id, notice) for id, notice in notices if notice.to]
        values = {
            "ids": numbers(id for id, _ in told),
            "addressees": texts(notice.to for _, notice in told),
            "subjects": texts(notice.subject for _, notice in told),
            "texts": texts(notice.text for _, notice in told),
            "dedups": texts(notice.dedup for _, notice in told),
        }
        db.execute(self._sql["add_notices"], values | {"now": now})

    def _outlived(self, db: Patient, policies: Mapping[str, KindPolicy], now: int, limit: int) -> set[int]:
        known = self._kinds.all(db)
        pairs = [(id, state, policies.get(name, KindPolicy(name))) for name, id in known.items() for state in KEPT]
        kept = [(id, state, since) for id, state, policy in pairs if (since := kept_since(policy, state, now))]
        return self._ids(
            db,
            "outlived",
            kinds=numbers(id for id, _, _ in kept),
            states=texts(state for _, state, _ in kept),
            sinces=numbers(since for _, _, since in kept),
            limit=limit,
        )

    def _drop_locks(self, db: Patient, limit: int) -> int:
        """In small transactions, for whoever wants one of these locks waits for them."""
        dropped = 0
        for _ in range(LOCK_ROUNDS):
            dead = [key for (key,) in db.execute(self._sql["dead_locks"], {"limit": limit}).fetchall()]
            if dead:
                with db.transaction():
                    db.execute(self._sql["guard_locks"], {"keys": texts(dead)})
                    db.execute(self._sql["drop_locks"], {"keys": texts(dead)})
            dropped += len(dead)
            if len(dead) < limit:
                break
        return dropped

    def _note(self, db: Patient, ids: Iterable[int], now: int, actor: str, verb: str, detail: str = "") -> None:
        wanted = sorted(ids)
        details = texts(detail for _ in wanted)
        values = {"ids": numbers(wanted), "details": details, "now": now, "actor": actor, "verb": verb}
        db.execute(self._sql["add_deeds"], values)

    def _ids(self, db: Patient, name: str, /, **values: Any) -> set[int]:
        return {id for (id,) in db.execute(self._sql[name], values).fetchall()}


def _ordered(ids: Sequence[int], true_for: set[int]) -> list[int]:
    return [id for id in dict.fromkeys(ids) if id in true_for]


def _told(row: tuple[Any, ...], policies: Mapping[str, KindPolicy]) -> str:
    """Whom a message wants told, or its kind."""
    policy = policies.get(row[2])
    return row[4] or (policy.notify if policy is not None else "")


def _keys(rows: Sequence[tuple[Any, ...]]) -> dict[str, str]:
    return {"ats": numbers(row[0] for row in rows), "ids": numbers(row[1] for row in rows)}
