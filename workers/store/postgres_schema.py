"""The schema of the store in PostgreSQL: its steps, and whether it is sound."""

import time
from collections.abc import Mapping

from psycopg import sql

from .indexes import Index, gone
from .migrations import missing, refuse_old, steps
from .postgres_link import Link, Patient
from .protocol import StoreError

ENGINE = "postgres"
OLD_SNAPSHOT = 60.0  # seconds of a transaction, after which it is told that it keeps rows from being vacuumed


class Schema:
    """The tables of one store."""

    def __init__(self, link: Link, statements: Mapping[str, str]) -> None:
        self._link = link
        self._sql = statements

    def open(self) -> None:
        """A store without tables gets them; raises StoreError for tables that are not of this version."""
        with self._link.session() as db:
            taken = self._taken(db)
        if not taken:
            self.migrate()
        else:
            refuse_old(steps(ENGINE), taken)

    def migrate(self) -> list[str]:
        """Take the steps that are missing, and make indexes again that are gone, all or none; what was done. One host
        does it while others wait."""
        with self._link.session() as db, db.transaction():
            db.execute("SET LOCAL lock_timeout = '60s'")
            db.execute("SET LOCAL statement_timeout = '600s'")
            db.execute(self._sql["guard_schema"])
            db.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self._link.where.schema)))
            db.execute(self._sql["make_steps"])
            todo = missing(steps(ENGINE), self._taken(db))
            for step in todo:
                db.execute(step.sql)
                db.execute(self._sql["step_taken"], {"name": step.name, "at": int(time.time() * 1000)})
            again = self._gone_indexes(db)
            for index in again:
                # one that is there all the same was left half made, and is not used
                db.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(index.name)))
                db.execute(index.sql)
        return [step.name for step in todo] + [f"index {index.name}" for index in again]

    def check(self) -> list[str]:
        """What is wrong with it, in lines."""
        try:
            with self._link.session() as db:
                refuse_old(steps(ENGINE), self._taken(db))
                names = [name for name in self._sql if name.startswith("check_")]
                faults = [text for name in names for (text,) in db.execute(self._sql[name]).fetchall()]
                faults += [index.fault for index in self._gone_indexes(db)]
                old = db.execute(self._sql["old_snapshots"], {"seconds": OLD_SNAPSHOT}).fetchall()
                return faults + [text for (text,) in old]
        except StoreError as error:
            return [str(error)]

    def _gone_indexes(self, db: Patient) -> list[Index]:
        return gone(steps(ENGINE), {name for (name,) in db.execute(self._sql["indexes"]).fetchall()})

    def _taken(self, db: Patient) -> list[str]:
        ((there,),) = db.execute(self._sql["steps_there"], {"schema": self._link.where.schema}).fetchall()
        return [name for (name,) in db.execute(self._sql["steps_taken"]).fetchall()] if there else []
