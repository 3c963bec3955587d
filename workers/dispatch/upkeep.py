"""What has to be done at the store apart from messages: the node's life, its predecessor's leases, the dead, and order.

All of it is in small steps, one after the other, so that it never holds up a turn for long.
"""

import asyncio
import logging
import random
from collections import Counter, defaultdict

from ...ipc.durable.policy import KindPolicy
from ...ipc.durable.wire import Enlist
from ...ipc.quantity import counted
from ..store.protocol import Control, Leased, Node, Renewal, Store, StoreAway, StoreError, Swept
from .access import Access
from .alarms import Alarms
from .demands import Demands
from .engine import Engine
from .settler import Settler
from .timekeeper import Timekeeper
from .turnkeeper import Turnkeeper
from .waiters import Waiters

LEASE = 30_000  # ms a node lives without being renewed
RENEW = 2.0
ORPHANS = 500
COURTESY = 10.0  # seconds after the store was away: other hosts may come back, too, before they are taken for dead
SWEEP, SWEEP_BUSY = 5.0, 60.0  # seconds between two, in idle moments and at the latest
SWEEP_SOON, SWEEP_ON = 0.05, 0.5  # the same, while there is more to do
SWEPT = 200
WAITED = 500  # messages whose end is looked for at once

logger = logging.getLogger("bkd.dispatch")


class Upkeep:
    """One per dispatcher. `name`: of its node."""

    def __init__(
        self,
        name: str,
        access: Access,
        engine: Engine,
        settler: Settler,
        times: Timekeeper,
        demands: Demands,
        waiters: Waiters,
        alarms: Alarms,
    ) -> None:
        self.keeper: Turnkeeper = engine.keeper
        self._name = name
        self._access, self._engine, self._settler, self._times = access, engine, settler, times
        self._demands, self._waiters, self._alarms = demands, waiters, alarms
        self._controls: list[Control] = []
        self._polite_until = 0.0
        self._swept_at = access.clock.steady
        self._more_to_sweep = self._is_lost = False
        self._asked = asyncio.Event()

    # -- the beginning

    async def begin(self) -> None:
        """This node is there, and takes over what its predecessor has left. Raises StoreAway, StoreError."""
        node, policies, leases, controls = await self._access.run(self._register)
        self.keeper.node = node.number
        self._settler.policies = policies
        self._control(controls)
        by_process: defaultdict[tuple[str, int, int], list[Leased]] = defaultdict(list)
        for lease in leases:
            by_process[lease.slot, lease.pid, lease.start].append(lease)
        for (slot, pid, start), mine in by_process.items():
            kinds = [policies.get(kind) or KindPolicy(kind) for kind in {lease.kind for lease in mine}]
            self._engine.adopt(Enlist(slot, "", pid, start, "shared", 1, kinds), mine)
        logger.info("node %s, generation %d, takes over %s", node.name, node.generation, counted(len(leases), "lease"))

    def _register(self, store: Store, _now: int) -> tuple[Node, dict[str, KindPolicy], list[Leased], list[Control]]:
        """Runs in the store's thread."""
        now = store.clock()
        self._access.clock.set(now)
        node = store.register(self._name, now, now + LEASE)
        return node, store.policies(), store.leases(node.number), store.controls()

    # -- for ever

    async def run(self) -> None:
        """Until it is cancelled."""
        next_renewal = 0.0
        while True:
            await self._access.here()
            try:
                if self._asked.is_set() or self._access.clock.steady >= next_renewal:
                    next_renewal = self._access.clock.steady + RENEW
                    await self._beat()
                await self._sweep()
            except (StoreAway, StoreError) as error:
                logger.info("upkeep waits: %s", error)
            pause = SWEEP_SOON if self._more_to_sweep else next_renewal - self._access.clock.steady
            await self._rest(max(pause, SWEEP_SOON))

    def ask(self) -> None:
        """Look at once for what operators have said."""
        self._asked.set()

    async def returned(self) -> None:
        """The store may be back: renew, and clear up what is not known of before it left."""
        await self._renew()
        self._settler.reconcile(await self._access.run(lambda store, _now: store.leases(self.keeper.node)))
        self._polite_until = self._access.clock.steady + COURTESY

    async def leave(self) -> None:
        """The node ends in order, holding nothing."""
        await self._access.run(lambda store, now: store.leave(self.keeper.node, now))

    # -- its parts

    async def _beat(self) -> None:
        self._asked.clear()
        await self._renew()
        await self._engine.declare()
        if self._access.clock.steady >= self._polite_until:
            await self._bury_hosts()
        await self._look_for_ends()

    async def _look_for_ends(self) -> None:
        """What has ended without this dispatcher, and is waited for here. In pieces, for turns go on between two."""
        ids = self._waiters.ids
        for first in range(0, len(ids), WAITED):
            piece = ids[first : first + WAITED]
            for row in await self._access.run(lambda store, _now, piece=piece: store.ended(piece)):  # type: ignore[misc]
                self._waiters.ended(row.id, row.state, row.result, row.reason)

    async def _renew(self) -> None:
        def renew(store: Store, _now: int) -> Renewal:
            now = store.clock()
            self._access.clock.set(now)
            return store.renew(self.keeper.node, now, now + LEASE)

        renewal = await self._access.run(renew)
        if self._is_lost or not renewal.known:
            await self._begin_again()
        self._control(renewal.controls)
        self._times.cancel(renewal.cancels)

    async def _begin_again(self) -> None:
        """May be cut short when the store goes away in the middle; then it is done once more."""
        if not self._is_lost:
            self._alarms.tell("node-lost", "this host was taken for dead; what it was running belongs to others now")
        self._is_lost = True
        node, policies, leases, _ = await self._access.run(self._register)
        self.keeper.node = node.number
        self._settler.policies = policies
        await self._engine.fenced()
        self._is_lost = False
        self._settler.reconcile(leases)

    def _control(self, controls: list[Control]) -> None:
        if controls != self._controls:
            self._controls = controls
            self._demands.paused = frozenset(control.kind for control in controls if control.paused)
            self.keeper.ring()

    async def _bury_hosts(self) -> None:
        orphans = await self._access.run(lambda store, now: store.orphans(now, ORPHANS))
        if any(orphan.kind not in self._settler.policies for orphan in orphans):
            self._settler.policies = await self._access.run(lambda store, _now: store.policies())
        self._settler.orphaned(orphans)
        for host, leases in Counter(orphan.node.partition("/")[0] for orphan in orphans).items():
            text = f"{host} was not heard of in time: what it was running ({counted(leases, 'lease')}) is settled here"
            self._alarms.tell("node-lost", text, about=host)

    async def _sweep(self) -> None:
        """In idle moments, and in busy ones not much later."""
        waited = self._access.clock.steady - self._swept_at
        idle, busy = (SWEEP_SOON, SWEEP_ON) if self._more_to_sweep else (SWEEP, SWEEP_BUSY)
        if waited < (idle if self.keeper.is_even else busy):
            return
        self._swept_at = self._access.clock.steady
        swept: Swept = await self._access.run(lambda store, now: store.sweep(now, SWEPT))
        self._more_to_sweep = max(swept.expired, swept.removed, swept.unlocked) >= SWEPT
        if swept.expired:
            text = counted(swept.expired, "message has expired", "messages have expired")
            self._alarms.tell("dead-letter", text, about="expired")
        if swept.alerted:
            text = counted(swept.alerted, "message is past its deadline", "messages are past their deadline")
            self._alarms.tell("deadline", text, about="deadline")

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds * random.uniform(0.9, 1.0)):
                await self._asked.wait()
        except TimeoutError:
            return
