"""The connection of an application to the master: frames, calls and their answers, and how it finds the next master.

Everything here belongs to one event loop and runs in its thread, except where it is said. A connection of its own,
apart from the heartbeat's: supervision never waits behind an application.
"""

import asyncio
import logging
import os
import socket
from asyncio import _get_running_loop as running_loop
from collections import deque
from time import monotonic
from typing import Any, Protocol, cast

from .calls import MOST, SHORTEST, Calls, check
from .errors import BkdError, DeadlineError, FrameError, NotConnected, RefusedError, RemoteError, said
from .frames import FrameReader, frame
from .handlers import Answer
from .message import UNREADABLE, Hello, Refused, Welcome, decode, encode
from .parcel import ERROR, REPLY, Parcel, pack, read
from .processes import start_time

CONNECT_LIMIT, SEND_LIMIT = 5.0, 5.0
RETRY_FIRST, RETRY_CAP, STEADY = 0.05, 2.0, 1.0
UNSENT = 8 << 20
PIECE = 1 << 16
_log = logging.getLogger("bkd")


class Owner(Protocol):
    """Who the messages are for. Called in the channel's loop; raises nothing."""

    def heard(self, parcel: Parcel, answer: Answer | None) -> None:
        """An event, or with `answer` a call."""

    def joined(self, channel: "Channel") -> None:
        """The master, perhaps another one, has taken the connection."""


class Post:
    """The way back to whoever called; used in any thread."""

    __slots__ = ("_channel", "_connection", "_number")

    def __init__(self, channel: "Channel", number: int) -> None:
        self._channel, self._number, self._connection = channel, number, channel.connections

    def give(self, value: Any) -> None:
        """Answer; what cannot be sent is an error for the caller."""
        try:
            data = pack(Parcel(REPLY, value, re=self._number))
        except Exception as error:  # noqa: BLE001 - whatever the application's value makes of its encoding
            _log.error("the answer to a call cannot be sent: %s", said(error))
            self.fail("failed", f"its answer cannot be sent: {said(error)}"[:1000])
        else:
            self._channel.post(data, self._connection)

    def fail(self, error: str, reason: str) -> None:
        """Answer with an error; file names in it may bring lone surrogates, which no message can hold."""
        data = {"error": error, "reason": reason[:4000].encode(errors="backslashreplace").decode()}
        self._channel.post(pack(Parcel(ERROR, data, re=self._number)), self._connection)


