"""How messages get into SQLite. Those without keys go in as a batch; a key is looked at message by message."""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import astuple

from ...ipc.durable.guid import new_guid
from ...ipc.durable.model import Conflict, NewMessage, Receipt, Routing, State
from .admission import digest, due_at, refusal
from .sqlitedatabase import Database
from .sqlitekinds import Kind
from .sqlitewaiting import UNIQUE, Waiting, put_in

UNROUTED = Routing()


def enqueue(db: Database, messages: Sequence[NewMessage], now: int) -> list[Receipt]:
    """Store them, in their order; a receipt for each."""
    if not messages:
        return []
    first = db.numbers.take(len(messages))
    receipts: dict[int, Receipt] = {}
    batch = _Batch(now)
    for id, message in enumerate(messages, first):
        refused = refusal(message)
        if refused:
            receipts[id] = Receipt(refused=refused)
        elif message.key or message.unique:
            receipts.update(batch.write(db))
            batch = _Batch(now)
            receipts[id] = _Keyed(db, message, id, now).store()
        else:
            batch.add(message, id, db.kinds.of(message.kind).id)
    receipts.update(batch.write(db))
    return [receipts[id] for id in range(first, first + len(messages))]


class _Batch:
    """Messages that have no keys."""

    def __init__(self, now: int) -> None:
        self._now = now
        self._ids: list[int] = []
        self._guids: list[str] = []
        self._plain: list[tuple[Any, ...]] = []
        self._routed: list[tuple[Any, ...]] = []
        self._besides: list[tuple[int, NewMessage]] = []
        self._later = False

    def add(self, message: NewMessage, id: int, kind: int) -> None:
        """One more; in the order of their numbers."""
        guid, due = message.guid or new_guid(), due_at(message, self._now)
        row = _row(message, id, guid, kind, self._now, due)
        self._ids.append(id)
        self._guids.append(guid)
        self._later |= due > self._now
        if message.payload or message.deadline:
            self._besides.append((id, message))
        if message.routing is UNROUTED or message.routing == UNROUTED:
            self._plain.append(row)
        else:
            self._routed.append(row + astuple(message.routing))

    def write(self, db: Database) -> dict[int, Receipt]:
        """Store them; the receipts by their numbers."""
        if not self._ids:
            return {}
        before = db.all_changes()
        for name, rows in (("add_message", self._plain), ("add_routed", self._routed)):
            if rows:
                db.many(name, rows)
        receipts = {id: Receipt(id, guid) for id, guid in zip(self._ids, self._guids, strict=True)}
        if db.all_changes() - before < len(self._ids):
            receipts.update(_seen(db, receipts))
        for id, message in self._besides:
            if receipts[id].created:
                _store_besides(db, id, message)
        db.run("new_ready", (self._ids[0], self._ids[-1], self._now))
        if self._later:
            db.run("new_delayed", (self._ids[0], self._ids[-1], self._now))
        return receipts


class _Keyed:
    """A message with an idempotency key or a unique key."""

    def __init__(self, db: Database, message: NewMessage, id: int, now: int) -> None:
        self._db = db
        self._message = message
        self._id = id
        self._now = now
        self._kind: Kind = db.kinds.of(message.kind)

    def store(self) -> Receipt:
        """Store it, unless it is there or another one has its key."""
        return self._by_guid() or self._by_key() or self._by_unique() or self._new(State.QUEUED)

    def _by_guid(self) -> Receipt | None:
        row = self._db.one("id_of_guid", (self._message.guid,)) if self._message.guid else None
        return found(self._db, row[0]) if row else None

    def _by_key(self) -> Receipt | None:
        message = self._message
        if not message.key:
            return None
        row = self._db.one("idempotent", (message.routing.sender, message.key))
        if row is None:
            return None
        id, known = row
        if known != digest(message):
            return Receipt(id, created=False, refused=f"the key {message.key!r} was used for another message ({id})")
        return found(self._db, id)

    def _by_unique(self) -> Receipt | None:
        message = self._message
        row = self._db.one("unique_owner", (self._kind.id, message.unique)) if message.unique else None
        if row is None:
            return None
        owner, successor = row
        other = found(self._db, successor or owner)
        waits = other.state is not State.RUNNING
        if message.conflict is Conflict.REJECT:
            refused = f"message {other.id} of {message.kind} lives and has the unique key {message.unique!r}"
            return Receipt(other.id, other.guid, created=False, state=other.state, refused=refused)
        if message.conflict is Conflict.AGAIN and not waits:
            self._db.run("set_unique", (owner, self._id, self._kind.id, message.unique))
            return self._new(State.BLOCKED)
        if message.conflict is Conflict.REPLACE and waits:
            self._replace(other.id)
        self._keep_key(other.id)
        return other

    def _replace(self, id: int) -> None:
        message = self._message
        self._db.run("replace_args", (message.args, len(message.payload), id))
        self._db.run("drop_payload", (id,))
        if message.payload:
            self._db.run("add_payload", (id, message.payload))

    def _new(self, state: State) -> Receipt:
        db, message, id = self._db, self._message, self._id
        guid, due = message.guid or new_guid(), due_at(message, self._now)
        row = _row(message, id, guid, self._kind.id, self._now, due)
        db.run("add_routed", row + astuple(message.routing))
        if message.unique and state is State.QUEUED:
            db.run("take_unique", (self._kind.id, message.unique, id))
        self._keep_key(id)
        _store_besides(db, id, message)
        marks = UNIQUE if message.unique else 0
        reason = "unique" if state is State.BLOCKED else ""
        rest = (message.priority, 0, state, 0, 0, 0, 0, 0, 0, 0, marks, reason)
        put_in(db, Waiting(id, self._kind.id, due, *rest), self._now)
        return Receipt(id, guid, state=state)

    def _keep_key(self, id: int) -> None:
        if self._message.key:
            sender, key = self._message.routing.sender, self._message.key
            self._db.run("keep_key", (sender, key, id, digest(self._message)))


def found(db: Database, id: int) -> Receipt:
    """The receipt of a message that is there already."""
    guid, state = db.run("guid_and_state", {"id": id}).fetchall()[0]
    return Receipt(id, guid, created=False, state=State(state))


def _seen(db: Database, receipts: dict[int, Receipt]) -> dict[int, Receipt]:
    """Of these, the ones whose guid another message has."""
    there = {}
    for id, receipt in receipts.items():
        (stored,) = db.run("id_of_guid", (receipt.guid,)).fetchall()[0]
        if stored != id:
            there[id] = found(db, stored)
    return there


def _row(message: NewMessage, id: int, guid: str, kind: int, now: int, due: int) -> tuple[Any, ...]:
    return (
        id, guid, kind, message.args, len(message.payload), message.priority, now, due, message.max_attempts,
        message.deadline, message.on_deadline if message.deadline else "", message.key, message.unique, message.notify,
    )  # fmt: skip


def _store_besides(db: Database, id: int, message: NewMessage) -> None:
    if message.payload:
        db.run("add_payload", (id, message.payload))
    if message.deadline:
        db.run("add_deadline", (message.deadline, id))
