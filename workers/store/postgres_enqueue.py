"""How messages get into PostgreSQL from a dispatcher: those without keys as columns, the others with all rules."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from psycopg import Cursor

from ...ipc.durable.guid import new_guid
from ...ipc.durable.model import NewMessage, Receipt, Routing, State
from .admission import due_at, refusal
from .postgres_arrays import bodies, numbers, some_bodies, some_numbers, some_texts, texts
from .postgres_kinds import Kinds
from .postgres_link import ClashError, Link, Patient
from .postgres_numbered import Runner, numbered

AT_ONCE = 2_000  # messages in one statement
UNROUTED = Routing()

Rows = Cursor[tuple[Any, ...]]
Order = tuple[str, dict[str, Any]]  # a statement's name and its values

logger = logging.getLogger("bkd.store")


class Enqueuing:
    """Messages on their way into the store."""

    def __init__(self, link: Link, sql: Mapping[str, str], kinds: Kinds) -> None:
        self._link = link
        self._sql = sql
        self._numbered = {name: numbered(sql[name]) for name in ("store", "store_due", "ring")}
        self._kinds = kinds

    def enqueue(self, messages: Sequence[NewMessage], now: int, *, loud: bool) -> list[Receipt]:
        """See Store.enqueue. `loud`: dispatchers of other hosts are told."""
        if not messages:
            return []
        if not any(message.key or message.unique for message in messages):
            try:
                return self._all_plainly(messages, now, loud=loud)
            except ClashError as error:  # it takes a closer look to see which of the guids is there already
                logger.debug("messages are stored one by one: %s", error)
        refused = [refusal(message) for message in messages]
        good = [message for message, why in zip(messages, refused, strict=True) if not why]
        with self._link.session() as db, db.transaction():
            return _merged(refused, self.enqueue_with(db, good, now))

    def enqueue_with(self, db: Patient, messages: Sequence[NewMessage], now: int) -> list[Receipt]:
        """As `enqueue`, in the transaction that this connection is in; all rules are looked at there."""
        rows = [self._carefully(db, part, now) for part in _parts(messages)]
        return [_receipt(row) for part in rows for row in part.fetchall()]

    def plain(self, messages: Sequence[NewMessage], now: int, *, loud: bool) -> "Plain":
        """Messages without keys, to be sent in a transaction. `loud`: see `enqueue`."""
        refused = [refusal(message) for message in messages]
        good = [message for message, why in zip(messages, refused, strict=True) if not why]
        guids = [message.guid or new_guid() for message in good]
        kinds = self._kinds.ids(dict.fromkeys(message.kind for message in good), add=True)
        parts = zip(_parts(good), _parts(guids), strict=True)
        orders: list[Order] = [(_way(part[0], now), _columns(*part, kinds, now) | {"now": now}) for part in parts]
        ring = {"channel": self._link.where.channel, "names": texts(kinds)}
        return Plain(orders, guids, refused, ring if loud and kinds else None)

    def payload(self, id: int) -> bytes:
        """The bytes beside the arguments."""
        with self._link.session() as db:
            row = db.execute(self._sql["payload"], {"id": id}, binary=True).fetchone()
        return row[0] if row else b""

    def _all_plainly(self, messages: Sequence[NewMessage], now: int, *, loud: bool) -> list[Receipt]:
        plain = self.plain(messages, now, loud=loud)
        with self._link.batch() as db:
            plain.send(Runner(db, self._numbered))
        return plain.receipts()

    def _carefully(self, db: Patient, messages: Sequence[NewMessage], now: int) -> Rows:
        return db.execute(self._sql["store_carefully"], _careful_columns(messages) | {"now": now})


class Plain:
    """Messages without keys on their way. A guid that is there already fails their transaction."""

    def __init__(
        self, orders: Sequence[Order], guids: Sequence[str], refused: Sequence[str], ring: Mapping[str, str] | None
    ) -> None:
        self._orders, self._guids, self._refused, self._ring = orders, guids, refused, ring
        self._sent: list[Rows] = []

    def send(self, run: Runner) -> None:
        """With all else that the transaction does."""
        self._sent = [run(name, **values) for name, values in self._orders]
        if self._ring is not None:
            run("ring", **self._ring)

    def receipts(self) -> list[Receipt]:
        """When it is committed: one for each message."""
        ids = [id for rows in self._sent for (id,) in rows.fetchall()]
        return _merged(self._refused, map(Receipt, ids, self._guids))


def _merged(refused: Sequence[str], stored: Iterable[Receipt]) -> list[Receipt]:
    """With those that were not even tried."""
    if not any(refused):
        return list(stored)
    rest = iter(stored)
    return [Receipt(created=False, refused=why) if why else next(rest) for why in refused]


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))


def _way(messages: Sequence[NewMessage], now: int) -> str:
    """The statement that stores these."""
    usual = all(
        not one.payload and not one.deadline and one.routing == UNROUTED and due_at(one, now) <= now for one in messages
    )
    return "store_due" if usual else "store"


def _receipt(row: tuple[Any, ...]) -> Receipt:
    id, guid, created, state, refused = row
    return Receipt(id, guid, created, State(state), refused)


def _columns(
    messages: Sequence[NewMessage], guids: Sequence[str], kinds: Mapping[str, int], now: int
) -> dict[str, Any]:
    """The parameters of `store`, but for its time."""
    return {
        "kind_id": numbers(kinds[one.kind] for one in messages),
        "args": bodies(one.args for one in messages),
        "priority": numbers(one.priority for one in messages),
        "due": numbers(due_at(one, now) for one in messages),
        "guid": texts(guids),
        "payload": some_bodies([one.payload for one in messages]),
        "max_attempts": some_numbers([one.max_attempts for one in messages]),
        "deadline": some_numbers([one.deadline for one in messages]),
        "on_deadline": texts(one.on_deadline for one in messages),
        "notify": some_texts([one.notify for one in messages]),
        "routing": some_texts(["" if one.routing == UNROUTED else _json(one.routing) for one in messages]),
    }


def _careful_columns(messages: Sequence[NewMessage]) -> dict[str, Any]:
    """The parameters of `store_carefully`, but for its time."""
    return {
        "kind": texts(one.kind for one in messages),
        "args": bodies(one.args for one in messages),
        "priority": numbers(one.priority for one in messages),
        "delay": numbers(one.delay for one in messages),
        "due": numbers(one.due for one in messages),
        "guid": texts(one.guid or new_guid() for one in messages),
        "payload": bodies(one.payload for one in messages),
        "max_attempts": numbers(one.max_attempts for one in messages),
        "deadline": numbers(one.deadline for one in messages),
        "on_deadline": texts(one.on_deadline for one in messages),
        "notify": texts(one.notify for one in messages),
        "routing": texts(_json(one.routing) for one in messages),
        "key": texts(one.key for one in messages),
        "unique": texts(one.unique for one in messages),
        "conflict": texts(one.conflict for one in messages),
    }


def _json(routing: Routing) -> str:
    return msgspec.json.encode(routing).decode().replace("\\u0000", "�")
