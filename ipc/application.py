"""`ipc`: what application code in a worker sees of the cluster.

Every worker loads this module, but most of what it stands for is used by few: that is imported by `prepare`.
"""

import asyncio
import logging
import os
import threading
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import msgspec

from .errors import NotConnected
from .handlers import Answer, Event, H, Handlers, Listener, Place
from .home import Home
from .message import UNREADABLE

if TYPE_CHECKING:
    from .cache import Caches, Lru
    from .channel import Channel
    from .limiter import Limiter
    from .lock import Keeper, Lock, Near
    from .parcel import Parcel

MASTER, FORGET = "server", "ipc:lru:del"
Scope = Literal["fleet", "host", "process"]
OnError = Literal["open", "closed"]
ANSWER_LIMIT = 5.0
GATHER_SLACK = 2.0
_log = logging.getLogger("bkd")


class Reached(NamedTuple):
    """Whom a broadcast was handed on to: so many hosts, this one included, and so many workers of this host."""

    hosts: int
    workers: int


class Face(Place, Protocol):
    """What the worker's runtime does for the application.

    `begun` is set when the application's own code is about to run; from then on `loop` is the main loop, None if there
    is none. `path` is the master's socket.
    """

    slot: str
    path: str

    def ready(self) -> None:
        """Tell the master that the work is being done from now on."""

    def joined(self) -> None:
        """Called in whatever thread: `Application.is_joined` has become true."""


