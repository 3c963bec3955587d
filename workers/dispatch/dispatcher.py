"""The dispatcher, put together: one store, one socket, and what lies between. Runs in its process's only loop."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ...ipc.durable.model import NewMessage, Receipt
from ...ipc.errors import RefusedError
from ..operators.verbs import Operators
from ..store.protocol import Store, StoreAway
from .access import Access
from .alarms import Alarms
from .bells import CHANGED, Bells, listener_of
from .clock import Clock
from .deaths import Deaths
from .demands import Demands
from .door import Door
from .engine import Engine
from .ledger import Ledger, Put
from .lookups import Lookups
from .masters import Verbs
from .payloads import Payloads
from .roster import Roster
from .settler import Settler
from .storethread import StoreThread
from .tasks import Tasks
from .timekeeper import Timekeeper
from .turnkeeper import BACK_OFF_CAP, BACK_OFF_FIRST, Turnkeeper
from .upkeep import Upkeep
from .waiters import Waiters

FLUSH = 2.0  # seconds in which what was said is still written, at the end
PATIENCE = 5.0  # seconds that executors are waited for when there is neither master nor keeper
T = TypeVar("T")

logger = logging.getLogger("bkd.dispatch")


class Dispatcher:
    """Made inside the running loop. `name`: of its node; what is before its first slash follows the @ of workers.
    `users`, `runners`: see `door.Door`."""

    def __init__(self, store: Store, name: str, *, users: Sequence[int] = (), runners: Sequence[int] = ()) -> None:
        clock, host = Clock(), name.partition("/")[0]
        self.alarms = Alarms(lambda: clock.steady)
        self.access = Access(store, StoreThread(asyncio.get_running_loop()), clock, self.alarms)
        self.tasks, self.ledger, self.waiters = Tasks(), Ledger(), Waiters()
        self.roster = Roster()
        self.settler = Settler(self.roster, self.ledger, clock)
        self.times = Timekeeper(self.roster, self.ledger, clock)
        self.engine = Engine(
            self.access, self.roster, self.ledger, self.settler, self.times, self.waiters, self.alarms, host
        )
        demands = Demands(self.roster)
        self.keeper = Turnkeeper(self.access, self.ledger, demands, self.engine)
        self.access.noticed = self.keeper.nudge
        self.settler.keeper = self.times.keeper = self.engine.keeper = self.keeper
        self.deaths = Deaths(self.settler.bury, lambda: self.door.has_master, self.tasks)
        self.engine.deaths = self.deaths
        self.payloads = Payloads(self.access)
        self.lookups = Lookups(self.access, self.tasks)
        self.upkeep = Upkeep(
            name, self.access, self.engine, self.settler, self.times, demands, self.waiters, self.alarms
        )
        self.keeper.returned = self.upkeep.returned
        self.verbs: Verbs = Operators(self.run, self.changed, self.put)
        self.door = Door(self, self._emptied, users=users, runners=runners)
        self._bells: Bells | None = None
        self._changed = asyncio.Event()

    async def open(self, patience: float) -> None:
        """Open the store and take over what a predecessor left. A store that is away is tried again for `patience`
        seconds; raises StoreAway, StoreError."""
        deadline, delay = self.access.clock.steady + patience, BACK_OFF_FIRST
        while True:
            try:
                await self.access.thread.do(self.access.store.open)
                await self.upkeep.begin()
                self.access.back()
                return
            except StoreAway as error:
                if self.access.clock.steady > deadline:
                    raise
                self.access.lost(error)
            await asyncio.sleep(delay)
            delay = min(2 * delay, BACK_OFF_CAP)

    async def serve(self, listeners: Iterable[socket.socket]) -> None:
        """Work from now on."""
        for listener in listeners:
            await self.door.listen(listener)
        self.tasks.start(self.keeper.run(), "turns")
        self.tasks.start(self.upkeep.run(), "upkeep")
        if (listener_there := listener_of(self.access.store)) is not None:
            loop = asyncio.get_running_loop()
            self._bells = Bells(listener_there, lambda news: _call(loop, self._rung, news))

    async def emptied(self) -> None:
        """Claim nothing more, and wait until every executor has left and every producer has its answer, what the dead
        ones held is settled, and all is written. Executors that do not leave are ended when no master does so."""
        self.keeper.claims = False
        deadline = self.access.clock.steady + PATIENCE
        while self.door.is_busy or not self.roster.is_idle or not self.keeper.is_even:
            self._changed.clear()
            await self._within(0.2)
            if not self.door.has_master and self.access.clock.steady > deadline:
                self.deaths.end_all()

    async def close(self) -> None:
        """Write what was said, and let go of everything. What executors still hold is taken over by the next one."""
        self.keeper.claims = False
        self.door.hush()
        deadline = self.access.clock.steady + FLUSH
        while not self.keeper.is_even and self.access.clock.steady < deadline:
            self._changed.clear()
            await self._within(0.01)
        await self._leave()
        self.door.close()
        self.deaths.close()
        self.times.close()
        if self._bells is not None:
            self._bells.close()
        await self.tasks.close()
        try:
            async with asyncio.timeout(FLUSH):
                await self.access.thread.do(self.access.store.close)
        except TimeoutError:
            logger.warning("the store did not close within %g s", FLUSH)
        self.access.thread.end(0.0)

    # -- for verbs

    async def run(self, function: Callable[[Store, int], T]) -> T:
        """A function of the store and of the present moment, run where the store may be used."""
        return await self.access.ask(function)

    async def put(self, messages: list[NewMessage]) -> list[Receipt]:
        """Store messages as a producer does. Raises RefusedError."""
        receipts: asyncio.Future[list[Receipt]] = asyncio.get_running_loop().create_future()
        self.ledger.put(Put(messages, lambda done, error: _deliver(receipts, done, error), self.access.clock.steady))
        self.keeper.ring()
        return await receipts

    def changed(self) -> None:
        """An operator has changed what may run, or wants something to end."""
        self.keeper.ring()
        self.upkeep.ask()

    # -- inside

    async def _leave(self) -> None:
        """Only a node that holds nothing may say that it does."""
        if not self.roster.is_idle or not self.keeper.is_even or self.access.is_away:
            return
        try:
            async with asyncio.timeout(FLUSH):
                await self.upkeep.leave()
        except (TimeoutError, StoreAway) as error:
            logger.info("the node could not be signed off: %s", error)

    def _rung(self, news: Sequence[str]) -> None:
        """Called in the loop."""
        if CHANGED in news:
            self.upkeep.ask()
        self.keeper.ring()

    def _emptied(self) -> None:
        self._changed.set()
        self.deaths.changed()

    async def _within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return


def _deliver(receipts: asyncio.Future[list[Receipt]], done: list[Receipt], error: str) -> None:
    if receipts.done():
        return
    if error:
        receipts.set_exception(RefusedError(error))
    else:
        receipts.set_result(done)


def _call(loop: asyncio.AbstractEventLoop, rung: Callable[[Sequence[str]], None], news: Iterable[str]) -> None:
    """Called in the thread of the bells."""
    try:
        loop.call_soon_threadsafe(rung, list(news))
    except RuntimeError:
        logger.debug("the loop is closed: the process is leaving")
