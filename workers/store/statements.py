"""SQL as text: the statements of an engine, each with a name and a line that says what it is for.

They lie in `sql/ENGINE/*.sql`, one after the other:

    -- name: claim
    -- The next rows of one kind, in the order in which they are run.
    SELECT …;
"""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

_NAMED = re.compile(r"^-- name: (\w+)\n-- (.+)\n", re.MULTILINE)


def statements(engine: str) -> dict[str, str]:
    """Every statement of this engine by its name, without its comment; raises ValueError for a name given twice."""
    found: dict[str, str] = {}
    for file in sql_files(engine):
        for name, sql in _parted(file.read_text("utf-8")):
            if name in found:
                raise ValueError(f"{file.name}: a statement {name} is there already")
            found[name] = sql
    return found


def sql_files(*folders: str) -> list[Traversable]:
    """The `.sql` files of a folder below `sql`, by their names."""
    folder = files(__package__).joinpath("sql", *folders)
    return sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)


def _parted(text: str) -> list[tuple[str, str]]:
    heads = list(_NAMED.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return [(head[1], text[head.end() : end].strip().rstrip(";")) for head, end in zip(heads, ends, strict=True)]
