"""`sync_ipc`: the calls of `ipc` for threads, WSGI applications and plain functions, which wait for the answer."""

import asyncio
import concurrent.futures
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .application import ANSWER_LIMIT, GATHER_SLACK, Application, OnError, Reached, Scope, ipc
from .cache import Lru
from .channel import SEND_LIMIT
from .errors import DeadlineError
from .handlers import H
from .lock import BlockingLock

SLACK = 0.5
T = TypeVar("T")


class Blocking:
    """Says and raises what `Application` does. In the thread of a running loop, which it would block, it raises
    RuntimeError."""

    def __init__(self, application: Application) -> None:
        self._ipc = application

    # -- what never waits

    @property
    def slot(self) -> str:
        """Name of this worker's slot such as `web.2`; raises NotConnected outside a cluster."""
        return self._ipc.slot

    def on(self, op: str) -> Callable[[H], H]:
        """See `Application.on`."""
        return self._ipc.on(op)

    def emit(self, op: str, data: Any = None) -> None:
        """See `Application.emit`."""
        self._ipc.emit(op, data)

    def lru(self, name: str, maxsize: int = 10_000, ttl: float = 0.0) -> Lru[Any]:
        """See `Application.lru`."""
        return self._ipc.lru(name, maxsize, ttl)

    def ready(self) -> None:
        """See `Application.ready`."""
        self._ipc.ready()

    def stopping(self, timeout: float | None = 0.0) -> bool:
        """See `Application.stopping`."""
        return self._ipc.stopping(timeout)

    def connect(self, path_or_config: str | None = None) -> None:
        """See `Application.connect`."""
        self._ipc.connect(path_or_config)

    def disconnect(self) -> None:
        """See `Application.disconnect`."""
        self._ipc.disconnect()

    # -- what waits

    def call(self, to: str, op: str, data: Any = None, timeout: float = ANSWER_LIMIT) -> Any:
        """See `Application.call`."""
        return self._wait(lambda: self._ipc.call(to, op, data, timeout), timeout)

    def send(self, to: str, op: str, data: Any = None) -> None:
        """See `Application.send`."""
        self._wait(lambda: self._ipc.send(to, op, data), SEND_LIMIT)

    def broadcast(
        self, channel: str, op: str, data: Any = None, timeout: float | None = None
    ) -> Reached | dict[str, Any]:
        """See `Application.broadcast`."""
        limit = ANSWER_LIMIT if timeout is None else timeout + GATHER_SLACK
        return self._wait(lambda: self._ipc.broadcast(channel, op, data, timeout), limit)

    def limiter(
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
        """See `Application.limiter`."""
        options: dict[str, Any] = {"most": most, "cost": cost, "reset": reset, "multiplier": multiplier, "cap": cap}
        options |= {"scope": scope, "on_error": on_error}
        return self._wait(lambda: self._ipc.limiter(name, rate, interval, **options), ANSWER_LIMIT)

    def lock(self, name: str, ttl: float = 60.0, *, wait: float | None = 0.0, scope: Scope = "fleet") -> BlockingLock:
        """`with sync_ipc.lock(...) as lock:`; see `Application.lock`."""
        limit = None if wait is None else wait + ANSWER_LIMIT
        return BlockingLock(
            self._ipc.lock(name, ttl, wait=wait, scope=scope), lambda coroutine: self._wait(lambda: coroutine, limit)
        )

    def _wait(self, begin: Callable[[], Coroutine[Any, Any, T]], limit: float | None) -> T:
        if running_loop() is not None:
            raise RuntimeError("sync_ipc would block the event loop of this thread: use ipc, with await")
        loop = self._ipc.loop
        future = asyncio.run_coroutine_threadsafe(begin(), loop)
        try:
            return future.result(None if limit is None else limit + SLACK)
        except concurrent.futures.CancelledError:
            raise DeadlineError("the process ended before there was an answer") from None
        except TimeoutError:
            if future.cancel():
                raise DeadlineError(f"the event loop of this process did not come to it within {limit:g} s") from None
            raise
        except BaseException:
            future.cancel()
            raise


sync_ipc = Blocking(ipc)
