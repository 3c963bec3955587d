"""Handlers of application events and calls, at work."""

import asyncio
import contextlib
import inspect
import logging
import queue
import threading
from asyncio import _get_running_loop as running_loop
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from .errors import said

MOST_WAITING = 10_000
_log = logging.getLogger("bkd")


class Event(NamedTuple):
    """What handlers are given: `data` are plain objects, `by` is who sent it, such as `web.1@h1`, if that is known."""

    op: str
    data: Any
    by: str = ""


Handler = Callable[[Event], Any]
H = TypeVar("H", bound=Handler)


class Answer(Protocol):
    """Where the answer to a call goes; one of these is called once, in whatever thread."""

    def give(self, value: Any) -> None:
        """What the handler returned."""

    def fail(self, error: str, reason: str) -> None:
        """It gave no value: `error` is one of the kinds of the wire, `reason` a line for people."""


class Place(Protocol):
    """Where handlers run: `begun` is set when they may, `loop` is the main loop then, None if there is none."""

    begun: threading.Event
    loop: asyncio.AbstractEventLoop | None


class Listener(NamedTuple):
    """A handler as it was registered; `is_async`: whether it looks like an async function."""

    handler: Handler
    is_async: bool

    @classmethod
    def of(cls, handler: Handler) -> "Listener":
        """Functions, and objects that are called like functions."""
        called = getattr(handler, "__call__", None)  # noqa: B004 - the method itself is looked at
        return cls(handler, inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(called))


class Job(NamedTuple):
    """One handler to be called; `answer` is None for an event, `loop` where it runs if it is async."""

    handler: Handler
    event: Event
    answer: Answer | None
    loop: asyncio.AbstractEventLoop | None

    def failed(self, error: BaseException) -> None:
        """The handler raised this: it is in the log, and the caller is told."""
        _log.error("%s: a handler failed", self.event.op, exc_info=error)
        if self.answer is not None:
            self.answer.fail("failed", said(error))


class Handlers:
    """The handlers of one process at work: async ones in the main loop, others one by one in a thread of their own.

    No more than MOST_WAITING of each kind are under way; `lost` counts those that were not even begun.
    """

    def __init__(self, place: Place) -> None:
        self.lost = 0
        self._place = place
        self._posted: deque[Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue: queue.Queue[Job] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None

    @property
    def is_used(self) -> bool:
        """Whether there was anything for the thread to do."""
        return self._thread is not None

    def run(self, listeners: Sequence[Listener], event: Event, answer: Answer | None = None) -> None:
        """Called in any thread; does not wait for the handlers. The first one's value is the answer."""
        loop = self._place.loop or loop_of_main_thread()
        for handler, is_async in listeners:
            job = Job(handler, event, answer, loop)
            if is_async and loop is not None:
                self._in_loop(loop, job)
            else:
                self._in_thread(job)
            answer = None

    def _in_thread(self, job: Job) -> None:
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            self._lose(job)
        if self._thread is None:
            self._start_thread()

    def _lose(self, job: Job) -> None:
        self.lost += 1
        if self.lost == 1:
            _log.error("%s: an event is dropped, handlers are %d events behind", job.event.op, MOST_WAITING)
        if job.answer is not None:
            job.answer.fail("refused", f"its handlers are {MOST_WAITING} events behind")

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="bkd-events", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            _log.error("events have to wait: %s", error)
        else:
            self._thread = thread

    def _work(self) -> None:
        """Runs in the thread. No handler is called before the application's own code is."""
        self._place.begun.wait()
        while True:
            job = self._queue.get()
            try:
                self._call(job)
            except BaseException as error:  # noqa: BLE001 - whatever a handler raises, the next ones are called
                job.failed(error)

    def _call(self, job: Job) -> None:
        """An async handler comes here if there was no loop yet, is none at all, or if it does not look like one."""
        result, loop = job.handler(job.event), job.loop or self._place.loop
        if not inspect.iscoroutine(result):
            _give(job, result)
        elif loop is None:
            _give(job, asyncio.run(result))
        else:
            self._in_loop(loop, job._replace(handler=lambda _event: result))

    def _in_loop(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        if running_loop() is loop:
            self._start_task(loop, job)
        elif len(self._posted) >= MOST_WAITING:
            self._lose(job)
        else:
            self._posted.append(job)
            with contextlib.suppress(RuntimeError):  # the loop is closed: the worker is at its end
                loop.call_soon_threadsafe(self._start_posted, loop)

    def _start_posted(self, loop: asyncio.AbstractEventLoop) -> None:
        self._start_task(loop, self._posted.popleft())

    def _start_task(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        if len(self._tasks) >= MOST_WAITING:
            self._lose(job)
            return
        task = loop.create_task(_awaited(job), name=job.event.op)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def loop_of_main_thread() -> asyncio.AbstractEventLoop | None:
    """That of whoever calls: as good as a main loop, in a process that has none by itself."""
    return running_loop() if threading.current_thread() is threading.main_thread() else None


def _give(job: Job, value: Any) -> None:
    if job.answer is not None:
        job.answer.give(value)


async def _awaited(job: Job) -> None:
    try:
        _give(job, await job.handler(job.event))
    except (asyncio.CancelledError, GeneratorExit):
        if job.answer is not None:
            job.answer.fail("closed", "its handler was cancelled")
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit, too, would end the loop
        job.failed(error)
