"""One `[workers.NAME]`: what its kind allows and needs, and what it means when nothing is said."""

import os
import re
from typing import Any

from ..places import LONGEST_SOCKET_PATH
from .address import Unix, absolute_address, clash, parse_address
from .faults import Faults, Key
from .processors import processors
from .reader import Reader
from .schema import GroupSection

OF_THE_BUS = ("server", "all", "commands", "hosts", "reply", "permit", "limit", "lock")  # its keys and channels
RESERVED = (*OF_THE_BUS, "dispatcher")

FORKING = ("web", "python", "messages")
KINDS_OF = {
    "app": ("web",),
    "bind": ("web", "command"),
    "lame_duck": ("web",),
    "request_timeout": ("web",),
    "max_requests": ("web", "messages"),
    "max_memory": FORKING,
    "target": ("python",),
    "command": ("command",),
    "stop_signal": ("command",),
    "ready": ("python", "command"),
    "handlers": ("messages",),
    "mode": ("messages",),
    "concurrency": ("messages",),
    "preload": FORKING,
    "keep_releases": FORKING,
}
NEEDED = {
    "web": ("app", "MODULE:NAME such as shop.web:app"),
    "python": ("target", "MODULE:NAME such as shop.clock:main"),
    "command": ("command", 'a program such as ["memcached", "-l", "127.0.0.1"]'),
    "messages": ("handlers", 'modules such as ["shop.tasks"]'),
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "web": {"count": "auto", "bind": ["127.0.0.1:8000"]},
    "python": {"restart": "failure"},
    "command": {"restart": "failure", "ready": "after:1s", "max_surge": 0, "max_unavailable": 1},
    "messages": {"count": "auto"},
}

_NAME = re.compile(r"[a-z][a-z0-9_-]*")


def check_group(name: str, table: object, kind: object, key: Key, reader: Reader) -> dict[str, Any]:
    """The options given for a group of this kind; whether it has all it needs is not asked."""
    if _NAME.fullmatch(name) is None or name in RESERVED:
        reader.faults.add(key, f"a name of a-z, 0-9, - and _, but not {' or '.join(RESERVED)}", name)
    if isinstance(kind, str) and kind in NEEDED and isinstance(table, dict):
        _check_kind(table, kind, key, reader.faults)
    return reader.section(GroupSection, table, key)


def read_group(name: str, table: object, reader: Reader, base: str) -> GroupSection | None:
    """The whole group, or None and faults."""
    key = ("workers", name)
    kind = table.get("kind") if isinstance(table, dict) else None
    options = check_group(name, table, reader.text(kind, key) if isinstance(kind, str) else None, key, reader)
    if isinstance(table, dict) and kind is None:
        reader.faults.add((*key, "kind"), f"one of {', '.join(NEEDED)}")
    if "kind" not in options:
        return None
    group = _resolved(name, options, base)
    _check_needed(group, table, key, reader.faults)
    if not reader.faults.touch(key):
        _check_whole(group, key, reader.faults)
    return group


def _check_kind(table: dict[str, object], kind: str, key: Key, faults: Faults) -> None:
    for option, value in table.items():
        kinds = KINDS_OF.get(option, (kind,))
        if kind not in kinds:
            faults.add((*key, option), f"no such key in a {kind} group (it is for {' and '.join(kinds)})", value)


def check_listeners(groups: list[GroupSection], faults: Faults) -> None:
    """No two listeners on the same address."""
    taken: dict[object, str] = {}
    for group in groups:
        for index, text in enumerate(group.bind):
            address = clash(parse_address(text))
            if address in taken:
                key = ("workers", group.name, "bind", index)
                faults.add(key, f"an address that workers.{taken[address]} does not have", text)
            elif address is not None:
                taken[address] = group.name


def _resolved(name: str, options: dict[str, Any], base: str) -> GroupSection:
    values = DEFAULTS[options["kind"]] | options
    if values.get("count") == "auto":
        values["count"] = processors()
    values["cwd"] = below(base, values.get("cwd", "."))
    values["bind"] = [absolute_address(text, base) for text in values.get("bind", ())]
    return GroupSection(name=name, **values)


def below(base: str, path: str) -> str:
    """`path` seen from `base`, links and `..` kept: what a link points to may change later."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts) if path.startswith("/") else os.path.join(base, *parts)


def _check_needed(group: GroupSection, table: object, key: Key, faults: Faults) -> None:
    option, expected = NEEDED[group.kind]
    value = getattr(group, option)
    if not faults.touch((*key, option)) and (not value or not value[0]):
        faults.add((*key, option), expected)


def _check_whole(group: GroupSection, key: Key, faults: Faults) -> None:
    if group.kind == "web" and not group.bind:
        faults.add((*key, "bind"), "at least one address")
    if group.kind == "python" and group.ready not in ("", "notify"):
        faults.add((*key, "ready"), '"notify", or nothing: ready when called', group.ready)
    if not group.max_surge and not group.max_unavailable:
        faults.add((*key, "max_surge"), "at least 1 when max_unavailable is 0", 0)
    for index, text in enumerate(group.bind):
        address = parse_address(text)
        if isinstance(address, Unix) and len(os.fsencode(address.path)) > LONGEST_SOCKET_PATH:
            faults.add((*key, "bind", index), f"a path of at most {LONGEST_SOCKET_PATH} bytes once absolute", text)
    _check_owner(group, key, faults)


def _check_owner(group: GroupSection, key: Key, faults: Faults) -> None:
    if group.user and not known_user(group.user):
        faults.add((*key, "user"), "a user of this machine", group.user)
    if group.group and not known_group(group.group):
        faults.add((*key, "group"), "a group of this machine", group.group)


def known_user(name: str) -> bool:
    """Whether this machine has the user; numbers are taken as they are."""
    import pwd

    try:
        return name.isdigit() or bool(pwd.getpwnam(name))
    except KeyError:
        return False


def known_group(name: str) -> bool:
    """Whether this machine has the unix group; numbers are taken as they are."""
    import grp

    try:
        return name.isdigit() or bool(grp.getgrnam(name))
    except KeyError:
        return False
