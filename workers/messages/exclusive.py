"""Mode `exclusive`: one message at a time, in the main thread. Whatever a handler does, it does it to itself alone."""

import asyncio
import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from time import monotonic
from types import FrameType
from typing import Any

from ..supervision import Supervision
from .blocking import Blocking, stepped
from .context import Context
from .courier import Courier
from .course import course
from .crew import LAST_WORD, LOOK, Crew, Station
from .journal import Journal
from .run import STOPPED, Run

NewLoop = Callable[[], asyncio.AbstractEventLoop]


class Stopped(BaseException):
    """Raised in a plain handler by SIGTERM."""


class Gate:
    """Where the main thread may be interrupted by a signal: in the code of the application, and in nothing of ours."""

    def __init__(self) -> None:
        self.is_open = self.is_wanted = False

    def interrupt(self) -> None:
        """Called by the signal's handler, in the main thread."""
        self.is_wanted = True
        if self.is_open:
            self.is_open = False
            raise Stopped

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """The code of the application is called here."""
        self.is_open = True
        try:
            if self.is_wanted:
                raise Stopped
            yield
        finally:
            self.is_open = False

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """It has called us back, in whatever thread."""
        if threading.current_thread() is not threading.main_thread() or not self.is_open:
            yield
            return
        self.is_open = False
        try:
            yield
        finally:
            self.is_open = True
            if self.is_wanted:
                self.interrupt()


class InMain(Blocking):
    """The way of all handlers in this mode; async ones have a loop that turns while they run."""

    def __init__(self, courier: Courier, gate: Gate, new_loop: NewLoop) -> None:
        super().__init__(courier)
        self._gate, self._new_loop = gate, new_loop
        self._runner: asyncio.Runner | None = None

    async def call(self, run: Run, value: Any, context: Context | None) -> Any:
        if run.declaration.is_async:
            if self._runner is None:
                self._runner = asyncio.Runner(loop_factory=self._new_loop)
            return self._runner.run(self._awaited(run, value, context))
        with self._gate.opened():
            return run.declaration.call(value, context)

    async def answer(self, run: Run, question: Any) -> Any:
        answer = self.courier.ask(question)
        with self._gate.opened():
            return run.awaited(answer)

    def progress(self, run: Run, body: bytes) -> None:
        with self._gate.closed():
            self.courier.progress(run, body)

    def ask(self, question: Any) -> "Future[Any]":
        with self._gate.closed():
            return self.courier.ask(question)

    def close(self) -> None:
        """Let what is left of the application's tasks end."""
        if self._runner is not None:
            self._runner.close()

    async def _awaited(self, run: Run, value: Any, context: Context | None) -> Any:
        task = asyncio.current_task()
        assert task is not None
        run.interruptible(partial(task.get_loop().call_soon_threadsafe, task.cancel))
        try:
            result = run.declaration.call(value, context)
            return await result if hasattr(result, "__await__") else result
        finally:
            run.stop = None


class Exclusive(Crew):
    """One executor; runs in the main thread of the worker."""

    def __init__(self, station: Station, supervision: Supervision, journal: Journal, new_loop: NewLoop) -> None:
        super().__init__(station, supervision, journal)
        self._gate = Gate()
        self._way = InMain(self.courier, self._gate, new_loop)
        self._current: Run | None = None
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)

    def run(self) -> None:
        """Until it is drained, or has been told to end."""
        self._supervision.watch(None, self.hands.load, self.hands.open_work)
        signal.signal(signal.SIGTERM, self._terminate)
        self._begin()
        while not self._is_done():
            run = self._next()
            if run is None:
                self.courier.flush()
                self._wait(LOOK if self.courier.retires else None)
                self._look()
            else:
                self._run(run)
        if self.terminated:
            self._cut()
        else:
            self._way.close()

    def wake(self) -> None:
        """Called in any thread."""
        os.eventfd_write(self._bell, 1)

    def _wait(self, limit: float | None) -> None:
        if self._poll.poll(None if limit is None else limit * 1000 + 1):
            os.eventfd_read(self._bell)

    def _run(self, run: Run) -> None:
        self.courier.flush([run])
        self.journal.begins(run)
        self._current = run
        if self.terminated:
            run.cancel(STOPPED)
        outcome = stepped(course(run, self._way))
        self._current = None
        self._tell(run, outcome)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM; called in the main thread, between any two of its instructions."""
        self.terminated = True
        self._supervision.terminated()
        self.wake()
        if self._current is not None:
            self._current.cancel(STOPPED)
        self._gate.interrupt()

    def _cut(self) -> None:
        self.courier.retire()
        self.courier.flush()
        deadline = monotonic() + LAST_WORD
        while not self.courier.is_settled and monotonic() < deadline:
            self._wait(LOOK)
