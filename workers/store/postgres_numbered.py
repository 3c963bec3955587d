"""Statements as PostgreSQL has them, with `$1` for `%(name)s`: the driver then has nothing to look for in their text,
which for long ones takes longer than all else it does."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from psycopg import Cursor, RawCursor

from .postgres_link import Patient

_PLACE = re.compile(r"%%|%\((\w+)\)s")


class Numbered(NamedTuple):
    """A statement, and the names of its parameters in their order."""

    text: str
    names: tuple[str, ...]


def numbered(sql: str) -> Numbered:
    """A statement of named parameters."""
    names = tuple(dict.fromkeys(name for name in _PLACE.findall(sql) if name))
    marks = {name: f"${nth}" for nth, name in enumerate(names, 1)}
    return Numbered(_PLACE.sub(lambda place: marks[place[1]] if place[1] else "%", sql), names)


class Runner:
    """Sends statements by their names over a connection."""

    def __init__(self, db: Patient, statements: Mapping[str, Numbered]) -> None:
        self._db = db
        self._statements = statements

    def __call__(self, name: str, /, **values: Any) -> Cursor[tuple[Any, ...]]:
        text, names = self._statements[name]
        return RawCursor(self._db).execute(text, [values[name] for name in names], binary=True)
