"""A connection to PostgreSQL that is made when it is needed, and again after it was lost."""

import os
import select
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

import psycopg
from psycopg import conninfo, errors, sql
from psycopg.abc import PQGen

from ...ipc.durable.model import SCHEMA
from .protocol import StoreAway, StoreError

CHANGED = "*"  # said on the channel of a store: look at cancels and controls
PATIENCE = 20.0  # seconds without any answer, after which a connection counts as lost
OLDEST_SERVER = 140000

TURNS = {
    "plan_cache_mode": "force_generic_plan",  # planning takes twice as long as all else, and comes to the same
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "statement_timeout": "8s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
}
VERBS = {
    "jit": "off",
    "plan_cache_mode": "force_custom_plan",
    "statement_timeout": "15s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "30s",
}
LIFE = {
    "connect_timeout": "5",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}

FOREVER = (
    errors.ProgrammingError,
    errors.IntegrityError,
    errors.DataError,
    errors.NotSupportedError,
    errors.InvalidPassword,
    errors.InvalidAuthorizationSpecification,
    errors.InvalidCatalogName,
)
NO_URL = (
    "[store] url is none of PostgreSQL: percent-encode what is special in user and password (@ is %40, / is %2F, ? is "
    "%3F, % is %25), and give parameters of libpq alone"
)
REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password supplied")


class Address(NamedTuple):
    """Where a store is: what libpq is told, with the password in it, and the schema there."""

    conninfo: str
    schema: str

    @property
    def channel(self) -> str:
        """What dispatchers of this store listen to."""
        return f"bkd_{self.schema}"


def address(url: str) -> Address:
    """The store that an url names; `?schema=` is ours, all else is libpq's. Raises StoreError for one that is none; no
    part of it is repeated, for where something is not encoded a piece of the password passes for the host."""
    place, _, query = url.partition("?")
    given = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))
    schema = given.pop("schema", SCHEMA)
    named = {"application_name": f"bkd:{socket.gethostname()}:{os.getpid()}"}
    try:
        told = conninfo.conninfo_to_dict(f"{place}?{urlencode(given, quote_via=quote)}")
    except (psycopg.Error, ValueError):
        raise StoreError(NO_URL) from None
    if not _is_whole(place, told):
        raise StoreError(NO_URL)
    if not schema.isidentifier() or schema != schema.lower() or len(schema) > 50:
        raise StoreError("the schema of the store is a word of small letters: correct ?schema= in the url")
    return Address(conninfo.make_conninfo("", **LIFE | named | told), schema)


def _is_whole(place: str, told: Mapping[str, Any]) -> bool:
    """Whether user, password and host were parted where they were meant to be."""
    ports = str(told.get("port", "")).split(",")
    return place.count("@") <= 1 and "@" not in str(told.get("dbname", "")) and all(not p or p.isdigit() for p in ports)


class ClashError(StoreAway):
    """Something is there already of which there can be only one."""


class Patient(psycopg.Connection[tuple[Any, ...]]):
    """A connection that does not wait for ever for a server which says nothing."""

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's; a server that lets all of PATIENCE pass loses the connection."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, PATIENCE)
        except errors._WaitTimeout as error:
            self.pgconn.finish()
            raise errors.OperationalError(f"no answer within {PATIENCE:.0f} s") from error


class Link:
    """One connection with settings of its own. `lost`: how often it was lost in the midst of something."""

    def __init__(self, where: Address, settings: Mapping[str, str]) -> None:
        self.where = where
        self.lost = 0
        self._settings = settings
        self._connection: Patient | None = None
        self._pid = self._abandoned = 0

    @contextmanager
    def session(self) -> Iterator[Patient]:
        """The connection, each statement a transaction unless one is begun. Raises StoreAway when it cannot be had or
        is lost, StoreError for what trying again does not help."""
        try:
            connection = self._connected()
            yield connection
        except (psycopg.Error, OSError) as error:
            self._restore()
            raise judged(error) from error
        except BaseException:
            self._restore()
            raise

    @contextmanager
    def batch(self) -> Iterator[Patient]:
        """As `session`, for a transaction whose statements are sent together: results are read after it. One round
        trip: `connection.transaction()` would wait for the answer to its BEGIN."""
        with self.session() as connection, connection.pipeline():
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    def close(self) -> None:
        """Let go of it; it is made again at the next use."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> Patient:
        if self._connection is not None and not _is_there(self._connection):
            self.close()
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> Patient:
        connection = Patient.connect(self.where.conninfo, autocommit=True)
        try:
            if connection.info.server_version < OLDEST_SERVER:
                raise StoreError("the server of the store is older than PostgreSQL 14: upgrade it")
            connection.execute(self._greeting())
            self._end_predecessor(connection)
            self._pid = connection.info.backend_pid
        except BaseException:
            connection.close()
            raise
        return connection

    def _greeting(self) -> sql.Composed:
        settings = {"search_path": f"{self.where.schema}, pg_temp", **self._settings}
        pairs = [
            sql.SQL("set_config({}, {}, false)").format(sql.Literal(name), sql.Literal(value))
            for name, value in settings.items()
        ]
        return sql.SQL("SELECT {}").format(sql.SQL(", ").join(pairs))

    def _end_predecessor(self, connection: Patient) -> None:
        """The server may still be at work for a connection that is lost here: what it does must be over before."""
        if self._abandoned:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
                " WHERE pid = %s AND usename = current_user AND application_name = current_setting('application_name')",
                (self._abandoned,),
            )
            self._abandoned = 0

    def _restore(self) -> None:
        """Nothing is left of a transaction that has failed; if that cannot be had, the connection is lost."""
        connection = self._connection
        if connection is None:
            return
        try:
            connection.rollback()
        except psycopg.Error:
            self.lost += 1
            self._abandoned = self._pid
            self.close()


def _is_there(connection: Patient) -> bool:
    """Whether nothing was said on an idle connection: a server says nothing there but that it goes."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def judged(error: Exception) -> Exception:
    """StoreError for what a person must mend, else StoreAway; never with more than one line."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, errors.UndefinedTable | errors.UndefinedFunction | errors.InvalidSchemaName):
        return StoreError(f"the store lacks tables of this version ({line}): run `bkd store migrate`")
    refused = isinstance(error, psycopg.OperationalError) and any(words in str(error) for words in REFUSALS)
    if isinstance(error, errors.UniqueViolation):
        return ClashError(line)
    if isinstance(error, FOREVER) or refused:
        return StoreError(f"PostgreSQL refuses: {line}")
    return StoreAway(f"PostgreSQL does not answer as it should: {line}")
