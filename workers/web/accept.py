"""Accepting connections, one per wake-up, from listeners that other workers accept from too."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sized
from time import monotonic
from typing import Any

from .balance import Balance
from .protocol import Http

CROWDED = 0.001  # seconds a sibling gets to take the connection
BACKOFF = 0.05, 1.0  # seconds, first and longest, when the process or the machine has no room
COMPLAIN = 60.0  # seconds between two lines about that

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
GONE = {  # accept(2): errors of the connection, which is off the queue, not of the listener
    errno.ECONNABORTED,
    errno.EPERM,
    errno.EPROTO,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETDOWN,
    errno.ENETUNREACH,
}

logger = logging.getLogger("bkd.web")


class Welcome:
    """Turns accepted sockets into connections, and remembers those on their way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: Callable[[], Http]) -> None:
        self._loop = loop
        self._protocol = protocol
        self._pending: dict[asyncio.Task[Any], tuple[Http, socket.socket]] = {}

    def __call__(self, sock: socket.socket) -> None:
        protocol = self._protocol()
        protocol.connections.add(protocol)  # counts from here, so that the next wake-up knows of it
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: protocol, sock))
        self._pending[task] = protocol, sock
        task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[Any]) -> None:
        protocol, sock = self._pending.pop(task)
        if error := task.exception():
            protocol.connections.discard(protocol)
            sock.close()
            logger.info("a connection was lost while it was accepted: %s", error)

    async def settled(self) -> None:
        """Wait for the connections on their way: a turn or two of the loop each, nothing of the client's."""
        while self._pending:
            await asyncio.wait(self._pending)


class Gate:
    """One listener."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        welcome: Callable[[socket.socket], None],
        connections: Sized,
        balance: Balance,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._welcome = welcome
        self._connections = connections
        self._balance = balance
        self._delay = 0.0
        self._complained = -COMPLAIN
        self._yielding = False
        self._closed = False
        self._pause: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Accept from now on."""
        self._pause = None
        self._yielding = False
        self._loop.add_reader(self._listener, self._wake)

    def close(self) -> None:
        """Accept nothing from this very moment; what is queued is the siblings'."""
        self._closed = True
        self._yielding = False
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()

    def relax(self) -> None:
        """A connection has gone: a sibling need not be waited for that is now no better off."""
        if self._yielding and self._pause is not None and not self._balance.crowded(len(self._connections)):
            self._pause.cancel()
            self.open()

    def empty(self) -> None:
        """Accept what is queued now, all of it."""
        while self._take():
            pass

    def _wake(self) -> None:
        if self._balance.crowded(len(self._connections)):
            self._rest(CROWDED, self._insist)
            self._yielding = True
        else:
            self._take()

    def _insist(self) -> None:
        self._balance.waited()
        self.open()
        self._take()

    def _rest(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, then)

    def _take(self) -> bool:
        """Accept one connection; False when there is none to be had."""
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            return self._failed(error)
        self._delay = 0.0
        self._welcome(sock)
        return True

    def _failed(self, error: OSError) -> bool:
        if error.errno in GONE:
            return True
        if monotonic() - self._complained > COMPLAIN:
            self._complained = monotonic()
            hint = ": raise the limit of open files" if error.errno in EXHAUSTED else ""
            logger.error("accepting pauses: %s%s", error.strerror, hint)
        first, longest = BACKOFF
        self._delay = min(max(self._delay * 2, first), longest)
        if not self._closed:
            self._rest(self._delay, self.open)
        return False


def true_listener(listener: socket.socket) -> socket.socket:
    """The same listener with the family and protocol the kernel knows, non-blocking; `listener` is taken over.

    Accepted TCP sockets inherit TCP_NODELAY from it: without it a response in two writes waits 40 ms for an ACK.
    """
    own = socket.socket(fileno=listener.detach())
    own.setblocking(False)
    if own.family in (socket.AF_INET, socket.AF_INET6) and own.proto == socket.IPPROTO_TCP:
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return own
