"""The dispatcher as a kind of work: its process's main function, from the order to the exit code."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable

from ...ipc.errors import BkdError
from ...ipc.message import DispatcherWork, Drain
from ..store.opening import opened
from ..supervision import Load, Supervision
from .dispatcher import Dispatcher

DONE = 0
NO_STORE = 3  # the store cannot be used; the reason was said
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

logger = logging.getLogger("bkd.dispatch")


def prepare(work: DispatcherWork) -> "Dispatch":
    """What is to be served; opens nothing. Raises StoreError for a URL that names no store."""
    return Dispatch(work)


class Dispatch:
    """The dispatcher of a cluster, to be run in a process of its own."""

    def __init__(self, work: DispatcherWork) -> None:
        self._work = work
        self._store = opened(work.store, work.base)

    def serve(self, listeners: list[socket.socket], supervision: Supervision, index: int) -> int:
        """Run it to its end; the exit code. Called in the dispatcher's main thread."""
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=LOG_FORMAT)
        with asyncio.Runner(loop_factory=_new_loop()) as runner:
            return runner.run(self._main(listeners, supervision))

    async def _main(self, listeners: list[socket.socket], supervision: Supervision) -> int:
        loop = asyncio.get_running_loop()
        orders = _Orders(loop, supervision)
        supervision.watch(loop, Load)
        dispatcher = Dispatcher(self._store, self._work.name, users=self._work.users, runners=self._work.runners)
        if not await self._begin(dispatcher, supervision, orders):
            return DONE if orders.is_ended else NO_STORE
        await dispatcher.serve(listeners)
        supervision.ready()
        await _first(dispatcher.tasks.failed(), orders.ended())
        if orders.last and not orders.terminated.is_set():
            await _first(dispatcher.tasks.failed(), dispatcher.emptied(), orders.terminated.wait())
        dispatcher.tasks.check()
        await dispatcher.close()
        return DONE

    async def _begin(self, dispatcher: Dispatcher, supervision: Supervision, orders: "_Orders") -> bool:
        opening = asyncio.ensure_future(dispatcher.open(self._work.patience))
        await _first(opening, orders.ended())
        if not opening.done() or opening.cancelled():
            return False
        if (error := opening.exception()) is None:
            return True
        if not isinstance(error, BkdError):
            raise error
        supervision.failed(str(error))
        return False


class _Orders:
    """What the master, or a signal, wants. `last`: executors are waited for, nobody else takes their outcomes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, supervision: Supervision) -> None:
        self.last = False
        self.terminated = asyncio.Event()
        self._drained = asyncio.Event()
        self._loop, self._supervision = loop, supervision
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        supervision.on_drain(self._hear)

    @property
    def is_ended(self) -> bool:
        """The process is to end."""
        return self._drained.is_set()

    async def ended(self) -> None:
        """Until it is to end."""
        await self._drained.wait()

    def _terminate(self) -> None:
        self._supervision.terminated()
        self.terminated.set()
        self._drained.set()

    def _hear(self, drain: Drain) -> None:
        """Called in the heartbeat thread."""
        try:
            self._loop.call_soon_threadsafe(self._drain, drain.last)
        except RuntimeError:
            logger.debug("the loop is closed: the process is leaving already")

    def _drain(self, last: bool) -> None:
        self.last = self.last or last
        self._drained.set()


async def _first(*awaitables: Awaitable[object]) -> None:
    """Until one of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in awaitables]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
