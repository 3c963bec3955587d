"""Which commands the fleet obeys, and which hosts each is for. Pure."""

from collections.abc import Collection
from typing import Any

from ..desk import UsageError
from .selection import Seen

ROLLS = frozenset({"restart", "rollback", "reload"})  # hosts take turns
QUIET = frozenset({"restart", "rollback"})  # that it is done says it all
LOOKS = frozenset({"status", "events"})  # nothing changes: not written down, not repeated
AT_ONCE = frozenset({"scale", "stop", "send"})
ROLES = ("all", "server")
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
        case "send":
            role = str(arguments.get("to") or "all").partition(":")[0]
            names = [] if role in ROLES else [role]
        case _:
            names = []
    if not isinstance(names, list):
        raise UsageError("names of groups are a list")
    for name in names:
        if not isinstance(name, str) or "." in name:
            raise UsageError(f"{name}: the fleet is asked for groups, not for single slots")
    return tuple(names)


def here(verb: str, arguments: dict[str, Any], groups: Collection[str]) -> dict[str, Any]:
    """What a command means on a host with these groups: of several that it names, those that are there."""
    if verb == "restart" and arguments.get("names"):
        return {**arguments, "names": [name for name in arguments["names"] if name in groups] or arguments["names"]}
    if verb == "scale":
        return {name: count for name, count in arguments.items() if name in groups} or arguments
    return arguments


def tag_of(verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The tag that `--to web:blue` names, as --tag does."""
    tag = str(arguments.get("to") or "").partition(":")[2] if verb == "send" else ""
    return {"tag": tag} if tag else {}


def touched(named: tuple[str, ...], hosts: list[Seen]) -> tuple[str, ...]:
    """The groups that a rollout holds while it goes on: those it names, else all of these hosts."""
    return named or tuple(sorted({group.name for seen in hosts for group in seen.row.groups}))
