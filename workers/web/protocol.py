"""uvicorn's HTTP protocol with what it does not tell: when a connection was last used and when a request began.

This file runs for every request: each line costs throughput, so nothing is recorded that can be worked out later.
"""

import asyncio
import fcntl
import heapq
import termios
from collections.abc import Callable
from email.utils import formatdate
from operator import itemgetter
from time import monotonic
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ...ipc.stacks import MOST_OPEN, OpenWork
from ..supervision import Load

Header = tuple[bytes, bytes]
CLOSE: Header = (b"connection", b"close")
LONGEST_WHAT = 200

_data_received = HttpToolsProtocol.data_received  # super() would cost more


class Connections(set[Any]):
    """The open connections, upgraded ones included; `changed` is called after each one that comes or goes."""

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__()
        self._changed = changed

    def add(self, connection: Any) -> None:
        if connection not in self:
            super().add(connection)
            self._changed()

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        self._changed()

    def remove(self, connection: Any) -> None:
        super().remove(connection)
        self._changed()


class Websockets(set[Any]):
    """The tasks of open websockets; `begun` counts all there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0

    def add(self, task: Any) -> None:
        super().add(task)
        self.begun += 1


class Traffic(ServerState):
    """Everything open in this worker: connections, requests with the connection they came on, tasks of websockets.

    Requests in flight hold the very list `default_headers` was when they arrived. So there is one list for ever, and
    it is changed in place: what the drain adds reaches all of them. `begun` counts all requests there ever were.
    """

    tasks: Websockets

    def __init__(self, headers: list[Header], changed: Callable[[], None]) -> None:
        super().__init__()
        self.connections = Connections(changed)
        self.requests: dict[asyncio.Task[None], Http] = {}
        self.begun = self._served = 0
        self.tasks = Websockets()
        self.default_headers = [*_date(), *headers]
        self.upgraded = ServerState()
        self.upgraded.connections = self.connections
        self.upgraded.tasks = self.tasks
        self.upgraded.default_headers = [*_date(), *headers]

    def set_date(self) -> None:
        """The time of day for the `date` header."""
        self.default_headers[:1] = self.upgraded.default_headers[:1] = _date()

    def announce_close(self) -> None:
        """From here on every response says `Connection: close`. Handshakes of websockets must not say so."""
        self.default_headers.append(CLOSE)

    def load(self) -> Load:
        """Called in the heartbeat thread. A request's age counts from its last byte to the first of its response:
        an upload does not age, nor does a stream. A client that went away does not end its request."""
        begun = self.begun + self.tasks.begun
        running = list(self.requests.values())
        waiting = [connection.touched for connection in running if not connection.cycle.response_started]
        oldest = monotonic() - min(waiting) if waiting else 0.0
        in_flight = len(running) + len(self.tasks)
        self._served = max(self._served, begun - in_flight)  # one that begins in between makes the difference smaller
        return Load(in_flight, oldest, self._served)

    def open_work(self) -> list[OpenWork]:
        """Requests and websockets, oldest first, at most MOST_OPEN; called in the heartbeat thread. Age counts from the
        last byte of a request, and from the handshake of a websocket."""
        now = monotonic()
        found: list[tuple[float, Any]] = [(http.touched, http.cycle.scope) for http in list(self.requests.values())]
        for connection in list(self.connections):
            if not isinstance(connection, Http):
                found.append((getattr(connection, "touched", now), getattr(connection, "scope", {})))
        oldest = heapq.nsmallest(MOST_OPEN, found, key=itemgetter(0))
        return [OpenWork(_what(scope), round(now - since, 3)) for since, scope in oldest]

    def work(self) -> set[asyncio.Task[None]]:
        """The tasks of requests and websockets."""
        return {*self.requests, *self.tasks}


def _what(scope: Any) -> str:
    """Method and path. The application may have put anything into the scope since."""
    verb = "websocket" if scope.get("type") == "websocket" else scope.get("method")
    words = [word.partition("?")[0] for word in (verb, scope.get("path")) if isinstance(word, str)]
    return " ".join(words).encode(errors="backslashreplace").decode()[:LONGEST_WHAT]


def _date() -> list[Header]:
    return [(b"date", formatdate(usegmt=True).encode())]


class Http(HttpToolsProtocol):
    """One connection."""

    server_state: Traffic

    def __init__(
        self,
        config: Config,
        server_state: Traffic,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.traffic = server_state
        self.requests = server_state.requests
        self.touched = monotonic()

    def data_received(self, data: bytes) -> None:
        self.touched = monotonic()
        _data_received(self, data)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        self.requests[task] = self
        self.traffic.begun += 1
        task.add_done_callback(self.requests.pop)

    def timeout_keep_alive_handler(self) -> None:
        """A request may have come while the loop stood still: timers run before reads."""
        if not self._unread():
            super().timeout_keep_alive_handler()

    def handle_websocket_upgrade(self) -> None:
        self.server_state = self.server_state.upgraded  # type: ignore[assignment]
        super().handle_websocket_upgrade()
        websocket: Any = self.transport.get_protocol()
        websocket.touched = self.touched

    def idle_since(self) -> float | None:
        """Time of the last byte in either direction; None while a request is being read or answered."""
        if self.transport is None or (self.cycle is not None and not self.cycle.response_complete) or self._unread():
            return None
        keep_alive = self.timeout_keep_alive_task  # armed when a response was complete: the time of its last byte
        answered = 0.0 if keep_alive is None else keep_alive.when() - self.timeout_keep_alive
        return max(self.touched, answered)

    def _unread(self) -> bool:
        """Whether bytes wait in the kernel: timers run before reads, and closing now would reset the connection."""
        waiting = bytearray(4)
        if not self.transport.is_closing():
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, waiting)
        return any(waiting)
