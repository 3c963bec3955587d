"""Waiting until a program that knows nothing of bkd is ready, as `ready = "…"` of its group says.

What the checks prove:

- `tcp`: somebody on the way accepted the connection, which the kernel does as soon as a program listens, not when it
  answers. A listener on this machine that was there when the wait began and that no process of the spawn has open is
  somebody else's and does not count. Not told apart: a stranger who begins to listen later, another machine, processes
  whose descriptors bkd may not see (another user's), a port that a container engine forwards.
- `http`: whoever is there by the same rule answered 2xx or 3xx; redirections are not followed.
- `log`: a line of the slot's log, written since the spawn, matches; anything that prints there counts.
- `after`: nothing but that the time has passed; that the program still lives is for the caller to watch.
- `notify`: the program said so itself.
"""

import asyncio
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from ..ipc.errors import DeadlineError
from . import procfs
from .config.readiness import AfterReady, HttpReady, LogReady, NotifyReady, Readiness, TcpReady, parse_readiness
from .logfiles import Stream

Check = Readiness
Probe = Callable[[], Awaitable[str]]
"""One look: "" when ready, else what was seen instead, in words for people."""

DEFAULT = AfterReady(1.0)
HTTP_PORT = 80
PROBE_SECONDS = 1.0
SHORTEST_PAUSE, LONGEST_PAUSE, PAUSE_GROWTH = 0.02, 0.5, 1.5
STATUS_LINE_BYTES = 4096
STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([^\r\n]*))?\r?\n")
LOG_BYTES_AT_ONCE = 64 << 10
LOG_LINE_PATIENCE = 0.2


def parse(text: str) -> Check:
    """What `ready` says, "" being `after:1s`. Raises ValueError with a line that says what to write instead."""
    if not text:
        return DEFAULT
    check = parse_readiness(text)
    match check:
        case TcpReady(host, _):
            _check_host(host)
        case HttpReady(url):
            _check_host(_check_url(url).hostname or "")
    return check


async def wait_ready(
    check: Check,
    *,
    deadline: float,
    pid: int | None = None,
    log_path: str | None = None,
    log_offset: int = 0,
    notified: asyncio.Event | None = None,
) -> None:
    """Return when the program is ready; raise DeadlineError with what was seen last at `deadline` (monotonic).

    To be called right after the spawn. `pid` is its first process; without it nobody's listener is told from its own.
    `log_offset` is where the log at `log_path` ended at the spawn, `notified` is set by whoever hears READY=1. Raises
    ValueError when the check needs one that is missing. Cancelling it leaves nothing behind.
    """
    match check:
        case AfterReady(seconds):
            await _waited(seconds, deadline)
        case NotifyReady():
            await _told(notified, deadline)
        case LogReady(pattern):
            await _printed(pattern, log_path, log_offset, deadline)
        case TcpReady(host, port):
            origin = _Origin(port, pid)
            shown = f"[{host}]" if ":" in host else host
            await _poll(f"tcp:{shown}:{port}", lambda: _tcp(host, port, origin), deadline)
        case HttpReady(url):
            parts = _check_url(url)
            origin = _Origin(parts.port or HTTP_PORT, pid)
            await _poll(url, lambda: _http(parts, origin), deadline)


async def _waited(seconds: float, deadline: float) -> None:
    left = deadline - time.monotonic()
    await asyncio.sleep(max(0.0, min(seconds, left)))
    if left < seconds:
        raise DeadlineError(f"not ready in time: `after` asks for {seconds:g} s, longer than start_timeout allows")


async def _told(notified: asyncio.Event | None, deadline: float) -> None:
    if notified is None:
        raise ValueError("`notify` needs a notify socket")
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            await notified.wait()
    except TimeoutError as error:
        raise DeadlineError("not ready in time: no READY=1 was sent to $NOTIFY_SOCKET") from error


async def _printed(pattern: re.Pattern[str], path: str | None, offset: int, deadline: float) -> None:
    if path is None:
        raise ValueError('`log:` needs a log file: set mode = "files" in [log], or use another form of ready')
    log = _Log(path, offset)
    try:
        await _poll(f"log:{pattern.pattern}", lambda: log.look(pattern), deadline)
    finally:
        log.close()


async def _poll(name: str, probe: Probe, deadline: float) -> None:
    """Each probe has PROBE_SECONDS, less when the deadline is nearer."""
    pause, seen = SHORTEST_PAUSE, ""
    while (left := deadline - time.monotonic()) > 0:
        seen = await _probed(probe, min(PROBE_SECONDS, left), seen)
        if not seen:
            return
        await asyncio.sleep(max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE)
    raise DeadlineError(f"not ready in time: {name}: {seen or 'there was no time to look'}")


