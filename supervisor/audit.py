"""How a command is written into the journal: what was asked for, without the data of events and messages. Pure."""

import json
from collections.abc import Mapping
from typing import Any

LONGEST = 200
MOST = 20
FEW = 5
ADDING = "message:add"
_FLEET = ("fleet", "fleet-look")
_SECRET = ("data", "items", "payload")


def audited(verb: str, given: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The verb and what stands behind it; what was not given is not told."""
    if verb in _FLEET and isinstance(given.get("arguments"), dict):
        rest = {name: value for name, value in given.items() if name not in ("verb", "arguments")}
        return audited(f"{given.get('verb')} --fleet", given["arguments"] | rest)
    if verb == ADDING:
        return verb, {"kind": str(given.get("kind", ""))[:LONGEST]}
    selection = given.get("selection")
    said = {**given, **selection, "selection": None} if isinstance(selection, dict) else given
    items = [(str(name)[:40], value) for name, value in said.items() if value not in (None, False, "", [], {})]
    return verb[:40], {name: _text(name, value)[:LONGEST] for name, value in items[:MOST]}


def outcome(verb: str, code: int, out: str, err: str) -> str:
    """How it ended. The journal has most of what happened already, but not which messages are new."""
    lines = err.strip().splitlines()
    if verb == ADDING and (ids := _ids(out)):
        return f"stored {_numbered(ids)}{f'; {lines[-1][:LONGEST]}' if lines else ''}"
    return "done" if code == 0 else lines[-1][:300] if lines else f"exit code {code}"


def _ids(out: str) -> list[int]:
    """The numbers that are answered, as text or as a document."""
    try:
        return [int(id) for id in (json.loads(out)["ids"] if out.startswith("{") else out.split())]
    except (ValueError, TypeError, KeyError):
        return []


def _numbered(ids: list[int]) -> str:
    """`7`, `7, 9` or `7 to 1006 (1,000 messages)`."""
    if len(ids) <= FEW:
        return ", ".join(map(str, ids))
    return f"{min(ids)} to {max(ids)} ({len(ids):,} messages)"


def _text(name: str, value: Any) -> str:
    if name in _SECRET:
        return "…"
    if name == "where" and isinstance(value, list):
        return ",".join("=".join(map(str, pair)) for pair in value if isinstance(pair, list | tuple))
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "yes" if value is True else str(value)
