"""The server at which metrics are scraped: HTTP/1.1, one request a connection. Runs in the master's loop.

Nobody who connects can hold up anything but himself: heads are short, everything has an end after `DEADLINE`, and who
is slow makes room for others.
"""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple

from loguru import logger

from ..config.schema import ControlSection
from ..connection import Peer
from ..roles import Role, role
from .asked import LONGEST, METHODS, Asked, parse, takes_openmetrics
from .listener import Listener

DEADLINE = 5.0
MOST = 16
PATIENCE = 0.5  # seconds a client may be waited for when others want its place

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
WORDS = "text/plain; charset=utf-8"
GONE = 0  # counted for who has gone before there was an answer

_CREDENTIALS = struct.Struct("3i")


class Answer(NamedTuple):
    """What a client gets."""

    status: int
    body: bytes
    kind: str = WORDS


def _said(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, f"{text}\n".encode())


BUSY = _said(HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST} clients are being served; try again")
FORBIDDEN = _said(HTTPStatus.FORBIDDEN, "this user has no role here; see viewers in [control]")
SLOW = _said(HTTPStatus.REQUEST_TIMEOUT, f"the request took longer than {DEADLINE:g} s")
LONG = _said(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request may have {LONGEST} bytes")
BROKEN = _said(HTTPStatus.INTERNAL_SERVER_ERROR, "this is a fault of bkd; the master's log has it")
NOT_ALLOWED = _said(HTTPStatus.METHOD_NOT_ALLOWED, f"only {' and '.join(METHODS)}")
ELSEWHERE = _said(HTTPStatus.NOT_FOUND, "the metrics are at /metrics")
INDEX = _said(HTTPStatus.OK, "bkd: the metrics are at /metrics")


class Visit:
    """One connection. `waits`: for its client, not for us; `status`: of the answer it got."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.began = asyncio.get_running_loop().time()
        self.waits = True
        self.status = GONE
        writer.transport.set_write_buffer_limits(0)  # what is drained has gone

    async def head(self) -> bytes:
        """Its request; raises LimitOverrunError, IncompleteReadError."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.waits = False
        return head

    async def give(self, answer: Answer, *, body: bool = True) -> None:
        """An answer, to its last byte; raises OSError when the client has gone."""
        self.waits = True
        self.writer.write(_head(answer) + (answer.body if body else b""))
        await self.writer.drain()
        self.status = answer.status

    def give_up(self) -> None:
        """Its time is over; who has got nothing yet is told so, if that takes no more time."""
        if not self.writer.transport.get_write_buffer_size():
            self.writer.write(_head(SLOW) + SLOW.body)
            self.status = SLOW.status

    def drop(self) -> None:
        """At once; whoever attends to it sees that the client has gone."""
        self.writer.transport.abort()

    def end(self) -> None:
        """Whoever has not got all by now gets no more."""
        if self.status == GONE or self.writer.transport.get_write_buffer_size():
            self.drop()
        else:
            self.writer.close()


class Scrape:
    """One listening server. `page` gives the text, in OpenMetrics (True) or as it was before; `answers` are counted by
    status. `owner`: the uid of the cluster; files are for those alone who have a role in it."""

    def __init__(
        self, page: Callable[[bool], Awaitable[bytes]], answers: Counter[int], control: ControlSection, owner: int
    ) -> None:
        self._page, self._control, self._owner = page, control, owner
        self.answers = answers
        self._visits: dict[Visit, None] = {}
        self._server: asyncio.Server | None = None

    async def listen(self, listener: Listener) -> None:
        """Serve it from now on."""
        if listener.socket.family == socket.AF_UNIX:
            self._server = await asyncio.start_unix_server(self._serve, sock=listener.socket, limit=LONGEST)
        else:
            self._server = await asyncio.start_server(self._serve, sock=listener.socket, limit=LONGEST)

    def close(self) -> None:
        """At once: who is being served gets no more."""
        if self._server is not None:
            self._server.close()
        for visit in self._visits:
            visit.drop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = Visit(reader, writer)
        try:
            async with asyncio.timeout(DEADLINE):
                await self._attend(visit)
        except TimeoutError:
            visit.give_up()
        except (OSError, asyncio.IncompleteReadError) as error:
            logger.debug("a client of the metrics has gone: {}", error)
        finally:
            self._visits.pop(visit, None)
            self.answers[visit.status] += 1
            visit.end()

    async def _attend(self, visit: Visit) -> None:
        if not self._make_room():
            await visit.give(BUSY)
            return
        self._visits[visit] = None
        try:
            asked = parse(await visit.head())
        except asyncio.LimitOverrunError:
            await visit.give(LONG)
        except ValueError as error:
            await visit.give(_said(HTTPStatus.BAD_REQUEST, str(error)))
        else:
            answer = await self._answer(asked) if self._is_admitted(visit) else FORBIDDEN
            await visit.give(answer, body=asked.method != "HEAD")

    def _make_room(self) -> bool:
        """Whether there is a place, if need be that of the client who has been waited for longest."""
        if len(self._visits) < MOST:
            return True
        late = asyncio.get_running_loop().time() - PATIENCE
        slow = next((visit for visit in self._visits if visit.waits and visit.began < late), None)
        if slow is None:
            return False
        del self._visits[slow]
        slow.drop()
        return True

    def _is_admitted(self, visit: Visit) -> bool:
        """A port is open to this machine; a file to those who may look at the cluster."""
        raw = visit.writer.get_extra_info("socket")
        if raw.family != socket.AF_UNIX:
            return True
        peer = Peer(*_CREDENTIALS.unpack(raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))
        return role(peer, self._control, self._owner) >= Role.VIEWER

    async def _answer(self, asked: Asked) -> Answer:
        if asked.path not in ("/", "/metrics"):
            return ELSEWHERE
        if asked.method not in METHODS:
            return NOT_ALLOWED
        if asked.path == "/":
            return INDEX
        is_openmetrics = takes_openmetrics(asked.accept)
        try:
            return Answer(HTTPStatus.OK, await self._page(is_openmetrics), OPENMETRICS if is_openmetrics else PLAIN)
        except Exception:  # noqa: BLE001 - whoever asked gets an answer
            logger.exception("metrics could not be made")
            return BROKEN


def _head(answer: Answer) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status:d} {HTTPStatus(answer.status).phrase}",
        f"Content-Type: {answer.kind}",
        f"Content-Length: {len(answer.body)}",
        "Connection: close",
    ]
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append(f"Allow: {', '.join(METHODS)}")
    return "\r\n".join([*lines, "\r\n"]).encode()
