"""One worker's life in its own process: start, serve, drain; or be cut short by SIGTERM."""

import asyncio
import contextlib
import logging
import signal
import socket
from typing import Any

from uvicorn import Config

from ...ipc.message import Drain as DrainOrder
from ...ipc.quantity import counted
from ..supervision import Supervision
from .accept import Gate, Welcome
from .balance import Balance
from .drain import Drain
from .lifespan import Lifespan
from .protocol import Http, Traffic

DONE = 0  # nothing was cut off
CUT = 1  # SIGTERM came before the last request was answered
STARTUP_FAILED = 3  # the application said that it cannot start

FAREWELL = 0.2  # seconds handlers get after SIGTERM, twice: to end by themselves, and after they are cancelled
SHUTDOWN = 1.0  # seconds the application's lifespan shutdown gets after SIGTERM
DATE = 1.0  # seconds between two looks at the clock, while there are connections, for the date header

logger = logging.getLogger("bkd.web")


class Server:
    """Everything one worker has while it runs."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        supervision: Supervision,
        balance: Balance,
        lame_duck: float,
    ) -> None:
        self.terminated = False
        self._config = config
        self._loop = loop
        self._supervision = supervision
        self._balance = balance
        self._changed = asyncio.Event()
        self._traffic = Traffic(config.encoded_headers, self._count)
        self._lifespan = Lifespan(config)
        self._welcome = Welcome(loop, self._protocol)
        self._gates: list[Gate] = []
        self._drain = Drain(self._gates, self._welcome, self._traffic, self._changed, lame_duck=lame_duck)
        self._ordered = asyncio.Event()
        self._last = False
        self._clock: asyncio.TimerHandle | None = None

    async def run(self, listeners: list[socket.socket]) -> int:
        """The exit code. Raises what is wrong with the worker itself."""
        self._gates.extend(self._gate(listener) for listener in listeners)
        self._supervision.watch(self._loop, self._traffic.load, self._traffic.open_work)
        self._supervision.on_drain(self._hear)
        terminate = asyncio.Event()
        self._loop.add_signal_handler(signal.SIGTERM, terminate.set)
        life = self._loop.create_task(self._life())
        term = self._loop.create_task(terminate.wait())
        await asyncio.wait({life, term}, return_when=asyncio.FIRST_COMPLETED)
        if not life.done():
            return await self._cut(life)
        self._loop.remove_signal_handler(signal.SIGTERM)
        await self._tidy()
        return life.result()

    async def _life(self) -> int:
        if not await self._lifespan.start():
            reason, trace = self._lifespan.failure
            self._supervision.failed(reason or "the application's startup failed", trace)
            return STARTUP_FAILED
        if not self._ordered.is_set():
            self._serve()
        await self._ordered.wait()
        self._balance.leave()
        await self._drain.run(last=self._last)
        await self._lifespan.stop()
        return DONE

    def _serve(self) -> None:
        if not self._supervision.on_serve(self._hear_serve):
            self._open()
        self._supervision.ready()

    def _open(self) -> None:
        if self._ordered.is_set() or self.terminated:
            return
        self._balance.show(0)
        for gate in self._gates:
            gate.open()

    def _gate(self, listener: socket.socket) -> Gate:
        return Gate(self._loop, listener, self._welcome, self._traffic.connections, self._balance)

    def _protocol(self) -> Http:
        return Http(self._config, self._traffic, self._lifespan.state, self._loop)

    def _count(self) -> None:
        """A connection came or went."""
        self._changed.set()
        if not (self._ordered.is_set() or self.terminated):
            self._balance.show(len(self._traffic.connections))
            for gate in self._gates:
                gate.relax()
        if self._clock is None:
            self._tick()

    def _tick(self) -> None:
        """Keep the date header right; without connections the worker sleeps."""
        self._traffic.set_date()
        self._clock = self._loop.call_later(DATE, self._tick) if self._traffic.connections else None

    def _hear_serve(self) -> None:
        """Called in the heartbeat thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker is leaving already
            self._loop.call_soon_threadsafe(self._open)

    def _hear(self, order: DrainOrder) -> None:
        """Called in the heartbeat thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker is leaving already
            self._loop.call_soon_threadsafe(self._order, order.last)

    def _order(self, last: bool) -> None:
        if last and self._ordered.is_set():
            self._drain.empty()
        self._last = last
        self._ordered.set()

    async def _cut(self, life: asyncio.Task[int]) -> int:
        self.terminated = True
        self._supervision.terminated()
        for gate in self._gates:
            gate.close()
        self._balance.leave()
        if not self._lifespan.started:
            life.cancel()
        work = self._traffic.work()
        await self._farewell()
        stop = self._loop.create_task(self._lifespan.stop())
        _, late = await asyncio.wait({stop}, timeout=SHUTDOWN)
        if work or late:
            what = f"SIGTERM cut off {counted(len(work), 'request')}{' and the lifespan shutdown' if late else ''}"
            logger.warning("%s", what)
            self._supervision.failed(what)
        return CUT if work or late else DONE

    async def _farewell(self) -> None:
        """Close what is open; handlers are told, then cancelled."""
        for connection in list(self._traffic.connections):
            _close(connection)
        if work := self._traffic.work():
            await asyncio.wait(work, timeout=FAREWELL)
        if work := self._traffic.work():
            for task in work:
                task.cancel("the worker was told to terminate")
            await asyncio.wait(work, timeout=FAREWELL)

    async def _tidy(self) -> None:
        """What is left of the application: its tasks end, its asynchronous generators close, its threads finish."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()


def _close(connection: Any) -> None:
    if isinstance(connection, Http):
        connection.transport.close()
    else:
        connection.shutdown()  # tells the client of a websocket to come back: close code 1012
