"""`bkd fleet list`, `show` and `abort`: the rollouts over the hosts of the fleet."""

import json
from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict

from ...ipc.errors import BkdError
from ...ipc.message import Finished
from ...ipc.units import format_duration
from ..bus import outcome
from ..bus import rollout as rules
from ..bus.rollout import Rollout
from ..bus.rollouts_index import Row
from ..desk import Request, UsageError
from .permits import RolloutGone
from .rollouts import Rollouts
from .table import MARKS, columns
from .wire import Wire

NONE = "no rollout was begun in the last 30 days"
MOST_GROUPS = 3


class Board:
    """What the bus knows of rollouts; `abort` lets nobody else begin."""

    def __init__(self, wire: Wire, rollouts: Rollouts) -> None:
        self.wire, self.rollouts = wire, rollouts

    async def list(self, request: Request) -> Finished:
        """The newest first."""
        self.wire.refuse_if_away()
        rows = await self.rollouts.rows()
        if request.command.render == "json":
            return Finished(out=json.dumps({"rollouts": [asdict(row) for row in rows]}) + "\n")
        return Finished(out=_listed(rows, self.wire.now()))

    async def show(self, request: Request) -> Finished:
        """One rollout, host by host."""
        rollout = await self._read(request)
        if request.command.render == "json":
            return Finished(out=json.dumps(_document(rollout)) + "\n")
        return Finished(out=_shown(rollout, self.wire.now()))

    async def abort(self, request: Request) -> Finished:
        """Hosts that have not begun are skipped; who is at work goes on."""
        rollout = await self._read(request)
        changed = await self.rollouts.permits.change(
            rollout.id, lambda r: rules.abort(r, f"{request.issuer.title}@{self.wire.host}", self.wire.now())
        )
        if changed.refused:
            raise BkdError(changed.refused)
        if rules.is_over(changed.rollout):
            await self.rollouts.leave(changed.rollout)
        return Finished(out=f"{outcome.verdict(changed.rollout)}\n")

    async def _read(self, request: Request) -> Rollout:
        """The rollout that is meant: by its id, the beginning of it, or none for the newest."""
        self.wire.refuse_if_away()
        rows, given = await self.rollouts.rows(), str(request.arguments.get("id") or "")
        found = [row for row in rows if row.id.startswith(given)]
        if not found or (given and len(found) > 1):
            many = f"several rollouts begin with {given}" if found else f"no rollout {given}"
            raise UsageError(f"{many}; `bkd fleet list` has them" if rows else NONE)
        try:
            return await self.rollouts.permits.read(found[0].id)
        except RolloutGone as error:
            raise BkdError(f"{found[0].id}: {error}") from error


def _listed(rows: Sequence[Row], now: float) -> str:
    if not rows:
        return f"{NONE}\n"
    lines = [
        (
            row.id,
            row.verb,
            _groups(row),
            str(row.state),
            f"{format_duration(max(0.0, now - row.issued), rough=True)} ago",
            row.issuer,
        )
        for row in rows
    ]
    return columns(("ID", "VERB", "GROUPS", "STATE", "BEGAN", "BY"), lines)


def _groups(row: Row) -> str:
    more = len(row.groups) - MOST_GROUPS
    return (", ".join(row.groups[:MOST_GROUPS]) or "everything") + (f" +{more}" if more > 0 else "")


def _shown(rollout: Rollout, now: float) -> str:
    began = format_duration(max(0.0, now - rollout.issued), rough=True)
    first = f"{rollout.verb} of {', '.join(rollout.groups) or 'everything'} by {rollout.issuer}, begun {began} ago"
    lines = [
        (MARKS.get(turn.state, "…"), turn.host, str(turn.state), f"{turn.took:.1f}s" if turn.took else "", turn.reason)
        for turn in rollout.hosts
    ]
    return f"{first}\n{columns(('', 'HOST', 'STATE', 'TOOK', 'REASON'), lines)}{outcome.verdict(rollout)}\n"


def _document(rollout: Rollout) -> dict[str, Any]:
    hosts = [
        {"host": turn.host, "state": str(turn.state), "reason": turn.reason or None, "took": turn.took}
        for turn in rollout.hosts
    ]
    facts = {"id": rollout.id, "verb": rollout.verb, "groups": list(rollout.groups), "issuer": rollout.issuer}
    return {**facts, "issued": rollout.issued, "state": str(outcome.outcome(rollout)), "hosts": hosts}