async def _probed(probe: Probe, seconds: float, before: str) -> str:
    """A look that the deadline cuts short tells nothing that was not seen `before`."""
    try:
        async with asyncio.timeout(seconds):
            return await probe()
    except TimeoutError:
        return before if before and seconds < PROBE_SECONDS else f"no answer in {seconds:.1g} s"
    except socket.gaierror as error:
        return f"the host is not known: {error.strerror}"
    except OSError as error:
        return os.strerror(error.errno).lower() if error.errno else str(error)


async def _tcp(host: str, port: int, origin: "_Origin") -> str:
    with await _connected(host, port) as connection:
        return origin.fault(connection)


async def _http(parts: SplitResult, origin: "_Origin") -> str:
    with await _connected(parts.hostname or "", parts.port or HTTP_PORT) as connection:
        fault = origin.fault(connection)
        if fault:
            return fault
        await asyncio.get_running_loop().sock_sendall(connection, _request(parts))
        return _judged(await _status_line(connection))


async def _connected(host: str, port: int) -> socket.socket:
    """Raises OSError of the last address tried."""
    problem: OSError = ConnectionRefusedError(f"{host} has no address")
    for family, address in await _addresses(host, port):
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            await asyncio.get_running_loop().sock_connect(connection, address)
        except OSError as error:
            connection.close()
            problem = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise problem


async def _addresses(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    """Only names go to the resolver, and with that to another thread."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, (str(address[0]), int(address[1]))) for family, _type, _protocol, _name, address in found]


def _request(parts: SplitResult) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bkd\r\nConnection: close\r\n\r\n".encode("ascii")


async def _status_line(connection: socket.socket) -> bytes:
    data = b""
    while b"\n" not in data and len(data) < STATUS_LINE_BYTES:
        piece = await asyncio.get_running_loop().sock_recv(connection, STATUS_LINE_BYTES)
        if not piece:
            break
        data += piece
    return data


def _judged(answer: bytes) -> str:
    status = STATUS_LINE.match(answer)
    if status is None:
        return "the answer is not HTTP/1.1" if answer else "closed without an answer"
    if 200 <= int(status[1]) < 400:
        return ""
    return f"status {status[1].decode()} {(status[2] or b'').decode('ascii', 'replace')}".strip()


def _check_url(url: str) -> SplitResult:
    """The parts of a URL that can be asked; raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        raise ValueError(f"{url}: https cannot be checked: use tcp:HOST:PORT, or an http:// URL")
    if not url.isascii() or not parts.hostname or parts.port == 0:
        raise ValueError(f"{url}: not a URL: write http://HOST:PORT/PATH in ASCII")
    return parts


def _check_host(host: str) -> None:
    """The resolver raises UnicodeError for a name with an empty or an overlong part."""
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise ValueError(f"{host}: not a host: write a name or an address") from error


class _Origin:
    """Tells whether a connection leads to a program that was on the port before the spawn's own."""

    def __init__(self, port: int, pid: int | None) -> None:
        self._port = port
        self._pid = pid
        self._before = _listeners(port)

    def fault(self, connection: socket.socket) -> str:
        """ "" when nothing speaks against it, else what does."""
        here, there = connection.getsockname(), connection.getpeername()
        if here[:2] == there[:2]:
            return "nobody listens: the connection led to itself"
        is_local = here[0] == there[0] or str(there[0]).startswith("127.")
        if is_local and self._is_foreign():
            return f"another program already listens on port {self._port}: stop it, or choose another port"
        return ""

    def _is_foreign(self) -> bool:
        now = _listeners(self._port)
        if self._pid is None or not now or now - self._before:
            return False
        holders = (procfs.holds_socket(pid, now) for pid in (self._pid, *procfs.descendants(self._pid)))
        return all(holds is False for holds in holders)


def _listeners(port: int) -> set[int]:
    """Empty, that is "cannot be told", where the kernel does not answer."""
    try:
        return procfs.listeners(port)
    except OSError:
        return set()


class _Log:
    """The lines a spawn has printed, across rotations."""

    def __init__(self, path: str, offset: int) -> None:
        self._stream = Stream(path, patience=LOG_LINE_PATIENCE)
        try:
            self._stream.start_at(Path(path).stat().st_ino, offset)
        except FileNotFoundError:
            self._stream.rewind(0)  # what earlier spawns left in older files does not count

    async def look(self, pattern: re.Pattern[str]) -> str:
        """A line counts before its end has come when that takes long: it may be a prompt."""
        lines = self._stream.read(LOG_BYTES_AT_ONCE)
        while lines:
            if any(pattern.search(line.decode("utf-8", "replace")) for line in lines):
                return ""
            await asyncio.sleep(0)
            lines = self._stream.read(LOG_BYTES_AT_ONCE)
        if time.monotonic() < self._stream.overdue():
            return "no line matches yet"
        matches = pattern.search(self._stream.unfinished().decode("utf-8", "replace"))
        return "" if matches else "no line matches yet"

    def close(self) -> None:
        self._stream.close()
