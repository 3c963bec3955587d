"""The way to the store: one thread, one clock, and whether the store answers at the moment."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from ..store.protocol import Store, StoreAway, StoreError
from .alarms import Alarms
from .clock import Clock
from .storethread import StoreThread

T = TypeVar("T")

logger = logging.getLogger("bkd.dispatch")


class Access:
    """For everybody in this process who needs the store. `noticed` is called when it turns out to be away."""

    noticed: Callable[[], None]

    def __init__(self, store: Store, thread: StoreThread, clock: Clock, alarms: Alarms) -> None:
        self.store, self.thread, self.clock = store, thread, clock
        self._alarms = alarms
        self._here = asyncio.Event()
        self._here.set()
        self._since = 0.0
        self._troubled = False

    @property
    def is_away(self) -> bool:
        """It did not answer the last time."""
        return not self._here.is_set()

    async def here(self) -> None:
        """Until it is not away."""
        await self._here.wait()

    async def run(self, function: Callable[[Store, int], T]) -> T:
        """The function's result, called with the store and the present moment, in the store's thread. Raises StoreAway,
        and StoreError for whatever else goes wrong."""
        try:
            return await self.thread.do(lambda: function(self.store, self.clock.now()))
        except StoreAway as error:
            self.lost(error)
            raise
        except StoreError:
            raise
        except Exception as error:
            logger.exception("the store failed")
            raise StoreError(str(error) or type(error).__name__) from error

    async def ask(self, function: Callable[[Store, int], T]) -> T:
        """As `run`, for what operators want. They have a connection of their own at some stores, so that its loss says
        nothing about the turns."""
        return await self.thread.do(lambda: function(self.store, self.clock.now()))

    async def insist(self, function: Callable[[Store, int], T]) -> T:
        """As `run`, again whenever the store is back. Raises StoreError."""
        while True:
            await self.here()
            try:
                return await self.run(function)
            except StoreAway:
                continue

    def lost(self, error: Exception) -> None:
        """It did not answer; whoever keeps the turns tries again and says `back`."""
        if not self.is_away:
            self._here.clear()
            self._since = self.clock.steady
            self._alarms.tell("store-away", str(error))
            self.noticed()

    def back(self) -> None:
        """It answers again."""
        if self.is_away:
            self._here.set()
            self._alarms.tell("store-back", f"it was away for {self.clock.steady - self._since:.1f} s")

    def trouble(self, why: str, ends: int) -> None:
        """It answers, and refuses; so many ends of messages are not written."""
        self._troubled = True
        left = f"ends of messages that are not written, and tried again: {ends}" if ends else "nothing can be claimed"
        self._alarms.tell("store-error", f"{left}: {why}", about="turn")

    def healed(self) -> None:
        """What it had refused is written."""
        if self._troubled:
            self._troubled = False
            self._alarms.tell("store-back", "what it had refused is written")
