"""A fact: what one line of the journal holds, and how it is told to people."""

import signal
from typing import ClassVar, Literal

import msgspec
from msgspec.structs import asdict

from .logfiles import clean

Level = Literal["info", "warning", "error"]

_SPANS = frozenset(("seconds", "age", "delay"))


def _kebab(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


class Fact(msgspec.Struct, frozen=True, tag_field="fact", tag=_kebab):
    """Base of all facts: `line` is what is said of one, with its fields filled in."""

    line: ClassVar[str] = ""
    severity: ClassVar[Level] = "info"

    def describe(self) -> str:
        """One line for people, safe for a terminal."""
        return clean(self._text())

    def level(self) -> Level:
        """How much it should alarm whoever reads it."""
        return self.severity

    def about(self, name: str) -> bool:
        """Whether it concerns the slot or the group of that name, or one of the group's slots."""
        concerned = getattr(self, "slot", "") or getattr(self, "group", "") or getattr(self, "name", "")
        return bool(concerned == name or concerned.startswith(f"{name}."))

    def _text(self) -> str:
        said = asdict(self)
        said |= {name: span(said[name]) for name in _SPANS & said.keys()}
        return self.line.format_map(said)


class Group(Fact, frozen=True):
    """Base of what happens to a group."""

    group: str


class Release(Group, frozen=True):
    """Base of what happens to a release of a group."""

    release: int


class Slot(Fact, frozen=True):
    """Base of what happens in a slot."""

    slot: str


class Process(Slot, frozen=True):
    """Base of what happens to a slot's process."""

    pid: int


class Intrusion(Fact, frozen=True):
    """Base of what a peer should not have tried, `count` times since this was said last."""

    severity = "warning"
    uid: int
    pid: int
    why: str
    count: int = 1


def clean_lines(text: str) -> str:
    """Several lines, each safe for a terminal."""
    return "".join(f"{clean(line)}\n" for line in text.splitlines())


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; real-time signals have no names."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def span(seconds: float) -> str:
    """How long: `14 ms`, `3.2 s`, `45 s`, `12 min`, `5.5 h`."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def volume(size: int) -> str:
    """How much: `812 B`, `11 KB`, `62 MB`, `1.5 GB` (1 KB is 1024 bytes)."""
    for unit, worth in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if size >= worth:
            number = size / worth
            return f"{number:.1f}".removesuffix(".0") + f" {unit}" if number < 10 else f"{number:.0f} {unit}"
    return f"{size} B"
