"""Which hosts a command is for: those of the inventory that fit, in the order of their names. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..bus.orders import HostRow
from ..desk import UsageError

STALE = 15.0  # seconds without a word after which a host counts as silent
FORGOTTEN = 86_400.0  # … and after which it is no host of the app any more
MOST_NAMES = 10


class Seen(NamedTuple):
    """A host of the inventory; `seen`: the bus's time of its last word."""

    row: HostRow
    seen: float

    def is_silent(self, now: float) -> bool:
        """Whether nothing was heard of it for longer than it should keep quiet."""
        return now - self.seen > STALE


class Selector(NamedTuple):
    """What was asked for: "" and () mean any. `groups`: hosts that have at least one of them."""

    tag: str = ""
    hosts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @classmethod
    def of(cls, arguments: Mapping[str, Any], groups: tuple[str, ...] = ()) -> "Selector":
        """From what a command of the fleet was given; raises UsageError."""
        tag, hosts = arguments.get("tag") or "", arguments.get("hosts") or []
        if not isinstance(tag, str) or not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
            raise UsageError("--tag and --host take names")
        return cls(tag, tuple(hosts), groups)


def select(inventory: Mapping[str, Seen], selector: Selector) -> tuple[str, ...]:
    """The hosts in the order of their names; raises UsageError when a name is unknown or nothing fits."""
    for host in selector.hosts:
        if host not in inventory:
            raise UsageError(f"no host {host}; the bus knows {_named(inventory)}")
    found = tuple(sorted(name for name, seen in inventory.items() if _fits(seen.row, selector)))
    if not found:
        raise UsageError(
            f"no host {_wanted(selector)}; the bus knows {_named(inventory)}{_groups(inventory, selector)}"
        )
    return found


def _fits(row: HostRow, selector: Selector) -> bool:
    groups = {group.name for group in row.groups}
    return (
        (not selector.hosts or row.host in selector.hosts)
        and (not selector.tag or row.tag == selector.tag)
        and (not selector.groups or not groups.isdisjoint(selector.groups))
    )


def _named(inventory: Mapping[str, Seen]) -> str:
    names = [f"{name} (tag {seen.row.tag})" if seen.row.tag else name for name, seen in sorted(inventory.items())]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(names[:MOST_NAMES]) or "none") + more


def _groups(inventory: Mapping[str, Seen], selector: Selector) -> str:
    """For who mistyped a group: those that there are."""
    groups = {group.name for seen in inventory.values() for group in seen.row.groups}
    return f" with the groups {', '.join(sorted(groups))}" if selector.groups and groups else ""


def _wanted(selector: Selector) -> str:
    parts = [f"named {' or '.join(selector.hosts)}"] if selector.hosts else []
    parts += [f"with the tag {selector.tag}"] if selector.tag else []
    parts += [f"with the group {' or '.join(selector.groups)}"] if selector.groups else []
    return " and ".join(parts) or "at all"
