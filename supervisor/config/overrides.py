"""`[when.host.H]` and `[when.tag.X]`: what differs on one host or one part of the fleet. The host has the last word."""

from typing import Any, NamedTuple

from .faults import Key
from .reader import Reader

DEEPEST = 4


class Layer(NamedTuple):
    """The tables below one `[when.…]`."""

    key: Key
    tree: dict[str, Any]


def layers_of(when: object, reader: Reader) -> list[Layer]:
    """All overrides of the file, whoever they are meant for."""
    found = []
    for way, names in reader.table(when, ("when",)).items():
        if way not in ("tag", "host"):
            reader.faults.unknown(("when", way), ("tag", "host"))
            continue
        for name, tree in reader.table(names, ("when", way)).items():
            layer = Layer(("when", way, name), reader.table(tree, ("when", way, name)))
            _check_identity(layer, reader)
            found.append(layer)
    return found


def merge(base: dict[str, Any], over: dict[str, Any], depth: int = DEEPEST) -> dict[str, Any]:
    """`base` with what `over` says instead; tables are merged, all else is replaced."""
    merged = dict(base)
    for name, value in over.items():
        below = base.get(name)
        both = depth > 1 and isinstance(below, dict) and isinstance(value, dict)
        merged[name] = merge(below, value, depth - 1) if both else value  # type: ignore[arg-type]
    return merged


def _check_identity(layer: Layer, reader: Reader) -> None:
    """Who this host is decides which overrides apply, so they cannot change it (a host may get its tag)."""
    app = layer.tree.get("app")
    for name in ("host", "tag") if layer.key[1] == "tag" else ("host",):
        if isinstance(app, dict) and name in app:
            reader.faults.add((*layer.key, "app", name), f"{name} in [app], which decides what applies", app[name])
