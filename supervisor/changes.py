"""What differs between two configurations, and what each difference takes to come into force. Pure."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from ..ipc.units import format_duration, format_size
from . import dispatcher
from .config.faults import LONGEST_SHOWN, dotted
from .config.schema import AppSection, Config, GroupSection, Section

Takes = Literal["live", "roll", "restart"]

TAKES: dict[str, dict[str, Takes]] = {
    "app": {
        "name": "restart",
        "host": "restart",
        "tag": "restart",
        "run_dir": "restart",
        "python": "roll",
        "orphan_timeout": "roll",
        "exit_when": "live",
    },
    "control": {"operators": "live", "viewers": "live"},
    "ping": {"interval": "live", "kill": "live", "lag_warn": "live"},
    "log": {"mode": "restart", "rotate": "live", "keep": "live", "format": "restart"},
    "bus": {"url": "restart", "secret_file": "restart", "unsigned": "restart"},
    "store": {"url": "restart"},
    "metrics": {"bind": "live"},
    "workers": {
        "kind": "restart",
        "count": "live",
        "app": "roll",
        "target": "roll",
        "command": "roll",
        "bind": "roll",
        "restart": "live",
        "preload": "roll",
        "ready": "roll",
        "stop_signal": "live",
        "start_timeout": "live",
        "min_ready": "live",
        "drain": "live",
        "lame_duck": "roll",
        "term": "live",
        "request_timeout": "live",
        "keep_releases": "live",
        "max_restarts": "live",
        "restart_every": "live",
        "restart_at": "live",
        "user": "roll",
        "group": "roll",
        "umask": "roll",
        "may": "live",
        "max_surge": "live",
        "max_unavailable": "live",
        "max_requests": "live",
        "max_lifetime": "live",
        "max_memory": "live",
        "env": "roll",
        "cwd": "roll",
        "handlers": "roll",
        "mode": "roll",
        "concurrency": "roll",
    },
}
HIDDEN = frozenset({"url", "secret_file", "env", "command"})  # ${VAR} brings passwords into these

_ORDER = ("live", "roll", "restart")
_CREDENTIALS = re.compile(r"://.*@")
_WRITERS: dict[str, Callable[[Any], str]] = {
    "duration": lambda seconds: _quoted(format_duration(seconds)),
    "timeout": lambda seconds: _quoted(format_duration(seconds)),
    "size": lambda size: _quoted(format_size(size)),
    "preload": lambda choice: _quoted(choice) if choice == "auto" else str(choice),
}


class Change(msgspec.Struct, frozen=True):
    """One difference. `key` is dotted as in TOML; `old` and `new` are short texts as TOML would write them, "" when
    absent; `group` is the one concerned, "" for the whole cluster. What may be secret is "***", a new one "changed".

    A value of the cluster that rolls groups is one Change for each of them.
    """

    key: str
    old: str
    new: str
    takes: Takes
    group: str


def changes(old: Config, new: Config, counts: dict[str, int]) -> list[Change]:
    """All that differs, in the order of the sections. `counts` are the counts wanted now, where scaled or not.

    Of a group whose kind differs nothing else is told: it stays wholly as it is.
    """
    found = [change for name in TAKES if name != "workers" for change in _section(name, old, new)]
    for name in old.workers | new.workers:
        if name == dispatcher.NAME:
            continue
        was, now = old.workers.get(name), new.workers.get(name)
        if was is not None:
            was = replace(was, count=counts.get(name, was.count))
        found += _differences(was, now) if was and now else [_coming_or_going(name, was, now)]
    return found


def in_force(config: Config, made_of: dict[str, GroupSection]) -> Config:
    """The configuration as its groups really run it: `made_of` are the settings of their releases, as written, which a
    roll that was taken back has left behind the file.
    """
    fields = [name for name, takes in TAKES["workers"].items() if takes == "roll"]
    workers = {
        name: replace(group, **{field: getattr(made_of[name], field) for field in fields}) if name in made_of else group
        for name, group in config.workers.items()
    }
    return replace(config, workers=workers)


def imports(group: GroupSection) -> bool:
    """Whether its workers import the application."""
    return group.kind not in ("command", dispatcher.KIND)


def other_interpreter(name: str, was: str, now: str) -> Change:
    """A group whose release was made with another interpreter than the file names by now."""
    old, new = _texts(AppSection, "python", was, now)
    return Change("app.python", old, new, "roll", name)


def applicable(old: Config, new: Config) -> Config:
    """The new configuration as far as it can come into force in a running cluster: what takes a restart is as in the
    old one, and so is the whole of a group whose kind differs.
    """
    sections = {name: _applicable_section(name, old, new) for name in TAKES if name != "workers"}
    workers = {name: _applicable_group(old.workers.get(name), group) for name, group in new.workers.items()}
    return replace(old, workers=workers, **sections)


def rolled(changes: Iterable[Change]) -> set[str]:
    """The groups that need a roll."""
    return {change.group for change in changes if change.takes == "roll"}


def table(changes: Iterable[Change]) -> str:
    """Aligned lines for people, without a newline at the end; "" when there is no change."""
    ordered = sorted(changes, key=lambda change: _ORDER.index(change.takes))
    groups: dict[str, list[str]] = {}
    for change in ordered:
        groups.setdefault(change.key, []).append(change.group)
    width = max(map(len, groups), default=0)
    lines = {change.key: _line(change, width, groups[change.key]) for change in ordered}
    return "\n".join(lines.values())


def _section(name: str, old: Config, new: Config) -> Iterator[Change]:
    was, now = getattr(old, name), getattr(new, name)
    for field in _differing(was, now, TAKES[name]):
        texts = _texts(type(was), field, getattr(was, field), getattr(now, field))
        takes = _takes(name, field, old)
        groups = _forking(old, new) if takes == "roll" else [""]
        if groups:
            yield from (Change(f"{name}.{field}", *texts, takes, group) for group in groups)
        else:
            yield Change(f"{name}.{field}", *texts, "live", "")


def _takes(section: str, field: str, old: Config) -> Takes:
    """What a change of this value takes; a store that nobody has used yet can be another one."""
    return "live" if section == "store" and not dispatcher.has_messages(old) else TAKES[section][field]


def _forking(old: Config, new: Config) -> list[str]:
    """The groups there before and after that run the application's interpreter."""
    return [name for name, group in old.workers.items() if name in new.workers and imports(group)]


