"""What `bkd status` says of durable messages: the kind of store, and how many wait, run and are dead. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..ipc.units import format_duration
from .logfiles import clean
from .metrics.census import Tallies

WAITING = ("queued", "retry_scheduled", "waiting_remote", "blocked")
OLD = 60.0  # seconds due, from which that is worth a word
MOST_NAMED = 5
LONGEST = 200


def describe(url: str, tallies: Tallies | None) -> str:
    """`messages (sqlite)  12 waiting, 2 running, 1 dead letter`, and whatever keeps some from being run."""
    store = f"messages ({url.partition(':')[0].partition('+')[0]})"
    if tallies is None or not tallies.is_up:
        why = clean(tallies.why.removeprefix("bkd: "))[:LONGEST] if tallies is not None else ""
        return f"{store}  how many there are is not known: {why or 'the dispatcher has not answered'}"
    kinds = tallies.kinds
    counts = {
        "waiting": _sum(kinds, *WAITING),
        "running": _sum(kinds, "running"),
    }
    dead = _sum(kinds, "dead_letter")
    counts["dead letter" if dead == 1 else "dead letters"] = dead
    line = f"{store}  {', '.join(f'{number:,} {name}' for name, number in counts.items())}{_age(kinds)}"
    paused = [row["kind"] for row in kinds if row["paused"]]
    unhandled = [row["kind"] for row in kinds if not row["handled"] and _sum([row], *WAITING)]
    line += f"\n  ! paused: {_named(paused)}; `bkd message resume KIND` goes on" if paused else ""
    return line + (f"\n  ! no handler on any living host for {_named(unhandled)}" if unhandled else "")


def _sum(kinds: Iterable[Mapping[str, Any]], *states: str) -> int:
    return sum(int(row[state]) for row in kinds for state in states)


def _age(kinds: Iterable[Mapping[str, Any]]) -> str:
    """How long the oldest has been due, where that is long."""
    oldest = max((float(row["oldest_age"]) for row in kinds if not row["paused"]), default=0.0)
    return f", the oldest due for {format_duration(oldest, rough=True)}" if oldest >= OLD else ""


def _named(kinds: list[str]) -> str:
    more = f" and {len(kinds) - MOST_NAMED} more" if len(kinds) > MOST_NAMED else ""
    return ", ".join(kinds[:MOST_NAMED]) + more
