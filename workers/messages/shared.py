"""Mode `shared`: many handlers at once, async ones in one loop, plain ones in threads."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from ..supervision import Supervision
from .blocking import Blocking, stepped
from .context import Context
from .courier import Courier
from .course import course
from .crew import FAREWELL, LAST_WORD, LOOK, Crew, Station
from .journal import Journal
from .run import STOPPED, Run
from .threads import Threads


class InLoop:
    """The way of async handlers."""

    def __init__(self, courier: Courier) -> None:
        self.courier = courier

    def call(self, run: Run, value: Any, context: Context | None) -> Awaitable[Any]:
        result: Any = run.declaration.call(value, context)
        return result if hasattr(result, "__await__") else _given(result)

    async def answer(self, run: Run, question: Any) -> Any:
        return await asyncio.wrap_future(self.courier.ask(question))

    def progress(self, run: Run, body: bytes) -> None:
        self.courier.progress(run, body)

    def ask(self, question: Any) -> "Future[Any]":
        return self.courier.ask(question)


async def _given(result: Any) -> Any:
    """What a function gave that looked like an async one and was none."""
    return result


class Shared(Crew):
    """One executor; what is not said to be called in another thread is called in its loop."""

    def __init__(
        self, station: Station, supervision: Supervision, journal: Journal, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(station, supervision, journal)
        self._loop, self._credit = loop, station.credit
        self._in_loop, self._in_thread = InLoop(self.courier), Blocking(self.courier)
        self._threads = Threads()
        self._busy = self._threads_busy = 0
        self._turns = False
        self._event = asyncio.Event()

    async def run(self) -> None:
        """Until it is drained, or has been told to end."""
        self._supervision.watch(self._loop, self.hands.load, self.hands.open_work)
        self._loop.add_signal_handler(signal.SIGTERM, self._terminate)
        self._begin()
        await self._until(self._is_done)
        if self.terminated:
            await self._cut()

    def came(self) -> None:
        """Called in the courier's thread."""
        self._soon(self._fill)

    def wake(self) -> None:
        """Called in any thread."""
        self._soon(self._changed)

    def _soon(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker is leaving already
            self._loop.call_soon_threadsafe(function)

    def _changed(self) -> None:
        self._look()
        if self.courier.retires:
            self._event.set()

    async def _until(self, condition: Callable[[], bool], within: float | None = None) -> None:
        """Wait for it, at most so many seconds. It may come true by time alone, once this executor retires."""
        deadline = None if within is None else self._loop.time() + within
        while not condition() and (deadline is None or self._loop.time() < deadline):
            self._event.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK if self.courier.retires else None):
                    await self._event.wait()

    # -- runs

    def _fill(self) -> None:
        """Begin as many as may run; what has ended since the last time is said along with it."""
        begun = []
        while self._busy < self._credit and (run := self._next()) is not None:
            self._busy += 1
            begun.append(run)
        self.courier.flush(begun)
        for run in begun:
            self.journal.begins(run)
            if run.declaration.is_async:
                task = self._loop.create_task(self._run_in_loop(run), name=run.name)
                run.interruptible(partial(self._soon, task.cancel))  # comes after its first step: it was posted later
            else:
                self._threads.submit(partial(self._run_in_thread, run), self._threads_busy)
                self._threads_busy += 1

    async def _run_in_loop(self, run: Run) -> None:
        self._tell(run, await course(run, self._in_loop))
        self._ended()

    def _run_in_thread(self, run: Run) -> None:
        """Runs in a thread. Its outcome does not wait for the loop, which may be blocked."""
        thread = threading.current_thread()
        name, thread.name = thread.name, run.name
        self._tell(run, stepped(course(run, self._in_thread)))
        thread.name = name
        self.courier.flush()
        self._soon(self._ended_in_thread)

    def _ended_in_thread(self) -> None:
        self._threads_busy -= 1
        self._ended()

    def _ended(self) -> None:
        """Those that end in the same turn of the loop are told together."""
        self._busy -= 1
        if not self._turns:
            self._turns = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turns = False
        self._fill()
        if self.courier.retires:
            self._event.set()

    # -- the end

    def _terminate(self) -> None:
        """SIGTERM."""
        self.terminated = True
        self._supervision.terminated()
        self._event.set()

    async def _cut(self) -> None:
        """Give back what waits, cancel what runs. Whoever was told to end before has had the time for it. What goes on
        all the same ends with this process."""
        self.courier.retire()
        told = [run for run in self.hands.running() if not run.why]
        for run in told:
            run.cancel(STOPPED)
        await self._until(lambda: all(run.is_over for run in told), FAREWELL)
        await self._until(lambda: self.courier.is_settled, LAST_WORD)
