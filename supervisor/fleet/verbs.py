"""Which commands the fleet obeys, and which hosts each is for. Pure."""

from typing import Any

from ..desk import UsageError
from .selection import Seen

ROLLS = frozenset({"restart", "rollback", "reload"})  # hosts take turns
QUIET = frozenset({"restart", "rollback"})  # that it is done says it all
LOOKS = frozenset({"status", "events"})  # nothing changes: not written down, not repeated
AT_ONCE = frozenset({"scale", "stop", "send"})
VERBS = ROLLS | LOOKS | AT_ONCE


def groups_of(verb: str, arguments: dict[str, Any]) -> tuple[str, ...]:
    """The groups a command names: hosts without any of them are not asked. Raises UsageError for a single slot."""
    match verb:
        case "restart":
            names = arguments.get("names") or []
        case "rollback":
            names = [arguments.get("name")]
        case "scale":
            names = list(arguments)
        case _:
            names = []
    for name in names:
        if not isinstance(name, str) or "." in name:
            raise UsageError(f"{name}: the fleet is asked for groups, not for single slots")
    return tuple(names)


def touched(named: tuple[str, ...], hosts: list[Seen]) -> tuple[str, ...]:
    """The groups that a rollout holds while it goes on: those it names, else all of these hosts."""
    return named or tuple(sorted({group.name for seen in hosts for group in seen.row.groups}))
