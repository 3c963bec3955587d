"""What whoever gave a command to the fleet is told: lines, tables, documents and the exit code. Pure."""

import json
from collections.abc import Mapping, Sequence

from ...ipc.message import Finished
from ...ipc.quantity import counted
from ...ipc.units import format_duration
from ..desk import Request
from ..fact import clean_lines
from . import overview, table
from .progress import FleetProgress
from .selection import Seen
from .verbs import LOOKS, QUIET, ROLLS

BODY = 2000  # characters of a failing host's own words


def plan(request: Request, verb: str, rows: Sequence[Seen], batch: int, now: float) -> Finished:
    """Which hosts a command would be for, and in which order."""
    if request.command.render == "json":
        hosts = [{"host": seen.row.host, "tag": seen.row.tag, "seen": round(now - seen.seen, 3)} for seen in rows]
        return Finished(
            out=json.dumps({"verb": verb, "batch": batch if verb in ROLLS else len(rows), "hosts": hosts}) + "\n"
        )
    how = f"{batch} at a time, in this order" if verb in ROLLS else "all at once"
    return Finished(out=f"{verb} on {counted(len(rows), 'host')}, {how}:\n{table.hosts(rows, now)}")


def started(request: Request, progress: FleetProgress) -> Finished:
    """Nobody waits for the end."""
    if request.command.render == "json":
        return Finished(out=json.dumps(progress.document()) + "\n")
    hosts = counted(len(progress.hosts), "host")
    return Finished(out=f"{progress.verb} asked of {hosts}; see bkd fleet show {progress.id}\n")


def show(request: Request, progress: FleetProgress) -> None:
    """How it goes: the whole table, which a terminal draws in place, and the lines that are new."""
    if progress.verb not in LOOKS:
        request.draw(table.live(progress), progress.news())


def final(request: Request, progress: FleetProgress, known: Mapping[str, Seen], now: float) -> Finished:
    """The end, as it was asked for."""
    if progress.verb in LOOKS:
        return overview.answer(request, progress, known, now)
    if request.command.render == "json":
        return Finished(progress.code, json.dumps(progress.document()) + "\n")
    failed = [host for host in progress.hosts.values() if host.state in ("failed", "refused")]
    err = "".join(_words(host.host, host.err or host.out, but=host.reason) for host in failed)
    shown = [host for host in progress.hosts.values() if host.state == "done" and progress.verb not in QUIET]
    out = "".join(_words(host.host, host.out) for host in shown)
    line = f"{progress.verdict()}\n"
    if progress.code == 0:
        return Finished(0, f"{out}{line}", err)
    return Finished(progress.code, out, f"{err}bkd: {line}")


def last_seen(seen: Seen | None, now: float) -> str:
    """When a host said its last word."""
    if seen is None:
        return "the bus has not heard of it in the last day"
    return f"last seen {format_duration(max(0.0, now - seen.seen), rough=True)} ago"


def _words(host: str, text: str, *, but: str = "") -> str:
    """What a host said, line by line with its name, without what is told of it already."""
    lines = clean_lines(text[-BODY:]).splitlines()
    return "".join(f"{host}: {line}\n" for line in lines if not but or line.removeprefix("bkd: ") != but)
