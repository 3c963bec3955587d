"""Columns as PostgreSQL's array literals: many rows travel as one parameter each, without a loop in the driver.

A column in which nothing is said is `{}`: `unnest` fills it up with NULL.
"""

from collections.abc import Iterable, Sequence

EMPTY = "{}"


def numbers(values: Iterable[int]) -> str:
    """For an array of integers."""
    return f"{{{','.join(map(str, values))}}}"


def flags(values: Iterable[bool]) -> str:
    """For an array of booleans."""
    return f"{{{','.join('t' if value else 'f' for value in values)}}}"


def texts(values: Iterable[str]) -> str:
    """For an array of texts. PostgreSQL knows no NUL: in its place there is U+FFFD."""
    listed = list(values)
    quoted = {value: _quoted(value) for value in set(listed)}
    return f"{{{','.join([quoted[value] for value in listed])}}}"


def bodies(values: Iterable[bytes]) -> str:
    """For an array of bytes."""
    return f"{{{','.join([_HEX % value.hex() for value in values])}}}"


def some_numbers(values: Sequence[int]) -> str:
    """As `numbers`, empty when all of them are 0."""
    return numbers(values) if any(values) else EMPTY


def some_texts(values: Sequence[str]) -> str:
    """As `texts`, empty when all of them are ""."""
    return texts(values) if any(values) else EMPTY


def some_bodies(values: Sequence[bytes]) -> str:
    """As `bodies`, empty when all of them are b""."""
    return bodies(values) if any(values) else EMPTY


def clean(text: str) -> str:
    """A text that PostgreSQL can hold."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


_HEX = '"\\\\x%s"'


def _quoted(text: str) -> str:
    if text.isascii() and '"' not in text and "\\" not in text and "\0" not in text:
        return f'"{text}"'
    escaped = clean(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
