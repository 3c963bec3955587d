"""`ipc.lock`: one holder at a time, in the fleet, on this host or in this process; renewed as long as it is held."""

import asyncio
import logging
import os
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from .errors import AwayError, BkdError, DeadlineError, HeldError, NotConnected, RemoteError
from .leases import Leases, Taken, check
from .limiter import check_name, check_scope

if TYPE_CHECKING:
    from .application import Scope

AGAIN_FIRST, AGAIN_CAP = 0.05, 1.0
FOR_EVER = 1e9
RENEWAL_LIMIT = 5.0
_log = logging.getLogger("bkd")


class Keeper(Protocol):
    """Who keeps the locks of a scope. Raises what a call raises."""

    async def take(self, name: str, owner: str, ttl: float) -> Taken:
        """Take or renew it."""

    async def renew(self, name: str, owner: str, ttl: float) -> bool:
        """False: it is not the owner's any more."""

    async def free(self, name: str, owner: str) -> bool:
        """False: it was not the owner's."""


class Near:
    """The locks of one process. Whoever holds one is there as long as the process is: they do not run out."""

    def __init__(self) -> None:
        self._leases = Leases()
        self._lock = threading.Lock()

    async def take(self, name: str, owner: str, ttl: float) -> Taken:
        """At once."""
        with self._lock:
            fence, wait = self._leases.take(name, owner, FOR_EVER, monotonic())
            return Taken(fence, min(wait, AGAIN_FIRST))

    async def renew(self, name: str, owner: str, ttl: float) -> bool:
        """At once."""
        with self._lock:
            return self._leases.renew(name, owner, FOR_EVER, monotonic())

    async def free(self, name: str, owner: str) -> bool:
        """At once."""
        with self._lock:
            return self._leases.free(name, owner)


class Far:
    """The locks that the master keeps, by itself or on the bus; `ask`: an op, its data, seconds for the answer."""

    def __init__(self, scope: "Scope", ask: Callable[[str, dict[str, Any], float], Awaitable[Any]]) -> None:
        check_scope(scope)
        self._scope, self._ask = scope, ask

    async def take(self, name: str, owner: str, ttl: float) -> Taken:
        """A round trip."""
        answer = await self._ask("ipc:lock", self._data(name, owner, ttl), RENEWAL_LIMIT)
        try:
            return Taken(int(answer["fence"]), float(answer["wait"]))
        except (TypeError, KeyError, ValueError) as error:
            raise RemoteError(f"the master's answer about the lock {name} cannot be read") from error

    async def renew(self, name: str, owner: str, ttl: float) -> bool:
        """A round trip; no answer soon enough leaves time for another try."""
        return bool(await self._ask("ipc:renew", self._data(name, owner, ttl), min(RENEWAL_LIMIT, ttl / 3)))

    async def free(self, name: str, owner: str) -> bool:
        """A round trip."""
        return bool(await self._ask("ipc:unlock", self._data(name, owner, 0.0), RENEWAL_LIMIT))

    def _data(self, name: str, owner: str, ttl: float) -> dict[str, Any]:
        return {"name": name, "owner": owner, "scope": self._scope} | ({"ttl": ttl} if ttl else {})


class Lock:
    """For one `async with`. `fence` grows with every holder of this name: give it to whatever the lock protects.

    `wait` is how many seconds to wait for it, None for ever; HeldError is raised when it is still held then, and what
    a call raises when the master or the bus cannot be reached.
    """

    def __init__(self, keeper: Keeper, name: str, ttl: float, wait: float | None) -> None:
        check_name(name)
        check("it", ttl)
        self.name, self.ttl, self.fence = name, float(ttl), 0
        self._keeper, self._wait = keeper, wait
        self._owner = f"{os.getpid()}-{os.urandom(8).hex()}"
        self._until = 0.0
        self._taken_away = False
        self._task: asyncio.Task[None] | None = None

    @property
    def lost(self) -> bool:
        """Whether another one may have it by now: renewing was refused, or did not succeed for `ttl` seconds."""
        return self.fence > 0 and (self._taken_away or monotonic() > self._until)

    async def __aenter__(self) -> "Lock":
        await self.take()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.free()

    async def take(self) -> None:
        """Once for each lock object; the renewals run as a task of the loop in which this is called."""
        if self.fence:
            raise RuntimeError(f"the lock {self.name} is used twice: ask ipc.lock() for another one")
        end = None if self._wait is None else monotonic() + self._wait
        again = AGAIN_FIRST
        while not await self._try(end):
            left = AGAIN_CAP if end is None else max(0.0, end - monotonic())
            await asyncio.sleep(min(left, again * random.uniform(0.5, 1.0)))
            again = min(AGAIN_CAP, again * 2)
        self._task = asyncio.create_task(self._renew(), name=f"lock {self.name}")

    async def free(self) -> None:
        """Give it back; whoever cannot be told so lets it run out."""
        if self._task is not None:
            self._task.cancel()
        try:
            if not await self._keeper.free(self.name, self._owner):
                _log.warning("lock %s: it was not held any more when it was given back", self.name)
        except BkdError as error:
            _log.warning("lock %s: it is held for up to %g s more: %s", self.name, self.ttl, error)

    async def _try(self, end: float | None) -> bool:
        asked = monotonic()
        try:
            fence, wait = await self._keeper.take(self.name, self._owner, self.ttl)
        except (DeadlineError, NotConnected, AwayError, asyncio.CancelledError):
            self._task = asyncio.create_task(self._withdraw(), name=f"lock {self.name}")
            raise
        if fence:
            self._until = asked + self.ttl
            self.fence = fence
            return True
        if end is not None and monotonic() >= end:
            raise HeldError(f"the lock {self.name} is held by another, for at most {wait:.1f} s more", wait)
        return False

    async def _withdraw(self) -> None:
        """The answer is not awaited any more, but it may be that the lock is this one's."""
        try:
            await self._keeper.free(self.name, self._owner)
        except BkdError as error:
            _log.warning("lock %s: it may be held for up to %g s: %s", self.name, self.ttl, error)

    async def _renew(self) -> None:
        told = False
        while not self.lost:
            await asyncio.sleep(self.ttl / 3)
            asked = monotonic()
            try:
                held = await self._keeper.renew(self.name, self._owner, self.ttl)
            except BkdError as error:
                if not told:
                    _log.warning("lock %s: it cannot be renewed: %s", self.name, error)
                told = True
                continue
            told, self._taken_away = False, not held
            self._until = asked + self.ttl if held else self._until
        _log.error("lock %s: it is lost, another one may hold it now", self.name)


class BlockingLock:
    """The same for `with`, in a thread; `run` waits for a coroutine in a loop that outlives it."""

    def __init__(self, lock: Lock, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._lock, self._run = lock, run

    def __enter__(self) -> Lock:
        self._run(self._lock.take())
        return self._lock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._lock.free())
