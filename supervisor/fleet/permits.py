"""The documents of rollouts on the bus, changed by compare-and-set: what hosts take turns by."""

import asyncio
import random
from collections.abc import Callable
from typing import TypeVar

from ...ipc.errors import BkdError
from ..bus import rollout as rules
from ..bus.driver import BusError
from ..bus.rollout import Changed, Claimed, Rollout
from .wire import Wire

KEPT = 86_400.0  # seconds that a rollout can be looked at
TRIES = 100
BREATH = 0.02
STALE = 5.0  # seconds after which what was read is read again before it is written
MOST_SEEN = 1000
PLAYED_BACK = "the bus shows an older state of this rollout than it had"
A = TypeVar("A", Changed, Claimed)


class RolloutGone(BkdError):
    """The bus does not know this rollout any more, or shows an older state of it."""


class Permits:
    """Reads and changes the documents. What was seen last of each guards against an older one that is played back."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._seen: dict[str, Rollout] = {}

    async def read(self, id: str) -> Rollout:
        """How a rollout stands now; raises RolloutGone, BusError."""
        return rules.advance((await self._read(id))[1], self.wire.now())

    def has_seen(self, id: str) -> bool:
        """Whether its document was on the bus, and not so long ago."""
        return id in self._seen

    async def begin(self, rollout: Rollout) -> None:
        """A new one; raises BusError."""
        key = self.wire.names.permit(rollout.id)
        if not await self.wire.driver.swap(key, None, self._signed(key, rollout), ttl=KEPT):
            raise BusError("there is such a rollout already")

    async def change(self, id: str, change: Callable[[Rollout], A]) -> A:
        """Apply a rule to it as it is now, and give its answer; raises RolloutGone, BusError."""
        key = self.wire.names.permit(id)
        for attempt in range(TRIES):
            began = self.wire.now()
            raw, rollout = await self._read(id)
            if self.wire.now() - began > STALE:
                continue
            answer = change(rollout)
            if answer.rollout is rollout:
                return answer
            if await self.wire.driver.swap(key, raw, self._signed(key, answer.rollout), ttl=KEPT):
                self._see(answer.rollout)
                return answer
            await asyncio.sleep(random.uniform(0.0, BREATH * min(10, attempt + 1)))
        raise BusError("too many hosts change the rollout at once")

    async def _read(self, id: str) -> tuple[bytes, Rollout]:
        key = self.wire.names.permit(id)
        seen = self._seen.get(id)  # before it is read: others here may see a newer one meanwhile
        raw = await self.wire.driver.get(key)
        rollout = self.wire.read(raw, key, Rollout) if raw is not None else None
        if raw is None or rollout is None or rollout.id != id:
            raise RolloutGone(rules.UNKNOWN)
        if seen != rollout and not rules.newer(seen, rollout):
            await self._end_for_all(key, raw, rollout)
            raise RolloutGone(PLAYED_BACK)
        self._see(rollout)
        return raw, rollout

    async def _end_for_all(self, key: str, raw: bytes, older: Rollout) -> None:
        """Hosts that have seen nothing newer must not go on by an older document."""
        ended = rules.abort(older, f"{self.wire.host}: {PLAYED_BACK}", self.wire.now()).rollout
        if ended is not older:
            await self.wire.driver.swap(key, raw, self._signed(key, ended), ttl=KEPT)

    def _see(self, rollout: Rollout) -> None:
        if rules.newer(self._seen.get(rollout.id), rollout):
            self._seen[rollout.id] = rollout
        if len(self._seen) > MOST_SEEN:
            del self._seen[next(iter(self._seen))]

    def _signed(self, key: str, rollout: Rollout) -> bytes:
        return self.wire.sign(key, "fleet:permit", rollout, KEPT)
