"""Where the connection of this process lives: in its main loop if there is one, else in a thread of its own."""

import asyncio
import threading
from asyncio import _get_running_loop as running_loop
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .errors import NotConnected
from .handlers import Answer, loop_of_main_thread

if TYPE_CHECKING:
    from .background import Background
    from .channel import Channel
    from .parcel import Parcel

STOP_LIMIT = 2.0
T = TypeVar("T")


class Owner(Protocol):
    """Who lives here; `heard` and `joined` are for the connection."""

    @property
    def path(self) -> str:
        """The master's socket, "" outside a cluster."""

    @property
    def main_loop(self) -> asyncio.AbstractEventLoop | None:
        """The worker's main loop; it may have ended."""

    def heard(self, parcel: "Parcel", answer: Answer | None) -> None: ...

    def joined(self, channel: "Channel") -> None: ...


class Home:
    """Opens the connection when it is first needed: nothing is there at a fork, and nothing of it in a forked child.

    `channel` is the present one, None before. Methods may be called in any thread.
    """

    def __init__(self, owner: Owner) -> None:
        self.channel: Channel | None = None
        self._owner = owner
        self._background: Background | None = None
        self._lock = threading.RLock()  # a signal's handler may come in between

    def open(self) -> "Channel":
        """The connection, which may still be on its way; raises NotConnected outside a cluster."""
        from .channel import Channel

        with self._lock:
            present = self.channel
            if present is not None and not (present.is_over or present.loop.is_closed()):
                return present
            if not self._owner.path:
                raise NotConnected("this process is in no cluster: start it with bkd, or join one with ipc.connect()")
            self.channel = Channel(self._owner.path, self._loop(), self._owner)
            _in_loop(self.channel.loop, self.channel.open)
            return self.channel

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where coroutines of bkd's own run, in a cluster or not."""
        with self._lock:
            present = self.channel
            return present.loop if present is not None and not present.loop.is_closed() else self._loop()

    async def run(self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
        """The result of a coroutine that has to run in that loop."""
        if loop is running_loop():
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))

    def close(self) -> None:
        """Leave. Whoever uses it again joins again."""
        with self._lock:
            present, self.channel = self.channel, None
            if present is not None and not present.loop.is_closed():
                _in_loop(present.loop, present.close)
            if self._background is not None:
                self._background.stop(STOP_LIMIT)

    def forget(self) -> None:
        """Called in a forked child."""
        if self.channel is not None:
            self.channel.abandon()
        self.channel, self._background, self._lock = None, None, threading.RLock()

    def _loop(self) -> asyncio.AbstractEventLoop:
        main = self._owner.main_loop
        if main is not None and main.is_closed():
            raise NotConnected("the loop of this worker has ended")
        return main or loop_of_main_thread() or self._in_background()

    def _in_background(self) -> asyncio.AbstractEventLoop:
        from .background import Background

        if self._background is None:
            self._background = Background()
        return self._background.loop


def _in_loop(loop: asyncio.AbstractEventLoop, function: Any) -> None:
    if loop is running_loop():
        function()
    else:
        loop.call_soon_threadsafe(function)