def _differences(was: GroupSection, now: GroupSection) -> Iterator[Change]:
    classes = TAKES["workers"]
    fields = _differing(was, now, classes)
    for field in [field for field in fields if classes[field] == "restart"] or fields:
        key = ("workers", now.name, field)
        for name, before, after in _parts(field, getattr(was, field), getattr(now, field)):
            texts = _texts(GroupSection, field, before, after)
            yield Change(dotted((*key, *name)), *texts, classes[field], now.name)


def _parts(field: str, was: Any, now: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """What is told one by one: each variable of `env`, else the value itself. None is absent."""
    if field != "env":
        yield (), was, now
        return
    for name in was | now:
        if was.get(name) != now.get(name):
            yield (name,), was.get(name), now.get(name)


def _coming_or_going(name: str, was: GroupSection | None, now: GroupSection | None) -> Change:
    return Change(dotted(("workers", name)), _summary(was), _summary(now), "live", name)


def _summary(group: GroupSection | None) -> str:
    return f"kind {group.kind}, count {group.count}" if group else "absent"


def _differing(was: Section, now: Section, fields: Iterable[str]) -> list[str]:
    return [field for field in fields if getattr(was, field) != getattr(now, field)]


def _applicable_section(name: str, old: Config, new: Config) -> Section:
    was, now = getattr(old, name), getattr(new, name)
    kept = {field: getattr(was, field) for field in TAKES[name] if _takes(name, field, old) == "restart"}
    section: Section = replace(now, **kept)
    return section


def _applicable_group(was: GroupSection | None, now: GroupSection) -> GroupSection:
    restart = [field for field, takes in TAKES["workers"].items() if takes == "restart"]
    return was if was and _differing(was, now, restart) else now


def _line(change: Change, width: int, groups: list[str]) -> str:
    note = ""
    if change.takes == "restart":
        note = "   needs bkd stop and bkd start"
    elif change.takes == "roll" and not change.key.startswith("workers."):
        note = f"   rolls {', '.join(groups)}"
    return f"{change.takes:<9}{change.key:<{width}}  {change.old or 'absent'} -> {change.new or 'absent'}{note}"


def _texts(kind: type[Section], field: str, was: Any, now: Any) -> tuple[str, str]:
    """Both values in short; where they look the same, the new one is "changed"."""
    old, new = (_short(kind, field, value) for value in (was, now))
    return old, new if new != old else "changed"


def _short(kind: type[Section], field: str, value: Any) -> str:
    if value is None:
        return ""
    if field in HIDDEN and value:
        return "***"
    text = _CREDENTIALS.sub("://…@", _WRITERS.get(_form(kind, field), _written)(value))
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def _form(kind: type[Section], field: str) -> str:
    """The name of the form the schema declares, "" for a plain type."""
    metadata = getattr(kind.__annotations__[field], "__metadata__", None)
    return str(metadata[0].extra["form"]) if metadata and metadata[0].extra else ""


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
