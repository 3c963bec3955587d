"""A SQLite database as the store uses it: one connection that writes, one that reads, and transactions.

SQLite keeps what is committed through a power cut: WAL with `synchronous=FULL`. Only what need not outlive the host,
such as a claim, does not wait for the disk; the death of a process loses neither. Errors become StoreAway (the disk is
full, locked, failing) or StoreError (no database, damaged, another schema). After one of the disk the connections are
opened anew with the next transaction.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import apsw

from .indexes import Index, gone
from .matching import args_match
from .migrations import Step, missing, refuse_old, steps
from .protocol import StoreAway, StoreError
from .sqlitefile import StoreFile
from .sqlitekinds import Kinds
from .sqlitenumbers import Numbers
from .statements import statements

BUSY_MS = 5_000
CHECKPOINT_PAGES = 4_000
CACHE_KIB = 32_000
WAL_BYTES = 64 * 1024 * 1024
USUAL_BYTES = (CHECKPOINT_PAGES + 200) * (4096 + 24)  # of a log that begins again at CHECKPOINT_PAGES
LIVED = 1.0  # seconds: a store that is open no longer has no use for a long log

Values = Sequence[Any] | Mapping[str, Any]

_LATER = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.FullError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.NoMemError,
    apsw.InterruptError,
    apsw.ProtocolError,
)


class Rows(Protocol):
    """What a statement answers, read as it is asked for."""

    def __iter__(self) -> Iterator[tuple[Any, ...]]: ...
    def fetchone(self) -> tuple[Any, ...] | None: ...
    def fetchall(self) -> list[tuple[Any, ...]]: ...
    def close(self) -> None: ...


class Database:
    """The tables of one file. Of one thread; `writing` and `reading` are its transactions, and do not nest."""

    def __init__(self, file: StoreFile) -> None:
        self.file = file
        self.kinds = Kinds(self)
        self.numbers = Numbers(self)
        self._sql = statements("sqlite")
        self._steps = steps("sqlite")
        self._writer: apsw.Connection | None = None
        self._reader: apsw.Connection | None = None
        self._at: apsw.Connection | None = None
        self._lasting = True
        self._inode = 0
        self._connected_at = 0.0
        self._is_long = False

    def open(self) -> None:
        """Take the file; a new one gets its tables. Raises StoreError and StoreAway as Store.open says, and has let go
        of the file then."""
        with self._or_closed():
            taken = self._taken()
            if taken:
                refuse_old(self._steps, taken)
            else:
                self._take(self._steps)

    def migrate(self) -> list[str]:
        """Take the steps that are missing, and make indexes again that are gone; what was done. Raises as `open`."""
        with self._or_closed():
            behind = missing(self._steps, self._taken())
            self._take(behind)
            again = self._make_again()
        return [step.name for step in behind] + [f"index {index.name}" for index in again]

    def close(self) -> None:
        """Let go of the file; never raises."""
        self._drop()
        self.file.release()
        self._inode = 0

    @contextmanager
    def writing(self, *, lasting: bool = True) -> Iterator[None]:
        """A transaction that has happened as a whole when the block is left, and not at all when it raises. A power cut
        shortly after may take it back unless it is `lasting`, but never without all that came after it."""
        with self._translated():
            connection = self._writer or self._connected()
            if lasting is not self._lasting:
                connection.execute(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
                self._lasting = lasting
            connection.execute("BEGIN IMMEDIATE")
            self._at = connection
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                self._forget()
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._at = None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A look at one moment, on a connection that cannot write."""
        with self._translated():
            connection = self._reader or self._reading()
            connection.execute("BEGIN")
            self._at = connection
            try:
                yield
            finally:
                self._at = None
                connection.execute("ROLLBACK")

    def run(self, name: str, values: Values = ()) -> Rows:
        """Run a named statement in the transaction under way."""
        return self.execute(self._sql[name], values)

    def many(self, name: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a named statement once for each row of values."""
        assert self._at is not None, "no transaction is under way"
        self._at.executemany(self._sql[name], rows)

    def one(self, name: str, values: Values = ()) -> tuple[Any, ...] | None:
        """The first row of a named statement, if there is one."""
        return self.run(name, values).fetchone()

    def execute(self, sql: str, values: Values = ()) -> Rows:
        """Run SQL in the transaction under way."""
        assert self._at is not None, "no transaction is under way"
        return cast(Rows, self._at.execute(sql, values))

    def text(self, name: str) -> str:
        """The SQL of a named statement, to be made part of another one."""
        return self._sql[name]

    def names(self, prefix: str) -> list[str]:
        """The statements whose names begin so."""
        return [name for name in self._sql if name.startswith(prefix)]

    def gone_indexes(self) -> list[Index]:
        """Those of the schema that are not there, in the transaction under way."""
        return gone(self._steps, {name for (name,) in self.run("indexes")})

    def changes(self) -> int:
        """Rows the last statement has changed."""
        assert self._at is not None, "no transaction is under way"
        return self._at.changes()

    def all_changes(self) -> int:
        """Rows that were changed since the connection was opened."""
        assert self._at is not None, "no transaction is under way"
        return self._at.total_changes()

    def refuse_swapped(self) -> None:
        """Raises StoreAway when the file that is open is not the one at its path any more."""
        try:
            there = os.stat(self.file.path).st_ino
        except OSError as error:
            self._drop()
            raise StoreAway(f"{self.file.path} is gone ({error.strerror}): bring it back") from error
        if self._inode and there != self._inode:
            self._drop()
            self._inode = there
            raise StoreAway(f"{self.file.path} is another file now: it is opened anew")

    def checkpoint(self) -> None:
        """Bring the log into the database and make it short; what is in the way of that is left for the next time."""
        with self._translated():
            (self._writer or self._connected()).wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def lengthen(self) -> None:
        """Make the log as long as it gets, once, when the store has been open for a while."""
        if self._writer is not None and not self._is_long and time.monotonic() > self._connected_at + LIVED:
            self._is_long = True
            self.file.lengthen_log(USUAL_BYTES)

    def _taken(self) -> list[str]:
        self.file.take()
        with self.writing():
            tables = {name for (name,) in self.run("tables")}
            if "schema_step" in tables:
                return [name for (name,) in self.run("steps_taken")]
        if tables:
            raise StoreError(f"{self.file.path} is a database of something else: say another place in [store] url")
        return []

    def _take(self, behind: Sequence[Step]) -> None:
        for step in behind:
            with self.writing():
                self.run("make_steps")
                self.execute(step.sql)
                self.run("step_taken", (step.name,))

    def _make_again(self) -> list[Index]:
        with self.writing():
            again = self.gone_indexes()
            for index in again:
                self.execute(index.sql)
        return again

    @contextmanager
    def _or_closed(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _connected(self) -> apsw.Connection:
        if self._inode and not self.file.path.exists():
            raise StoreAway(f"{self.file.path} is gone: bring it back")
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        connection = apsw.Connection(str(self.file.path), flags=flags)
        _prepare(connection, f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self._inode = os.stat(self.file.path).st_ino
        os.chmod(self.file.path, 0o600)
        self._writer, self._lasting = connection, True
        self._connected_at, self._is_long = time.monotonic(), False
        return connection

    def _reading(self) -> apsw.Connection:
        if self._writer is None:
            self._connected()
        connection = apsw.Connection(str(self.file.path), flags=apsw.SQLITE_OPEN_READWRITE)
        _prepare(connection, "PRAGMA query_only = 1")
        connection.create_scalar_function("args_match", cast(Any, args_match), 2, deterministic=True)
        self._reader = connection
        return connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _LATER as error:
            if not isinstance(error, apsw.BusyError | apsw.LockedError):
                self._drop()
            raise StoreAway(f"{self.file.path}: {_said(error)}") from error
        except OverflowError as error:
            raise StoreError(f"a number is larger than a store can hold: {error}") from error
        except apsw.Error as error:
            self._drop()
            raise StoreError(f"{self.file.path} cannot be used: {_said(error)}") from error

    def _forget(self) -> None:
        self.kinds.forget()
        self.numbers.forget()

    def _drop(self) -> None:
        self._forget()
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close(True)
        self._writer = self._reader = None


def _prepare(connection: apsw.Connection, last: str) -> None:
    connection.set_busy_timeout(BUSY_MS)
    for pragma in (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        f"PRAGMA journal_size_limit = {WAL_BYTES}",
        f"PRAGMA cache_size = -{CACHE_KIB}",
        "PRAGMA temp_store = MEMORY",
        last,
    ):
        connection.execute(pragma)


def _said(error: apsw.Error) -> str:
    return str(error) or type(error).__name__
