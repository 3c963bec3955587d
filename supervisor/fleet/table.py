"""Tables of the fleet for people. Pure."""

from collections.abc import Iterable, Sequence

from ...ipc.units import format_duration
from ..fact import span
from .progress import FleetProgress
from .selection import Seen

MARKS = {"done": "✓", "failed": "✗", "refused": "✗", "unreachable": "?", "expired": "?", "skipped": "–"}
LONGEST = 300


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines with each column as wide as it has to be."""
    lines = [header, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    return "".join("  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines)


def live(progress: FleetProgress) -> str:
    """How a command goes now."""
    rows = [
        (
            MARKS.get(host.state, "…"),
            host.host,
            host.state or "asked",
            _detail(host.step, host.took),
            _short(host.reason),
        )
        for host in progress.hosts.values()
    ]
    return columns(("", "HOST", "STATE", "", "REASON"), rows)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _detail(step: str, took: float | None) -> str:
    return step or (span(took) if took is not None else "")


def hosts(inventory: Iterable[Seen], now: float) -> str:
    """The inventory."""
    rows = [
        (
            seen.row.host,
            seen.row.tag or "-",
            f"silent for {format_duration(now - seen.seen, rough=True)}" if seen.is_silent(now) else "up",
            seen.row.version,
            ", ".join(f"{g.name} {g.ready}/{g.count} r{g.release}" for g in seen.row.groups),
        )
        for seen in inventory
    ]
    return columns(("HOST", "TAG", "STATE", "VERSION", "GROUPS"), rows)
