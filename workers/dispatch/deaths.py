"""Learns of the death of executors: at once by their pidfds, and from the master, which knows how they died."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable

from ...ipc.durable.wire import Died
from ...ipc.processes import start_time
from .burial import Death
from .roster import Executor
from .tasks import Tasks

WAIT = 2.0  # seconds for the master's word, and for what the dead one has still said; on a busy host both take a while
MOST_KNOWN = 256

logger = logging.getLogger("bkd.dispatch")


class Deaths:
    """`bury` is called once for each executor that was watched and is dead. `informed`: whether a master tells how."""

    def __init__(self, bury: Callable[[Executor, Death], None], informed: Callable[[], bool], tasks: Tasks) -> None:
        self._bury, self._informed, self._tasks = bury, informed, tasks
        self._known: dict[tuple[int, int], Death] = {}
        self._changed = asyncio.Event()
        self._watched: dict[tuple[int, int], tuple[Executor, int]] = {}

    def watch(self, executor: Executor) -> None:
        """From now on."""
        try:
            descriptor = os.pidfd_open(executor.pid)
        except OSError as error:
            logger.info("%s, pid %d, cannot be watched: %s", executor.slot, executor.pid, error.strerror)
            self._begin(executor)
            return
        if start_time(executor.pid) != executor.start:
            os.close(descriptor)
            self._begin(executor)
            return
        self._watched[executor.pid, executor.start] = executor, descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._ended, executor)

    def heard(self, died: Died) -> None:
        """The master says how a process ended."""
        self._known[died.pid, died.start] = Death(died.how, died.charged)
        while len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self.changed()

    def changed(self) -> None:
        """Something that a burial may wait for: a death is known, or a connection has ended, be it the master's."""
        self._changed.set()

    def end_all(self) -> None:
        """SIGKILL for all who still live, which nobody else will end. It is no fault of what they run."""
        for executor, descriptor in self._watched.values():
            logger.warning("%s, pid %d, has not ended; nobody else is there to end it", executor.slot, executor.pid)
            executor.draining = True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)

    def close(self) -> None:
        """Watch nobody any more."""
        for _, descriptor in self._watched.values():
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._watched.clear()

    def _ended(self, executor: Executor) -> None:
        _, descriptor = self._watched.pop((executor.pid, executor.start))
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        self._begin(executor)

    def _begin(self, executor: Executor) -> None:
        executor.dead = True
        self._tasks.start(self._settle(executor), f"burial of {executor.slot}")

    async def _settle(self, executor: Executor) -> None:
        deadline = asyncio.get_running_loop().time() + WAIT
        try:
            async with asyncio.timeout_at(deadline):
                while self._waits(executor):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            logger.info("%s, pid %d, is dead; how is not known", executor.slot, executor.pid)
        self._bury(executor, self._known.pop((executor.pid, executor.start), Death()))

    def _waits(self, executor: Executor) -> bool:
        """Its last words have not been read, or the master has not said how it died."""
        unknown = (executor.pid, executor.start) not in self._known
        return executor.link is not None or (unknown and bool(executor.runs) and self._informed())
