"""The list of rollouts: the newest ones, and that only one of a group goes on at a time. Pure.

Like a rollout it is a signed document on the bus that is changed by compare-and-set. A rollout is entered first; its
document is written within PATIENCE of `issued`, or not at all, and then its command. Without a document it counts for
FRESH seconds: somebody may be about to write it.
"""

from collections.abc import Collection
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from .outcome import Outcome
from .rollout import PATIENCE, Rollout, advance, is_over

MOST = 50
FRESH = 2 * PATIENCE
STALE = 600.0  # seconds without a change after which a rollout that is not over holds nobody up


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One rollout. `issued`: bus time; no groups means the whole application."""

    id: str
    verb: str
    groups: tuple[str, ...]
    issuer: str
    issued: float
    state: Outcome = Outcome.RUNNING


class Index(msgspec.Struct, frozen=True):
    """The document: the newest first; `version` grows with every change."""

    version: int = 0
    rows: tuple[Row, ...] = ()


class Held(NamedTuple):
    """Another rollout goes on; `text` says whose, and what to do, in one line."""

    row: Row
    text: str


def row_of(rollout: Rollout) -> Row:
    """The row of a rollout that begins."""
    return Row(rollout.id, rollout.verb, rollout.groups, rollout.issuer, rollout.issued)


def rivals(index: Index, row: Row) -> tuple[Row, ...]:
    """The rollouts in the list that are not over and have a group of this one's: their documents are to be read."""
    return tuple(other for other in index.rows if _contend(other, row))


def is_live(rollout: Rollout | None, now: float) -> bool:
    """Whether a rollout (None: its document is gone) still holds up others of its groups."""
    return rollout is not None and not is_over(advance(rollout, now)) and now - rollout.touched < STALE


def enter(index: Index, row: Row, live: Collection[str], now: float) -> Index | Held:
    """The list with this rollout in it, or who has one of its groups. `live`: the ids of those rivals whose documents
    are live; the others count as lost, but for one that has only just been entered."""
    contending = rivals(index, row)
    holder = next((r for r in contending if r.id in live or now - r.issued < FRESH), None)
    if holder is not None:
        what = f"{holder.verb} of {', '.join(holder.groups) or 'everything'}"
        return Held(holder, f"{holder.issuer} has a {what} going on; wait, or `bkd fleet abort {holder.id}`")
    rows = [replace(r, state=Outcome.LOST) if r in contending else r for r in index.rows if r.id != row.id]
    return Index(index.version + 1, _newest([row, *rows]))


def left(index: Index, id: str, state: Outcome) -> Index:
    """The list after this rollout has ended; the same object when it is not there or had ended before."""
    rows = tuple(_left(row, state) if row.id == id else row for row in index.rows)
    return index if rows == index.rows else Index(index.version + 1, rows)


def merged(seen: Index | None, read: Index) -> Index:
    """What is known from the list seen last and the one read now: an older one that is played back hides nothing. The
    object read when it says it all."""
    known = {row.id: row for row in read.rows}
    for row in () if seen is None or seen.version <= read.version else seen.rows:
        known[row.id] = _left(known.get(row.id, row), row.state)
    rows = _newest(sorted(known.values(), key=lambda row: (row.issued, row.id), reverse=True))
    return read if set(rows) == set(read.rows) else Index(max(seen.version if seen else 0, read.version) + 1, rows)


def _contend(other: Row, row: Row) -> bool:
    shared = not other.groups or not row.groups or set(other.groups) & set(row.groups)
    return other.state == Outcome.RUNNING and other.id != row.id and bool(shared)


def _left(row: Row, state: Outcome) -> Row:
    return replace(row, state=state) if row.state == Outcome.RUNNING else row


def _newest(rows: list[Row]) -> tuple[Row, ...]:
    """MOST of them; one that is not over goes last, as it holds its groups."""
    over = [row for row in rows if row.state != Outcome.RUNNING]
    kept = set(over[: max(0, MOST - (len(rows) - len(over)))])
    return tuple(row for row in rows if row.state == Outcome.RUNNING or row in kept)