class Channel(asyncio.BufferedProtocol):
    """One connection after the other, until `close` or the end of the loop's tasks.

    `is_open`: a master takes messages now. While one is looked for, messages wait for it; once an attempt has failed
    they do not. `connections` counts them. Buffered: asyncio receives other protocols' data in pieces of 256 KiB, which
    costs more than all the rest.
    """

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop, owner: Owner) -> None:
        self.path, self.loop = path, loop
        self.is_open = self.is_over = False
        self.connections = 0
        self._owner = owner
        self._calls = Calls(loop, self._admit_one)
        self._buffer = bytearray(PIECE)
        self._view = memoryview(self._buffer)
        self._reader = FrameReader()
        self._burst = False
        self._sock: socket.socket | None = None
        self._transport: asyncio.Transport | None = None
        self._welcome: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] | None = None
        self._life: asyncio.Task[None] | None = None
        self._out: list[bytes] = []
        self._size = 0
        self._paused = self._planned = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._failure: BkdError | None = None

    # -- for the application

    def open(self) -> None:
        """Connect, and go on doing so whenever the connection breaks."""
        if not self.is_over and self._life is None:
            self._life = self.loop.create_task(self._live(), name="bkd-ipc")

    def close(self) -> None:
        """End it; calls that wait fail."""
        self.is_over = True
        if self._life is not None:
            self._life.cancel()

    def abandon(self) -> None:
        """In a forked child: the connection is the parent's, whose loop must not be touched either.

        uvloop keeps a socket open that is closed behind its back, and may close its number later: something else takes
        the number.
        """
        self.is_open, self.is_over = False, True
        if self._sock is not None and self._sock.fileno() >= 0:
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nothing, self._sock.fileno(), inheritable=False)
            os.close(nothing)

    @property
    def has_room(self) -> bool:
        """Whether something can be sent without waiting."""
        return self.is_open and not self._paused

    @property
    def is_free(self) -> bool:
        """Whether a call can be begun without waiting."""
        return self.is_open and not self._paused and len(self._calls.pending) < MOST

    async def call(self, to: str, op: str, data: Any, timeout: float, *, within: float | None = None) -> Any:
        """The answer, within `timeout` seconds. Raises every kind of BkdError, ValueError, TypeError for the data.

        `within`: what the master is told, if that is not `timeout`.
        """
        if not self.is_free:
            check(timeout)
            began = monotonic()
            await self._room(timeout, calls=True)
            timeout = max(SHORTEST, timeout - (monotonic() - began))
        return await self.begin(to, op, data, timeout, within=within)

    def begin(self, to: str, op: str, data: Any, timeout: float, *, within: float | None = None) -> asyncio.Future[Any]:
        """`call` while `is_free`: where the answer will be."""
        check(timeout)
        at_once = not self._calls.pending
        number, future = self._calls.begin(timeout, to, op)
        try:
            self._send(pack(Parcel(op, data, number, 0, to, "", timeout if within is None else within)), at_once)
        except BaseException:
            self._calls.drop(number)
            raise
        return future

    def put(self, to: str, op: str, data: Any) -> bool:
        """`send` while it `has_room`. Whether the loop should have a turn before the next one."""
        self._send(pack(Parcel(op, data, to=to)))
        return not self._out

    async def send(self, to: str, op: str, data: Any) -> None:
        """Hand it on, with no word of what became of it. Waits while UNSENT bytes are unsent; raises like `call`."""
        if not self.has_room:
            await self._room(SEND_LIMIT)
        if self.put(to, op, data):
            await asyncio.sleep(0)

    def post(self, data: bytes, connection: int) -> None:
        """An answer, from any thread; dropped when the connection on which it was asked for is gone."""
        if running_loop() is self.loop:
            self._answer(data, connection)
            return
        try:
            self.loop.call_soon_threadsafe(self._answer, data, connection)
        except RuntimeError:
            _log.warning("an answer is not sent: the worker is at its end")

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from it
        self._transport.set_write_buffer_limits(UNSENT, UNSENT // 2)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        try:
            payloads = self._reader.feed(self._view[:nbytes].tobytes())
            self._burst = len(payloads) > 1
            for payload in payloads:
                self._take(payload)
        except FrameError as error:
            self._break(f"the master sent what is no message: {error}")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._admit_all()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose()

    # -- what comes

    def _take(self, payload: bytes) -> None:
        try:
            parcel = read(payload)
        except UNREADABLE as error:
            self._unreadable(payload, str(error))
            return
        if parcel.re:
            self._calls.answer(parcel)
            if self._waiting:
                self._admit_one()
        elif self.is_open:
            self._owner.heard(parcel, Post(self, parcel.id) if parcel.id else None)
        else:
            self._greeted(parcel)

    def _unreadable(self, payload: bytes, why: str) -> None:
        """The data alone are at fault: only this message is lost. Raises FrameError when it is no message at all."""
        reason = f"the data cannot be read: {why}"
        try:
            envelope = decode(payload)
        except FrameError as error:
            if not isinstance(error.__cause__, RecursionError):  # it is as deep as the master's stack just allowed
                raise
            _log.error("a message is lost: %s", reason)
            return
        if envelope.re:
            self._calls.fail(envelope.re, RemoteError(reason))
        elif envelope.id:
            Post(self, envelope.id).fail("refused", reason)
        else:
            _log.error("%s: the event cannot be read: %s", envelope.op[:80], why)

    def _greeted(self, parcel: Parcel) -> None:
        assert self._welcome is not None
        if self._welcome.done():
            return
        if parcel.op == Welcome.op:
            self.is_open, self._failure = True, None
            self.connections += 1
            self._welcome.set_result(None)
            self._owner.joined(self)
            self._admit_all()
        else:
            reason = parcel.data.get("reason", "") if isinstance(parcel.data, dict) else ""
            said = reason if parcel.op == Refused.op else f"it said {parcel.op[:80]}"
            self._welcome.set_exception(RefusedError(f"the master does not take this process: {said}"))

    # -- what goes

    def _answer(self, data: bytes, connection: int) -> None:
        if self.is_open and connection == self.connections:
            self._send(data, not self._burst)

    def _send(self, data: bytes, at_once: bool = False) -> None:
        """One write for what is sent in the same turn of the loop, but none waits for others that may not come."""
        if at_once and not self._out and self._transport is not None:
            self._transport.write(data)
            return
        self._out.append(data)
        self._size += len(data)
        if at_once or self._size >= PIECE:
            self._flush()
        elif not self._planned:
            self._planned = True
            self.loop.call_soon(self._flush_planned)

    def _flush_planned(self) -> None:
        self._planned = False
        if self._out:
            self._flush()

    def _flush(self) -> None:
        out, self._out, self._size = self._out, [], 0
        if self.is_open:
            assert self._transport is not None
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # -- waiting for room

    async def _room(self, limit: float, *, calls: bool = False) -> None:
        """Wait until something can be sent. Raises what stands in the way when it still does after `limit` seconds, and
        at once when no master could be reached."""
        try:
            async with asyncio.timeout(limit):
                while not (self.is_free if calls else self.has_room):
                    await self._turn()
        except TimeoutError:
            if not self.is_open:
                raise NotConnected(f"there is no master, not even after {limit:g} s") from None
            raise DeadlineError(f"there was no room to send anything within {limit:g} s") from None

    async def _turn(self) -> None:
        if self.is_over:
            raise NotConnected("the connection to the master is closed: this process is at its end")
        if self._failure is not None and not self.is_open:
            raise type(self._failure)(str(self._failure))
        turn = self.loop.create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._admit_one()
            raise

    def _admit_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _admit_all(self) -> None:
        while self._waiting:
            self._admit_one()

    # -- one connection after the other

    async def _live(self) -> None:
        """The task. Nothing but its cancellation ends it."""
        delay, told = RETRY_FIRST, ""
        try:
            while True:
                began = monotonic()
                try:
                    await self._stay()
                except (BkdError, OSError) as error:
                    told = self._could_not(error, told)
                except Exception:  # noqa: BLE001 - a fault of its own must not cut the application off for good
                    _log.exception("the connection to the master failed")
                if monotonic() - began > STEADY:
                    delay, told = RETRY_FIRST, ""
                await asyncio.sleep(delay)
                delay = min(RETRY_CAP, delay * 2)
        finally:
            self.is_over = True
            self._break("")
            self._lose()

    async def _stay(self) -> None:
        """Connect, be welcomed, and return when that is over."""
        self._welcome, self._gone = self.loop.create_future(), self.loop.create_future()
        self._reader = FrameReader()
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.setblocking(False)
        try:
            self._sock.connect(self.path)
            await self.loop.create_unix_connection(lambda: self, sock=self._sock)
        except BaseException:
            self._sock.close()
            raise
        assert self._transport is not None
        hello = Hello(role="application", pid=os.getpid(), start=start_time(os.getpid()))
        self._transport.write(frame(encode(hello)))
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await self._welcome
        finally:
            if not self.is_open:
                self._transport.abort()
        await self._gone

    def _could_not(self, error: BkdError | OSError, told: str) -> str:
        """Whoever waits is told why; the log is, too, once, unless it is only that no master is there now."""
        if isinstance(error, BkdError):
            self._failure = error
            if str(error) != told:
                _log.error("%s", error)
        elif not isinstance(error, BlockingIOError | TimeoutError):
            self._failure = NotConnected(f"{self.path}: {error.strerror or error}")
        self._admit_all()
        return str(error)

    def _break(self, why: str) -> None:
        if why:
            _log.error("%s", why)
        if self._transport is not None:
            self._transport.abort()

    def _lose(self) -> None:
        """Calls that wait fail now; the next master knows nothing of them."""
        self.is_open = self._paused = False
        if self._size:
            _log.warning("%d bytes of events were not sent: the master went", self._size)
        self._out, self._size = [], 0
        self._calls.fail_all(NotConnected, "the master went before it answered")
        self._admit_all()
        for future in (self._welcome, self._gone):
            if future is not None and not future.done():
                future.set_result(None)
