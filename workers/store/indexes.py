"""The indexes of a store: what the steps of its schema make, beside those that its tables bring along."""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from .migrations import Step

_CHANGE = re.compile(r"^(?:CREATE (?:UNIQUE )?INDEX (\w+)\s[^;]+|DROP INDEX (?:IF EXISTS )?(\w+))", re.MULTILINE)


class Index(NamedTuple):
    """One of them, and the statement that makes it."""

    name: str
    sql: str

    @property
    def fault(self) -> str:
        """What to say where it is missing."""
        return f"the index {self.name} is gone: run `bkd store migrate`, which makes it again"


def indexes(known: Sequence[Step]) -> list[Index]:
    """What these steps leave, in the order in which it is made."""
    found: dict[str, Index] = {}
    for change in (change for step in known for change in _CHANGE.finditer(step.sql)):
        made, dropped = change.groups()
        found.pop(made or dropped, None)
        if made:
            found[made] = Index(made, change[0])
    return list(found.values())


def gone(known: Sequence[Step], there: Collection[str]) -> list[Index]:
    """Those that are not there."""
    return [index for index in indexes(known) if index.name not in there]