class Alone:
    """The place of handlers in a process that is no worker: a script, a test, a process that a worker has forked."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.begun.set()
        self.loop: asyncio.AbstractEventLoop | None = None


class Application:
    """One per process. Outside a cluster `ready` does nothing, no event comes, and nobody ever asks to stop."""

    def __init__(self) -> None:
        self._face: Face | None = None
        self._joined_path = ""
        self._registered: dict[str, list[Listener]] = {}
        self._handlers = Handlers(Alone())
        self._home = Home(self)
        self._caches: Caches | None = None
        self._stop = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.listens_for_stop = False

    @cached_property
    def _limiter(self) -> "Limiter":
        from .limiter import Limiter

        return Limiter(lambda op, data: self.call(MASTER, op, data))

    @cached_property
    def _near(self) -> "Near":
        from .lock import Near

        return Near()

    # -- where this process is

    @property
    def slot(self) -> str:
        """Name of this worker's slot such as `web.2`; raises NotConnected outside a cluster."""
        slot = self._face.slot if self._face is not None else os.environ.get("BKD_SLOT")
        if not slot:
            raise NotConnected("this process is no worker of a cluster")
        return slot

    @property
    def path(self) -> str:
        """Of the master's socket, "" outside a cluster."""
        face = self._face
        return self._joined_path or (face.path if face is not None else os.environ.get("BKD_SOCKET", ""))

    @property
    def main_loop(self) -> asyncio.AbstractEventLoop | None:
        """The worker's main loop, None if it has none."""
        return self._face.loop if self._face is not None else None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where coroutines of bkd's own run in this process; raises NotConnected when that loop has ended."""
        return self._home.loop

    def connect(self, path_or_config: str | None = None) -> None:
        """Join from a script: by the path of a control socket or of a `bkd.toml`; None looks where `bkd` looks.

        Handlers are called from now on. Raises BkdError in a line that says what to do.
        """
        from .joining import find, probe

        path = find(path_or_config, self.path)
        probe(path)
        self.disconnect()
        self._joined_path = path
        self.begin()

    def disconnect(self) -> None:
        """Leave what `connect` joined; calls that wait fail."""
        self._home.close()
        self._joined_path = ""

    # -- events and calls

    @property
    def lost(self) -> int:
        """How many calls of handlers were dropped because they were too far behind."""
        return self._handlers.lost

    def on(self, op: str) -> Callable[[H], H]:
        """Decorator: call this function, async or plain, with every `Event` of this name, such as `price:changed`.

        Async functions run in the worker's main loop, plain ones in a thread, one after the other. What they raise is
        logged. Several may listen to one name; what the first one returns answers a call.
        """
        if not isinstance(op, str):
            raise TypeError('ipc.on needs the name of an event: @ipc.on("price:changed")')

        def register(handler: H) -> H:
            self._registered.setdefault(op, []).append(Listener.of(handler))
            self._listen()
            return handler

        return register

    def emit(self, op: str, data: Any = None) -> None:
        """Call the handlers of this process alone; does not wait for them."""
        self._handlers.run(tuple(self._registered.get(op, ())), Event(op, data, self._name()))

    async def call(self, to: str, op: str, data: Any = None, timeout: float = ANSWER_LIMIT) -> Any:
        """Ask the master ("server"), a worker ("web.2") or any one of a group ("web"), all of this host; the answer.

        Raises NotConnected, DeadlineError after `timeout` seconds, RefusedError, RemoteError when the handler raised,
        ClosedError when its process went.
        """
        channel = self._home.channel
        if channel is not None and channel.loop is running_loop() and channel.is_free:
            return await channel.begin(to, op, data, timeout)
        channel = self._home.open()
        return await self._home.run(channel.call(to, op, data, timeout), channel.loop)

    async def send(self, to: str, op: str, data: Any = None) -> None:
        """An event for a worker or group of this host, or for a channel such as ":web"; nobody says if it arrived.

        Waits while too much is unsent. Raises NotConnected, DeadlineError when that takes more than 5 s.
        """
        channel = self._home.channel
        if channel is None or channel.loop is not running_loop() or not channel.has_room:
            channel = self._home.open()
            await self._home.run(channel.send(to, op, data), channel.loop)
        elif channel.put(to, op, data):
            await asyncio.sleep(0)

    async def broadcast(
        self, channel: str, op: str, data: Any = None, timeout: float | None = None
    ) -> Reached | dict[str, Any]:
        """An event for every worker of a role on every host: ":web", with a tag ":web:blue", ":all" for all.

        With `timeout` their answers of that many seconds: {"web.1@h1": {"value": …}}, or {"error": …, "reason": …} from
        who failed or said nothing; else whom it was handed on to. Raises NotConnected, RefusedError, DeadlineError.
        """
        from .calls import LONGEST, check

        if timeout is not None:
            check(timeout)
        home = self._home.open()
        limit = ANSWER_LIMIT if timeout is None else min(LONGEST, timeout + GATHER_SLACK)
        asked = home.call(channel, op, data, limit, within=timeout or 0.0)
        answer = await self._home.run(asked, home.loop)
        return answer if timeout is not None else Reached(answer["hosts"], answer["workers"])

    # -- services

    async def limiter(
        self,
        name: str,
        rate: float,
        interval: float = 1.0,
        *,
        most: float = 0,
        cost: float = 1,
        reset: int = 0,
        multiplier: float = 0,
        cap: float = 3600,
        scope: Scope = "fleet",
        on_error: OnError = "open",
    ) -> float:
        """0.0: go on; else the seconds to wait until `cost` of `rate` tokens an `interval` are there (see `Rate`).

        `on_error`: what to do when the master or the bus cannot be asked. Raises ValueError for an impossible rate.
        """
        from .bucket import Rate

        wanted = Rate(rate, interval, most, cost, reset, multiplier, cap)
        if scope == "process" or not self.path:
            return self._limiter.take(name, wanted)
        return await self._limiter.take_far(name, wanted, scope, on_error)

    def lock(self, name: str, ttl: float = 60.0, *, wait: float | None = 0.0, scope: Scope = "fleet") -> "Lock":
        """`async with ipc.lock("nightly-report", ttl=60) as lock:` one holder at a time.

        It is renewed as long as it is held; after the holder's death it is free at once, or after `ttl` seconds if the
        whole host is gone. `wait`: seconds to wait for it, None for ever; then HeldError.
        """
        from .lock import Far, Lock

        keeper: Keeper = self._near if scope == "process" or not self.path else Far(scope, self._ask_master)
        return Lock(keeper, name, ttl, wait)

    def lru(self, name: str, maxsize: int = 10_000, ttl: float = 0.0) -> "Lru[Any]":
        """The cache of that name in this process; what is deleted in it is deleted in every process of the fleet."""
        from .cache import Caches

        if self._caches is None:
            self._caches = Caches(self._tell_deletions)
        cache = self._caches.get(name, maxsize, ttl)
        self._listen()
        return cache

    # -- ready and stop

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

    # -- for the worker's runtime

    def attach(self, face: Face) -> None:
        """Called after the fork, before any application code runs there."""
        self._face, self._handlers = face, Handlers(face)

    def begin(self) -> None:
        """Called when the application's own code is about to run, in the main loop if there is one."""
        if self._listens:
            self._home.open()

    @property
    def is_joined(self) -> bool:
        """Whether no event would be missed: connected, or nobody listens."""
        channel = self._home.channel
        return not self._listens or (channel is not None and channel.is_open)

    def deliver(self, op: str, data: bytes) -> None:
        """An event for the application, as MessagePack; in any thread."""
        if self._face is None:
            return
        try:
            event = Event(op, msgspec.msgpack.decode(data))
        except UNREADABLE as error:
            _log.error("%s: the event cannot be read: %s", op, error)
        else:
            self._handlers.run(tuple(self._registered.get(op, ())), event)

    def ask_to_stop(self) -> None:
        """Called in whatever thread, when the master wants the worker to drain."""
        self._stop.set()
        for loop, event in self._waiting:
            loop.call_soon_threadsafe(event.set)

    # -- for the connection

    def heard(self, parcel: "Parcel", answer: Answer | None) -> None:
        """An event, or a call."""
        if parcel.op == FORGET:
            if self._caches is not None:
                self._caches.heard(parcel.data)
            return
        listeners = self._registered.get(parcel.op)
        if listeners:
            self._handlers.run(tuple(listeners), Event(parcel.op, parcel.data, parcel.by), answer)
        elif answer is not None:
            answer.fail("refused", f"{self._name()} has no handler for {parcel.op}")

    def joined(self, channel: "Channel") -> None:
        """What others have deleted meanwhile was not heard here, and what was deleted here not elsewhere."""
        if self._caches is not None:
            self._caches.forget()
        self._send_deletions(channel)
        if self._face is not None:
            self._face.joined()

    # -- inside

    def _name(self) -> str:
        return self._face.slot if self._face is not None else os.environ.get("BKD_SLOT") or f"process {os.getpid()}"

    @property
    def _listens(self) -> bool:
        return bool(self._registered) or self._caches is not None

    def _listen(self) -> None:
        """Called when something is registered: at the import nothing may be opened yet, later it has to be."""
        begun = self._face is not None and self._face.begun.is_set()
        if self.path and (begun or self._joined_path):
            self._home.open()

    async def _ask_master(self, op: str, data: dict[str, Any], limit: float) -> Any:
        return await self.call(MASTER, op, data, limit)

    def _tell_deletions(self) -> None:
        """In whatever thread. A process that bkd did not make a worker, such as a child of one, joins for it."""
        channel = self._home.channel
        if channel is not None and not channel.loop.is_closed():
            channel.loop.call_soon_threadsafe(self._send_deletions, channel)
        elif self.path and self._face is None:
            self._home.open()

    def _send_deletions(self, channel: "Channel") -> None:
        """While it cannot be done they are kept for the next connection."""
        if channel.is_open and self._caches is not None:
            for letter in self._caches.take():
                channel.put(MASTER, FORGET, letter)

    def forked(self) -> None:
        """Called in a child that this process has forked: loop, threads and connection are its parent's."""
        self._home.forget()
        if self._caches is not None:
            self._caches.forked()
        for its_parents in ("_limiter", "_near"):
            self.__dict__.pop(its_parents, None)
        if self._face is not None or self._handlers.is_used:
            self._face, self._handlers = None, Handlers(Alone())


def prepare() -> None:
    """Import what only those need who use `ipc`: done when they import it, which is before any fork."""
    from . import background, cache, channel, limiter, lock  # noqa: F401


ipc = Application()
os.register_at_fork(after_in_child=ipc.forked)
