"""Facts of the status document as short texts, and texts cut to the cells of a terminal. Pure."""

import re
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, chop_cells, set_cell_size

from ...ipc.units import format_duration
from ..logfiles import clean

NONE = "-"
MORE = "…"
BARS = "▁▂▃▄▅▆▇█"
BRIEF = {"boot failure": "boot", "out of memory": "oom", "killed from outside": "killed"}
LAG_FLOOR, SPREAD = 0.05, 0.05

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_SLOT_NUMBER = re.compile(r"\.[0-9]+$")


def plain(text: object) -> str:
    """One line without power over a terminal: no control characters, no colours, no tabs."""
    line = str(text)
    return line if line.isprintable() else _COLOURS.sub("", clean(line)).expandtabs(8)


def cut(text: str, width: int) -> str:
    """At most `width` cells; what is longer ends in …"""
    if width <= 0:
        return ""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + MORE


def cut_name(name: str, width: int) -> str:
    """The same for slots, which keep their numbers: `very-lo….12`."""
    number = _SLOT_NUMBER.search(name)
    if cell_len(name) <= width or number is None or len(number[0]) + 2 > width:
        return cut(name, width)
    return cut(name[: number.start()], width - len(number[0])) + number[0]


def wrapped(line: str, width: int) -> list[str]:
    """The line in pieces of at most `width` cells, at least one."""
    if len(line) <= width and line.isascii():
        return [line]
    if line.isascii():
        return [line[start : start + width] for start in range(0, len(line), width)]
    return chop_cells(line, width) or [""]


def age(seconds: float | None) -> str:
    """`4s`, `12m`, `3h`, `5d`; what is longer than a minute is rounded down."""
    if seconds is None:
        return NONE
    for unit, worth in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= worth:
            return f"{int(seconds // worth)}{unit}"
    return f"{int(seconds)}s"


def size(amount: float | None) -> str:
    """Bytes in three digits and a unit: `31.4M`, `512M`, `1.2G`."""
    if amount is None:
        return NONE
    for unit, worth in (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if amount >= worth:
            return f"{amount / worth:.1f}{unit}" if amount < 100 * worth else f"{amount / worth:.0f}{unit}"
    return f"{amount:.0f}B"


def percent(share: float | None) -> str:
    """Of a core."""
    if share is None:
        return NONE
    return f"{100 * share:.1f}%" if share < 0.0995 else f"{100 * share:.0f}%"


def lag(seconds: float | None) -> str:
    """`12ms`, `1.5s`, `31s`."""
    if seconds is None:
        return NONE
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f}ms"
    return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"


def count(number: int | None) -> str:
    """A number, or that there is none."""
    return NONE if number is None else str(number)


def sparkline(samples: Sequence[float | None], width: int, *, floor: float = 0.0, from_zero: bool = True) -> str:
    """The newest `width` samples, the last one to the right; a gap where one is missing.

    The highest bar is the largest of them, or `floor` if that is larger; the lowest is 0, or the smallest of them.
    """
    shown = list(samples[-width:]) if width > 0 else []
    known = [sample for sample in shown if sample is not None]
    low = 0.0 if from_zero or not known else min(known)
    high = max([low + floor, *known])
    bars = "".join(" " if sample is None else _bar(sample - low, high - low) for sample in shown)
    return bars.rjust(width)


def _bar(above: float, span: float) -> str:
    return BARS[min(len(BARS) - 1, max(0, int(above / span * len(BARS))))] if span > 0 else BARS[0]


def memory_line(history: dict[str, Any], width: int) -> str:
    """Memory from its lowest: a growth by a twentieth is seen, noise is not."""
    samples = history.get("rss") or []
    known = [sample for sample in samples if sample is not None]
    return sparkline(samples, width, floor=SPREAD * max(known, default=0.0), from_zero=False)


def lag_line(history: dict[str, Any], width: int) -> str:
    """Lag from 0; a few milliseconds do not rise."""
    return sparkline(history.get("lag") or [], width, floor=LAG_FLOOR)


def progress_bar(done: int, whole: int, width: int) -> str:
    """How far a roll is."""
    filled = width * done // max(1, whole)
    return "█" * min(width, filled) + "░" * max(0, width - filled)


def exit_brief(end: dict[str, Any] | None) -> str:
    """`crash 5s`: what kind, and how long ago."""
    return NONE if end is None else f"{BRIEF.get(end['cause'], end['cause'])} {age(end['age'])}"


def exit_long(end: dict[str, Any] | None) -> str:
    """`crash (exit 3) 5s ago`."""
    if end is None:
        return NONE
    how = f"signal {end['signal']}" if end["signal"] else f"exit {end['code']}" if end["code"] is not None else "unseen"
    return f"{end['cause']} ({how}) {age(end['age'])} ago"


def state(worker: dict[str, Any]) -> str:
    """The slot's state, with what troubles it or how long it waits."""
    if worker["verdict"] not in (None, "ok"):
        return f"{worker['state']} ({worker['verdict']})"
    return f"{worker['state']} {age(worker['next_try'])}" if worker["next_try"] else str(worker["state"])


def span(seconds: float) -> str:
    """A duration for a sentence: `1h12m`."""
    return format_duration(seconds, rough=True)
