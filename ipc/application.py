"""`ipc`: what application code in a worker sees of the cluster."""

import asyncio
import contextlib
import inspect
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from .errors import NotConnected

MOST_WAITING = 1000
_log = logging.getLogger("bkd")


class Event(NamedTuple):
    """What the handlers of an application event are given; `data` are plain objects."""

    op: str
    data: Any


Handler = Callable[[Event], Any]
H = TypeVar("H", bound=Handler)


class Face(Protocol):
    """What the worker's runtime does for the application.

    `begun` is set when the application's own code is about to run; from then on `loop` is the main loop, None if there
    is none.
    """

    slot: str
    begun: threading.Event
    loop: asyncio.AbstractEventLoop | None

    def ready(self) -> None:
        """Tell the master that the work is being done from now on."""


class Handlers:
    """The handlers of one process at work: async ones in the main loop, others one by one in a thread of their own.

    No more than MOST_WAITING of each kind are under way; `lost` counts those that were not even begun.
    """

    def __init__(self, face: Face) -> None:
        self.lost = 0
        self._face = face
        self._room = threading.Semaphore(MOST_WAITING)
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue: queue.Queue[tuple[Handler, Event]] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None

    def run(self, handler: Handler, event: Event) -> None:
        """Called in the heartbeat thread; does not wait for the handler."""
        if self._face.loop is not None and _is_async(handler):
            self._in_loop(self._face.loop, handler, event)
            return
        try:
            self._queue.put_nowait((handler, event))
        except queue.Full:
            self._lose(event)
        if self._thread is None:
            self._start_thread()

    def _lose(self, event: Event) -> None:
        self.lost += 1
        if self.lost == 1:
            _log.error("%s: an event is dropped, handlers are %d events behind", event.op, MOST_WAITING)

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
        self._face.begun.wait()
        while True:
            handler, event = self._queue.get()
            try:
                self._call(handler, event)
            except BaseException:  # noqa: BLE001 - whatever a handler raises, the next ones are called
                _log.exception("%s: a handler failed", event.op)

    def _call(self, handler: Handler, event: Event) -> None:
        """An async handler comes here if there was no loop yet, is none at all, or if it does not look like one."""
        result = handler(event)
        if not inspect.iscoroutine(result):
            return
        if self._face.loop is None:
            asyncio.run(result)
        else:
            self._in_loop(self._face.loop, lambda _event: result, event)

    def _in_loop(self, loop: asyncio.AbstractEventLoop, handler: Handler, event: Event) -> None:
        if not self._room.acquire(blocking=False):
            self._lose(event)
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker is at its end
            loop.call_soon_threadsafe(self._start_task, loop, handler, event)

    def _start_task(self, loop: asyncio.AbstractEventLoop, handler: Handler, event: Event) -> None:
        task = loop.create_task(_awaited(handler, event), name=event.op)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - the method itself is looked at
    )


async def _awaited(handler: Handler, event: Event) -> None:
    try:
        await handler(event)
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException:  # noqa: BLE001 - SystemExit, too, would end the loop
        _log.exception("%s: a handler failed", event.op)


class Application:
    """One per process. Outside a cluster `ready` does nothing, no event comes, and nobody ever asks to stop."""

    def __init__(self) -> None:
        self._face: Face | None = None
        self._registered: dict[str, list[Handler]] = {}
        self._handlers: Handlers | None = None
        self._stop = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.listens_for_stop = False

    @property
    def slot(self) -> str:
        """Name of this worker's slot such as `web.2`; raises NotConnected outside a cluster."""
        if self._face is None:
            raise NotConnected("this process is no worker of a cluster")
        return self._face.slot

    @property
    def lost(self) -> int:
        """How many calls of handlers were dropped because they were too far behind."""
        return self._handlers.lost if self._handlers is not None else 0

    def on(self, op: str) -> Callable[[H], H]:
        """Decorator: call this function, async or plain, with every `Event` of this name, such as `price:changed`.

        Async functions run in the worker's main loop, plain ones in a thread, one after the other. What they raise is
        logged. Several may listen to one name.
        """
        if not isinstance(op, str):
            raise TypeError('ipc.on needs the name of an event: @ipc.on("price:changed")')

        def register(handler: H) -> H:
            self._registered.setdefault(op, []).append(handler)
            return handler

        return register

    def ready(self) -> None:
        """With `ready = "notify"`: the work is being done from now on."""
        if self._face is not None:
            self._face.ready()

    def stopping(self, timeout: float | None = 0.0) -> bool:
        """Whether this worker is asked to finish, waiting up to `timeout` seconds (None: for ever) in a plain function.

        Who asks is not interrupted by the drain any more, only by SIGTERM when `drain` is over.
        """
        self.listens_for_stop = True
        return self._stop.is_set() if timeout == 0.0 else self._stop.wait(timeout)

    async def stopped(self) -> None:
        """Return when this worker is asked to finish: `stopping` for async functions."""
        self.listens_for_stop = True
        if self._stop.is_set():
            return
        event = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), event))
        await event.wait()

    def attach(self, face: Face) -> None:
        """Called by the worker's runtime after the fork, before any application code runs there."""
        self._face, self._handlers = face, Handlers(face)

    def deliver(self, op: str, data: bytes) -> None:
        """Called by the worker's runtime in the heartbeat thread: an event for the application, as MessagePack."""
        handlers = tuple(self._registered.get(op, ()))
        if self._handlers is None or not handlers:
            return
        try:
            event = Event(op, msgspec.msgpack.decode(data))
        except Exception as error:  # noqa: BLE001 - whoever sent it, the heartbeat goes on
            _log.error("%s: the event cannot be read: %s", op, error)
            return
        for handler in handlers:
            self._handlers.run(handler, event)

    def ask_to_stop(self) -> None:
        """Called by the worker's runtime, in whatever thread, when the master wants the worker to drain."""
        self._stop.set()
        for loop, event in self._waiting:
            loop.call_soon_threadsafe(event.set)


ipc = Application()
