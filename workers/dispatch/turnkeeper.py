"""Keeps the turns: there is one at a time, and it begins as soon as there is something to do.

What comes while one is under way makes the next one, so batches grow by themselves when there is much to do. Whether
there is more to claim is found out in this order: forget that somebody rang, look, wait until somebody rings.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from ...ipc.durable.model import Task
from ...ipc.durable.wire import Held
from ..store.protocol import Demand, StoreAway, StoreError, Turned
from .access import Access
from .demands import Demands
from .ledger import Batch, Ledger, Put, Report
from .turn import Answer, Stroke

POLL = 1.0  # seconds, give or take a fifth: enough alone, should every bell be broken
SOON = 0.005
BACK_OFF_FIRST, BACK_OFF_CAP = 0.05, 0.5
PATIENCE = 30.0  # seconds a producer waits while the store is away

logger = logging.getLogger("bkd.dispatch")


class Ends(Protocol):
    """Where news go."""

    def claimed(self, tasks: list[Task]) -> None:
        """These are this node's to run."""

    def settled(self, report: Report, stale: list[Held]) -> None:
        """This is in the store, but for the stale ones."""


class Turnkeeper:
    """One per dispatcher. `node` is the number in force; `returned` is awaited before the first turn after the store
    was away."""

    def __init__(self, access: Access, ledger: Ledger, demands: Demands, ends: Ends) -> None:
        self.node = 0
        self.claims = True
        self.returned: Callable[[], Awaitable[None]] | None = None
        self._access, self._ledger, self._demands, self._ends = access, ledger, demands, ends
        self._bell = True
        self._rung = asyncio.Event()
        self._look_at = 0.0
        self._unanswered: list[Put] = []

    def ring(self) -> None:
        """There may be something to claim."""
        self._bell = True
        self._rung.set()

    def nudge(self) -> None:
        """There is something to write."""
        self._rung.set()

    @property
    def is_even(self) -> bool:
        """Nothing is to be written, and nothing under way."""
        return not (self._ledger or self._unanswered)

    async def run(self) -> None:
        """Until it is cancelled."""
        delay = BACK_OFF_FIRST
        while True:
            try:
                await self._until_wanted()
                await self._turn()
                delay = BACK_OFF_FIRST
            except (StoreAway, StoreError) as error:
                self._access.lost(error)
                self._give_up_puts()
                await asyncio.sleep(delay * random.uniform(0.8, 1.0))
                delay = min(2 * delay, BACK_OFF_CAP)

    async def _until_wanted(self) -> None:
        """Sleeps until there is something to do, or somebody rings, or something becomes due, or it is time to look."""
        while not (self._ledger or self._bell or self._access.is_away):
            self._rung.clear()
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._rest()):
                    await self._rung.wait()
            except TimeoutError:
                self._bell = True

    def _rest(self) -> float:
        return max(self._look_at - self._access.clock.steady, SOON)

    async def _turn(self) -> None:
        if self._access.is_away and self.returned is not None:
            await self.returned()
        stroke = self._stroke()
        self._unanswered = list(stroke.puts)
        try:
            turned = await self._access.run(lambda store, _now: stroke.done(store))
        except (StoreAway, StoreError):
            self._ledger.put_back(stroke.batch)
            self._ledger.put_back_puts(self._unanswered)
            self._unanswered = []
            self._bell = True
            raise
        self._access.back()
        self._tell(stroke.batch, turned)
        self._claimed(stroke.demands, turned)

    def _stroke(self) -> Stroke:
        puts, batch = self._ledger.take_puts(), self._ledger.take()
        demands = self._looked() if self._bell or puts or batch.reports else []
        thread = self._access.thread
        return Stroke(
            self._access.clock.now(), self.node, puts, batch, demands, lambda done: thread.tell(self._answer, done)
        )

    def _looked(self) -> list[Demand]:
        """What to claim now; the next look is due again. A turn that only writes puts no look off."""
        self._bell = False
        self._look_at = self._access.clock.steady + POLL * random.uniform(0.8, 1.2)
        return self._demands.composed(self._access.clock.steady) if self.claims else []

    def _answer(self, answers: list[Answer]) -> None:
        self._unanswered = []
        for put, receipts, error in answers:
            put.done(receipts, error)

    def _tell(self, batch: Batch, turned: Turned) -> None:
        stale, kept, granted = set(turned.stale), set(turned.kept), set(turned.granted)
        for stage, tell_kept in batch.stages:
            tell_kept(Held(stage.id, stage.fence) in kept)
        for lock, tell_granted in batch.locks:
            tell_granted(Held(lock.id, lock.fence) in granted)
        for report in batch.reports:
            late = [Held(one.id, one.fence) for one in report.settlements] if stale else []
            self._ends.settled(report, [held for held in late if held in stale])

    def _claimed(self, demands: Sequence[Demand], turned: Turned) -> None:
        tasks = [task for claim in turned.claimed for task in claim]
        if tasks:
            self._demands.claimed(in_full=turned.more)
            self._ends.claimed(tasks)
            self._bell = self._bell or turned.more
        if demands and turned.next_due:
            self.due(turned.next_due)

    def due(self, moment: int) -> None:
        """Something becomes due then (ms of UTC)."""
        self._look_at = min(self._look_at, self._access.clock.until(moment))
        self._rung.set()

    def _give_up_puts(self) -> None:
        for put in self._ledger.overdue_puts(self._access.clock.steady - PATIENCE):
            put.done([], f"the store has not answered for {PATIENCE:g} s; whether they are stored is not known")
