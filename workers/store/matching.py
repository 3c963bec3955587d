"""Whether the arguments of a message are those an operator looks for."""

from collections.abc import Sequence
from typing import Any

import msgspec


def args_match(args: bytes, where: Sequence[tuple[str, Any]]) -> bool:
    """Whether every path, such as `order.id` or `items.0.sku`, leads to this JSON value; arguments that are no JSON
    match nothing."""
    try:
        document = msgspec.json.decode(args)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return all(_same(_at(document, path.split(".")), value) for path, value in where)


class _Nothing:
    """What lies where a path does not lead."""


def _at(document: Any, parts: list[str]) -> Any:
    for part in parts:
        if isinstance(document, dict) and part in document:
            document = document[part]
        elif isinstance(document, list) and part.isdecimal() and int(part) < len(document):
            document = document[int(part)]
        else:
            return _Nothing
    return document


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON: true is not 1, though 1.0 is."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
