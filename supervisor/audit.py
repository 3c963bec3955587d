"""How a command is written into the journal: what was asked for, without the data of events and messages. Pure."""

from collections.abc import Mapping
from typing import Any

LONGEST = 200
MOST = 20
_FLEET = ("fleet", "fleet-look")
_SECRET = ("data", "items", "payload")


def audited(verb: str, given: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The verb and what stands behind it; what was not given is not told."""
    if verb in _FLEET and isinstance(given.get("arguments"), dict):
        rest = {name: value for name, value in given.items() if name not in ("verb", "arguments")}
        return audited(f"{given.get('verb')} --fleet", given["arguments"] | rest)
    selection = given.get("selection")
    said = {**given, **selection, "selection": None} if isinstance(selection, dict) else given
    items = [(str(name)[:40], value) for name, value in said.items() if value not in (None, False, "", [], {})]
    return verb[:40], {name: _text(name, value)[:LONGEST] for name, value in items[:MOST]}


def _text(name: str, value: Any) -> str:
    if name in _SECRET:
        return "…"
    if name == "where" and isinstance(value, list):
        return ",".join("=".join(map(str, pair)) for pair in value if isinstance(pair, list | tuple))
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "yes" if value is True else str(value)
