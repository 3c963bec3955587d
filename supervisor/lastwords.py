"""What a worker printed before it ended: the end of its log, from its own birth on."""

import os
import re

from msgspec.structs import replace

from ..ipc.stacks import Frame
from .cluster import Cluster
from .fact import Fact
from .facts import ReleaseFailed, RollAborted
from .logfiles import clean
from .registry import Process, Registry

LINES = 40
BYTES = 16 << 10
TRACEBACK = "Traceback (most recent call last)"

_PLACE = re.compile(r'\s*File "(?P<file>[^"]+)", line (?P<line>[0-9]{1,9})(?:, in (?P<function>.+))?')


def with_last_words(fact: Fact, registry: Registry) -> Fact:
    """An aborted roll is told with what the worker said that was its undoing."""
    if not isinstance(fact, RollAborted) or fact.trace or not fact.slot:
        return fact
    found = [p for p in registry.workers.values() if p.slot == fact.slot and p.release == fact.release]
    if not found:
        return fact
    shared = any(p.slot == fact.slot and p.release != fact.release for p in registry.workers.values())
    return replace(fact, trace=found[-1].words or last_words(found[-1], shared=shared))


def trace(fact: Fact, cluster: Cluster) -> str:
    """What stands below the line of this fact; a load that fails in a roll is told with the roll's end."""
    if isinstance(fact, RollAborted):
        return fact.trace
    if not isinstance(fact, ReleaseFailed):
        return ""
    group = cluster.groups.get(fact.group)
    rolling = group is not None and group.roll is not None and group.roll.new == fact.release
    return "" if rolling else fact.trace


def last_words(process: Process, *, shared: bool) -> str:
    """At most LINES lines, "" when nothing can be read: the worker was silent, or prints into bkd's own output.
    Where another worker prints into the same log, only a traceback is surely worth showing."""
    if not process.log:
        return ""
    try:
        lines = last_lines(process.log, process.log_offset)
    except OSError as error:
        return f"{process.log} cannot be read: {error.strerror}\n"
    if shared:
        lines = last_traceback(lines)
    shown = "".join(f"{process.slot} | {line}\n" for line in lines)
    return shown or f"it said nothing of its own; see bkd logs {process.slot}\n"


def last_lines(path: str, born: int) -> list[str]:
    """The last of a log from the offset `born` on, safe for a terminal; raises OSError, also for what is no file."""
    with open(path, "rb", opener=_never_waits) as file:
        size = file.seek(0, 2)
        file.seek(max(born if born <= size else 0, size - BYTES))
        lines = file.read(BYTES).decode(errors="replace").splitlines()[-LINES:]
    return [clean(line) for line in lines]


def _never_waits(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def last_traceback(lines: list[str]) -> list[str]:
    """From the begin of the last traceback on; empty when there is none."""
    starts = [number for number, line in enumerate(lines) if line.startswith(TRACEBACK)]
    return lines[starts[-1] :] if starts else []


def places(traceback: list[str]) -> list[Frame]:
    """The frames that a traceback names, innermost first."""
    found: list[Frame] = []
    for number, line in enumerate(traceback):
        match = _PLACE.match(line)
        if match:
            below = traceback[number + 1].strip() if number + 1 < len(traceback) else ""
            text = "" if _PLACE.match(below) else below
            found.append(Frame(match["file"], int(match["line"]), match["function"] or "", text))
    return found[::-1]
