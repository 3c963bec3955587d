"""What a worker printed before it ended: the end of its log, from its own birth on."""

from pathlib import Path

from msgspec.structs import replace

from .cluster import Cluster
from .fact import Fact
from .facts import ReleaseFailed, RollAborted
from .logfiles import clean
from .registry import Process, Registry

LINES = 40
BYTES = 16 << 10
TRACEBACK = "Traceback (most recent call last)"


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
        with Path(process.log).open("rb") as file:
            size = file.seek(0, 2)
            born = process.log_offset if process.log_offset <= size else 0
            file.seek(max(born, size - BYTES))
            lines = file.read(BYTES).decode(errors="replace").splitlines()[-LINES:]
    except OSError as error:
        return f"{process.log} cannot be read: {error.strerror}\n"
    starts = [number for number, line in enumerate(lines) if line.startswith(TRACEBACK)]
    if shared:
        lines = lines[starts[-1] :] if starts else []
    shown = "".join(f"{process.slot} | {clean(line)}\n" for line in lines)
    return shown or f"it said nothing of its own; see bkd logs {process.slot}\n"
