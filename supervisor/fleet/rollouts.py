"""The list of rollouts on the bus: one of a group at a time, and what there was lately."""

import asyncio
import random

from ...ipc.errors import BkdError, RefusedError
from ..bus import rollout as rules
from ..bus import rollouts_index as listing
from ..bus.driver import BusError
from ..bus.outcome import Outcome, outcome
from ..bus.rollout import Rollout
from ..bus.rollouts_index import Held, Index, Row
from .permits import Permits, RolloutGone
from .wire import Wire

TRIES = 20
BREATH = 0.05
LASTS = 30 * 86_400.0


class Rollouts:
    """Begins rollouts and lists them. What was seen last guards against an older list that is played back."""

    def __init__(self, wire: Wire, permits: Permits) -> None:
        self.wire, self.permits = wire, permits
        self._seen: Index | None = None

    async def begin(self, rollout: Rollout) -> None:
        """Enter it into the list and make its document. Raises RefusedError when another of its groups goes on."""
        row = listing.row_of(rollout)
        for _ in range(TRIES):
            raw, index = await self._read()
            index = await self._settled(index, listing.rivals(index, row))
            entered = listing.enter(index, row, await self._live(listing.rivals(index, row)), self.wire.now())
            if isinstance(entered, Held):
                raise RefusedError(entered.text)
            if await self._swap(raw, entered):
                if self.wire.now() - rollout.issued > rules.PATIENCE:
                    raise BusError("the bus is too slow to begin a rollout now; try again")
                await self.permits.begin(rollout)
                return
            await asyncio.sleep(random.uniform(0.0, BREATH))
        raise BusError("too many rollouts begin at once")

    async def leave(self, rollout: Rollout) -> None:
        """It is over: the list says so. Nothing depends on it, so one try is enough; raises BusError."""
        raw, index = await self._read()
        changed = listing.left(index, rollout.id, outcome(rollout))
        if changed is not index:
            await self._swap(raw, changed)

    async def sign_again(self) -> None:
        """Other keys are in force: the list has to be readable when the old one counts no more; raises BkdError."""
        raw, index = await self._read()
        if raw is not None:
            await self._swap(raw, index)

    async def rows(self) -> tuple[Row, ...]:
        """The newest first, as their documents stand now; raises BusError."""
        index = (await self._read())[1]
        running = tuple(row for row in index.rows if row.state == Outcome.RUNNING)
        return (await self._settled(index, running)).rows

    async def newest_restart(self, group: str) -> Rollout | None:
        """The rollout that a rollback of this group takes back: its newest one, if that was a restart and is over."""
        rows = await self.rows()
        newest = next((row for row in rows if not row.groups or group in row.groups), None)
        document = await self._document(newest.id) if newest is not None and newest.verb == "restart" else None
        return document if document is not None and rules.is_over(document) else None

    async def _settled(self, index: Index, running: tuple[Row, ...]) -> Index:
        """The list without those that are over by time alone, which nobody writes down, or whose document was there and
        is gone."""
        for row in running:
            document = await self._document(row.id)
            if document is not None and rules.is_over(document):
                index = listing.left(index, row.id, outcome(document))
            elif document is None and (self.permits.has_seen(row.id) or self._is_old(row)):
                index = listing.left(index, row.id, Outcome.LOST)
        return index

    def _is_old(self, row: Row) -> bool:
        return self.wire.now() - row.issued >= listing.FRESH

    async def _live(self, rivals: tuple[Row, ...]) -> set[str]:
        return {row.id for row in rivals if listing.is_live(await self._document(row.id), self.wire.now())}

    async def _document(self, id: str) -> Rollout | None:
        try:
            return await self.permits.read(id)
        except RolloutGone:
            return None

    async def _read(self) -> tuple[bytes | None, Index]:
        key = self.wire.names.index
        raw = await self.wire.driver.get(key)
        read = self.wire.read(raw, key, Index) if raw is not None else None
        if raw is not None and read is None:
            raise BkdError(
                f"the list of rollouts ({key}) is signed with a key that is not known here: secret_file has to be the "
                "same on every host; where it is the same everywhere, delete that list on Redis"
            )
        index = listing.merged(self._seen, read or Index())
        self._seen = index
        return raw, index

    async def _swap(self, raw: bytes | None, index: Index) -> bool:
        key = self.wire.names.index
        swapped = await self.wire.driver.swap(key, raw, self.wire.sign(key, "fleet:rollouts", index, LASTS), ttl=LASTS)
        if swapped:
            self._seen = index
        return swapped
