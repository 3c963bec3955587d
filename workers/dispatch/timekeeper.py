"""Sees to it that what is to end does: tells runs, and the master when a run does not let go of its executor."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from ...ipc.durable.wire import Cancel, Held, Overdue
from .clock import Clock
from .ledger import Ledger
from .limits import look, tell
from .roster import Executor, Roster
from .turnkeeper import Turnkeeper

logger = logging.getLogger("bkd.dispatch")


class Timekeeper:
    """Looks at time limits when the nearest one is over. `masters` are told which executors are to be ended."""

    keeper: Turnkeeper

    def __init__(self, roster: Roster, ledger: Ledger, clock: Clock) -> None:
        self.masters: list[Callable[[Overdue], None]] = []
        self._roster, self._ledger, self._clock = roster, ledger, clock
        self._timer: asyncio.TimerHandle | None = None
        self._moment = 0.0

    def plan(self, moment: float) -> None:
        """Look at this monotonic moment, or sooner."""
        if self._timer is not None and self._moment <= moment:
            return
        self.close()
        self._moment = moment
        self._timer = asyncio.get_running_loop().call_later(max(moment - self._clock.steady, 0.0), self._look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def cancel(self, helds: Iterable[Held], why: str = "cancelled") -> None:
        """These runs are to end, as far as they are here."""
        wanted, now = {held.id: held.fence for held in helds}, self._clock.steady
        for executor, run in self._roster.holding():
            if wanted.get(run.task.id) == run.task.fence and executor.link is not None and tell(run, why, now):
                _say(executor, run.held, why)
                self.plan(now)

    def _look(self) -> None:
        self._timer = None
        found = look(self._roster, self._clock.steady)
        for _, run in found.noted:
            self._ledger.began(run.held)
        for executor, run in found.told:
            _say(executor, run.held, run.why)
        for executor in found.doomed:
            logger.warning("%s, pid %d, is to be ended: %s", executor.slot, executor.pid, executor.condemned)
        for executor in found.condemned:
            self._condemn(executor)
        if found.noted:
            self.keeper.nudge()
        if found.next is not None:
            self.plan(found.next)

    def _condemn(self, executor: Executor) -> None:
        for tell_master in self.masters:
            tell_master(Overdue(executor.slot, executor.pid, executor.start, executor.condemned))


def _say(executor: Executor, held: Held, why: str) -> None:
    if executor.link is not None:
        executor.link.send(Cancel(held.id, held.fence, why))
