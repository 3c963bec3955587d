"""`ipc`: what application code in a worker sees of the cluster."""

import asyncio
import threading
from typing import Protocol

from .errors import NotConnected


class Face(Protocol):
    """What the worker's runtime does for the application."""

    slot: str

    def ready(self) -> None:
        """Tell the master that the work is being done from now on."""


class Application:
    """One per process. Outside a cluster `ready` does nothing and nobody ever asks to stop."""

    def __init__(self) -> None:
        self._face: Face | None = None
        self._stop = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.listens_for_stop = False

    @property
    def slot(self) -> str:
        """Name of this worker's slot such as `web.2`; raises NotConnected outside a cluster."""
        if self._face is None:
            raise NotConnected("this process is no worker of a cluster")
        return self._face.slot

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
        self._face = face

    def ask_to_stop(self) -> None:
        """Called by the worker's runtime, in whatever thread, when the master wants the worker to drain."""
        self._stop.set()
        for loop, event in self._waiting:
            loop.call_soon_threadsafe(event.set)


ipc = Application()
