"""Keeps the turns: there is one at a time, and it begins as soon as there is something to do.

What comes while one is under way makes the next one, so batches grow by themselves when there is much to do. Whether
there is more to claim is found out in this order: forget that somebody rang, look, wait until somebody rings.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from ...ipc.durable.model import Task
from ...ipc.durable.wire import Held
from ..store.protocol import Demand, StoreAway, StoreError, Turned
from .access import Access
from .demands import Demands
from .ledger import Batch, Ledger, Put, Report
from .turn import Answer, Done, Stroke

POLL = 1.0  # seconds, give or take a fifth: enough alone, should every bell be broken
SOON = 0.005
ROUNDING = 0.001  # of the loop's timers
BACK_OFF_FIRST, BACK_OFF_CAP = 0.05, 0.5
MOST_REFUSED = 20  # ends that the store would not write: nothing more is begun until it does
AGAIN_FIRST, AGAIN_CAP = 0.25, 5.0  # seconds until what was refused is tried again
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
        self._wanted: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        self._unanswered: list[Put] = []
        self._again_at, self._again_delay = 0.0, AGAIN_FIRST
        self._alarm_at = 0.0

    def ring(self) -> None:
        """There may be something to claim."""
        self._bell = True
        self.nudge()

    def nudge(self) -> None:
        """There is something to write."""
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    @property
    def is_even(self) -> bool:
        """Nothing is to be written, and nothing under way."""
        return not (self._ledger or self._ledger.refused or self._unanswered)

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            await self._turns()
        finally:
            if self._alarm is not None:
                self._alarm.cancel()

    async def _turns(self) -> None:
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
        while not (self._ledger or self._bell or self._access.is_away or self._is_again):
            self._plan()
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted

    def _plan(self) -> None:
        """The alarm rings when it is time to look, or before: it is put forward, and finds out itself that it was put
        off."""
        moment = min(self._look_at, self._again_at) if self._ledger.refused else self._look_at
        if self._alarm is not None:
            if self._alarm_at <= moment:
                return
            self._alarm.cancel()
        self._alarm_at = moment
        rest = max(moment - self._access.clock.steady + ROUNDING, SOON)
        self._alarm = asyncio.get_running_loop().call_later(rest, self._alarmed)

    def _alarmed(self) -> None:
        self._alarm = None
        now = self._access.clock.steady
        self._bell = self._bell or now >= self._look_at
        self.nudge()

    @property
    def _is_again(self) -> bool:
        """What was refused is to be tried once more."""
        return bool(self._ledger.refused) and self._access.clock.steady >= self._again_at

    async def _turn(self) -> None:
        if self._access.is_away and self.returned is not None:
            await self.returned()
        again = self._is_again
        stroke = self._repetition() if again else self._stroke()
        self._unanswered = list(stroke.puts)
        try:
            done = await self._access.run(lambda store, _now: stroke.done(store))
        except (StoreAway, StoreError):
            self._ledger.put_back(stroke.batch)
            self._ledger.put_back_puts(self._unanswered)
            self._unanswered = []
            self._bell = True
            raise
        self._access.back()
        self._tell(stroke.batch, done)
        self._claimed(stroke.demands, done.turned)
        self._answer(done.answers)
        self._judge(done, again, bool(stroke.demands))

    def _stroke(self) -> Stroke:
        puts, batch = self._ledger.take_puts(), self._ledger.take()
        demands = self._looked() if self._bell or puts or batch.reports else []
        thread = self._access.thread
        return Stroke(
            self._access.clock.now(), self.node, puts, batch, demands, lambda done: thread.tell(self._answer, done)
        )

    def _repetition(self) -> Stroke:
        """What was refused, and nothing else: it would have to be taken to pieces, too."""
        return Stroke(self._access.clock.now(), self.node, [], self._ledger.take_refused(), [], lambda _: None)

    def _judge(self, done: Done, again: bool, claimed: bool) -> None:
        """Whether the store takes what it is given; `again`: what it had refused."""
        if done.why:
            self._access.trouble(done.why, len(done.refused))
        if done.refused:
            self._again_at = self._access.clock.steady + self._again_delay * random.uniform(0.8, 1.0)
            self._again_delay = min(2 * self._again_delay, AGAIN_CAP)
        elif again:
            self._again_delay = AGAIN_FIRST
            self._bell = True
        if not (done.why or self._ledger.refused) and (again or claimed):
            self._access.healed()

    def _looked(self) -> list[Demand]:
        """What to claim now; the next look is due again. A turn that only writes puts no look off."""
        self._bell = False
        self._look_at = self._access.clock.steady + POLL * random.uniform(0.8, 1.2)
        if not self.claims or len(self._ledger.refused) >= MOST_REFUSED:
            return []
        return self._demands.composed(self._access.clock.steady)

    def _answer(self, answers: Iterable[Answer]) -> None:
        self._unanswered = []
        for put, receipts, error in answers:
            put.done(receipts, error)

    def _tell(self, batch: Batch, done: Done) -> None:
        turned, refused = done.turned, done.refused
        stale, kept, granted = set(turned.stale), set(turned.kept), set(turned.granted)
        for asked in batch.stages:
            held = Held(asked.stage.id, asked.stage.fence)
            if held in refused:
                self._ledger.refuse([], [asked])
            else:
                asked.kept(held in kept)
        for lock, tell_granted in batch.locks:
            tell_granted(Held(lock.id, lock.fence) in granted)
        for report in batch.reports:
            late = [Held(one.id, one.fence) for one in report.settlements] if stale else []
            late = [held for held in late if held in stale]
            waiting = report.waiting(refused) if refused else None
            if waiting is not None:
                report = self._halved(report, waiting, late)
            self._ends.settled(report, late)

    def _halved(self, report: Report, waiting: Report, late: list[Held]) -> Report:
        """Its written half; it is answered with the other one."""
        if report.stored is not None:
            waiting = waiting._replace(stored=partial(_with_others, report.stored, late))
        self._ledger.refuse([waiting])
        left = {Held(one.id, one.fence) for one in waiting.settlements}
        return Report([one for one in report.settlements if Held(one.id, one.fence) not in left])

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
        self.nudge()

    def _give_up_puts(self) -> None:
        for put in self._ledger.overdue_puts(self._access.clock.steady - PATIENCE):
            put.done([], f"the store has not answered for {PATIENCE:g} s; whether they are stored is not known")


def _with_others(stored: Callable[[list[Held]], None], before: list[Held], late: list[Held]) -> None:
    stored([*before, *late])
