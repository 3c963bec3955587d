"""The schema of a store as steps that are taken once each, in order: `sql/ENGINE/steps/NNNN_what.sql`."""

from collections.abc import Sequence
from typing import NamedTuple

from .protocol import StoreError
from .statements import sql_files


class Step(NamedTuple):
    """One change of the schema. Its name is kept in the table schema_step when it has been taken."""

    name: str
    sql: str


def steps(engine: str) -> list[Step]:
    """All steps this version knows, in order."""
    return [Step(file.name.removesuffix(".sql"), file.read_text("utf-8")) for file in sql_files(engine, "steps")]


def missing(known: Sequence[Step], taken: Sequence[str]) -> list[Step]:
    """The steps that are still to be taken; raises StoreError for a store that has taken one unknown here."""
    names = {step.name for step in known}
    strange = sorted(set(taken) - names)
    if strange:
        raise StoreError(
            f"the store is of a newer bkd (its schema has {strange[0]}): start that version, or use another store"
        )
    return [step for step in known if step.name not in taken]


def refuse_old(known: Sequence[Step], taken: Sequence[str]) -> None:
    """Raises StoreError for a schema that this version does not know, or that has not been brought up to it."""
    behind = missing(known, taken)
    if behind:
        raise StoreError(f"the store lacks the schema of this version ({behind[0].name}): run `bkd store migrate`")
