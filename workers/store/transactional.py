"""Messages that are enqueued in the caller's own transaction of PostgreSQL: stored when that is committed.

The connection may be one of psycopg or asyncpg, of SQLAlchemy (Connection or Session, also asynchronous), or Django's;
it is known by its shape, and nothing is imported that is not there already. All rules are those of the function
`enqueue_message` in the store's schema, which also wakes dispatchers when the transaction is committed.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import msgspec

from ...ipc.durable.guid import new_guid
from ...ipc.durable.model import SCHEMA, NewMessage, Receipt, State
from .protocol import StoreError

_TYPES = {
    "kind": "text",
    "args": "bytea",
    "payload": "bytea",
    "priority": "integer",
    "delay": "bigint",
    "due": "bigint",
    "guid": "text",
    "key": "text",
    "unique": "text",
    "conflict": "text",
    "max_attempts": "integer",
    "deadline": "bigint",
    "on_deadline": "text",
    "notify": "text",
    "routing": "text",
}


def enqueue_in(connection: Any, message: NewMessage, *, schema: str = SCHEMA) -> Receipt:
    """Store a message in the transaction that this connection is in. A message that breaks a rule is refused in its
    receipt. Raises what the driver raises, and StoreError for a connection that is asynchronous or unknown here."""
    values = _values(message)
    if _is_asynchronous(connection):
        raise StoreError(f"{_named(connection)} is asynchronous: await aenqueue_in(…)")
    if _is_of_sqlalchemy(connection):
        return _receipt(connection.execute(_clause(schema), values).one())
    if not hasattr(connection, "cursor"):
        raise _unknown(connection)
    with connection.cursor() as cursor:
        cursor.execute(_call(schema, "%s"), tuple(values.values()))
        return _receipt(cursor.fetchone())


async def aenqueue_in(connection: Any, message: NewMessage, *, schema: str = SCHEMA) -> Receipt:
    """As `enqueue_in`, for connections that are awaited."""
    values = _values(message)
    if not _is_asynchronous(connection):
        raise StoreError(f"{_named(connection)} is not asynchronous: enqueue_in(…) without await")
    if _is_of_sqlalchemy(connection):
        return _receipt((await connection.execute(_clause(schema), values)).one())
    if hasattr(connection, "fetchrow"):
        return _receipt(await connection.fetchrow(_call(schema, "$%d"), *values.values()))
    if not hasattr(connection, "cursor"):
        raise _unknown(connection)
    async with connection.cursor() as cursor:
        await cursor.execute(_call(schema, "%s"), tuple(values.values()))
        return _receipt(await cursor.fetchone())


def _values(message: NewMessage) -> dict[str, Any]:
    return {
        "kind": message.kind,
        "args": message.args,
        "payload": message.payload,
        "priority": message.priority,
        "delay": message.delay,
        "due": message.due,
        "guid": message.guid or new_guid(),
        "key": message.key,
        "unique": message.unique,
        "conflict": str(message.conflict),
        "max_attempts": message.max_attempts,
        "deadline": message.deadline,
        "on_deadline": message.on_deadline,
        "notify": message.notify,
        "routing": msgspec.json.encode(message.routing).decode(),
    }


def _call(schema: str, mark: str) -> str:
    """The statement, with a mark of this form (`%s`, `$%d`) for each value."""
    marks = [mark % nth if "%d" in mark else mark for nth in range(1, len(_TYPES) + 1)]
    return _statement(schema, dict(zip(_TYPES, marks, strict=True)))


def _clause(schema: str) -> Any:
    """The statement as SQLAlchemy has it for all its drivers."""
    return importlib.import_module("sqlalchemy").text(_statement(schema, {name: f":{name}" for name in _TYPES}))


def _statement(schema: str, marks: Mapping[str, str]) -> str:
    if not schema.isidentifier():
        raise StoreError(f"the schema of the store is a word, not {schema!r}")
    values = [f"CAST({mark} AS {_TYPES[name]})" for name, mark in marks.items()]
    values[-1] = f"CAST({values[-1]} AS jsonb)"
    return f'SELECT id, guid, created, state, refused FROM "{schema}".enqueue_message({", ".join(values)}, NULL)'


def _receipt(row: Any) -> Receipt:
    """From a row, whatever the driver makes of it: a tuple, or a mapping in the order of its columns."""
    id, guid, created, state, refused = row.values() if hasattr(row, "values") else row
    return Receipt(id, guid, created, State(state), refused)


def _is_of_sqlalchemy(connection: Any) -> bool:
    return any(base.__module__.partition(".")[0] == "sqlalchemy" for base in type(connection).__mro__)


def _is_asynchronous(connection: Any) -> bool:
    return hasattr(connection, "__aenter__") or hasattr(connection, "fetchrow")


def _named(connection: Any) -> str:
    return f"a {type(connection).__module__}.{type(connection).__qualname__}"


def _unknown(connection: Any) -> StoreError:
    return StoreError(
        f"{_named(connection)} is no connection that is known here: use psycopg, asyncpg, SQLAlchemy or Django"
    )
