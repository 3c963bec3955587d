"""The connection of a producer to the dispatcher of its host: what is put in is stored, or its caller hears why not."""

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TypeVar, cast

from msgspec.structs import replace

from ...ipc.durable.model import NewMessage, Receipt
from ...ipc.durable.wire import (
    FRAME_GOAL,
    PART,
    Await,
    Ended,
    Frame,
    Greet,
    Put,
    PutDone,
    PutPart,
    Refusal,
    packed,
    unpacked,
)
from ...ipc.errors import ClosedError, DeadlineError, FrameError, RefusedError
from ...ipc.frames import FrameReader
from .hindrance import SILENT, hindrance

MOST_IN_PUT = 1000
INLINE = PART // 2
MOST_PUTS = 4
MOST_WAITING = 20_000
UNSENT = 1 << 20
RETRY_FIRST, RETRY_CAP = 0.02, 0.5
T = TypeVar("T")
_log = logging.getLogger("bkd")


def weight(message: NewMessage) -> int:
    """About how many bytes it takes in a frame; a payload that goes in parts does not count."""
    payload = len(message.payload)
    return len(message.args) + 200 + (payload if payload <= INLINE else 0)


class Parcel:
    """Messages of one caller that are stored together, and where their receipts go."""

    __slots__ = ("future", "messages", "repeated", "size")

    def __init__(self, messages: list[NewMessage], future: "asyncio.Future[list[Receipt]]") -> None:
        self.messages, self.future, self.repeated = messages, future, False
        self.size = sum(weight(message) for message in messages)


class Postbox(asyncio.Protocol):
    """Lives in one loop; connects when it is first needed and again after each loss, while somebody waits.

    What comes while a put is on its way makes the next put, so that many callers share a commit. A put whose
    connection broke is sent again: messages carry guids, and none is stored twice.
    """

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self.path, self.loop, self.pid = path, loop, os.getpid()
        self._waiting: deque[Parcel] = deque()
        self._depth = 0
        self._sent: dict[int, list[Parcel]] = {}
        self._awaited: dict[int, tuple[Await, asyncio.Future[Ended]]] = {}
        self._number = 0
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._paused = False
        self._life: asyncio.Task[None] | None = None
        self._gone: asyncio.Future[None] | None = None
        self._failure = ""

    # -- for callers in this loop

    async def put(self, messages: list[NewMessage], timeout: float) -> list[Receipt]:
        """Receipts once they are stored for good. Raises DeadlineError (they may be stored yet), RefusedError."""
        if self._depth + len(messages) > MOST_WAITING and self._waiting:
            raise RefusedError(f"{self._depth:,} messages wait to be stored by this process already: slow down")
        parcel = Parcel(messages, self.loop.create_future())
        self._waiting.append(parcel)
        self._depth += len(messages)
        self._flush()
        return await self._within(parcel.future, timeout, lambda: self._fate(parcel))

    async def end_of(self, id: int, within: float) -> Ended:
        """State and result of that message once it has ended, or as it is after `within` seconds."""
        self._number += 1
        question = Await(self._number, id, within)
        future: asyncio.Future[Ended] = self.loop.create_future()
        self._awaited[question.number] = question, future
        try:
            self._send(question)
            return await self._within(future, within + 5.0, lambda: f"how message {id} stands is not known")
        finally:
            self._awaited.pop(question.number, None)

    def close(self) -> None:
        """Let go; whoever waits is told."""
        if self._life is not None:
            self._life.cancel()
        if self._transport is not None:
            self._transport.abort()
        error = ClosedError("the connection was closed before the messages were known to be stored")
        for parcel in [*self._waiting, *(parcel for put in self._sent.values() for parcel in put)]:
            if not parcel.future.done():
                parcel.future.set_exception(error)

    def _fate(self, parcel: Parcel) -> str:
        """Of one whose time is over."""
        is_unsent = not parcel.repeated and parcel in self._waiting
        return "not stored" if is_unsent else "not known to be stored"

    async def _within(self, future: "asyncio.Future[T]", timeout: float, outcome: Callable[[], str]) -> "T":
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise DeadlineError(f"{outcome()} within {timeout:g} s: {self._failure or SILENT}") from None

    # -- out

    def _flush(self) -> None:
        if self._transport is None:
            self._connect()
            return
        while self._waiting and not self._paused and len(self._sent) < MOST_PUTS:
            self._put_next()

    def _put_next(self) -> None:
        put: list[Parcel] = []
        messages: list[NewMessage] = []
        size = 0
        while self._waiting:
            parcel = self._waiting[0]
            full = len(messages) + len(parcel.messages) > MOST_IN_PUT or size + parcel.size > FRAME_GOAL
            if put and full:
                break
            self._waiting.popleft()
            self._depth -= len(parcel.messages)
            if parcel.future.done():
                continue
            put.append(parcel)
            messages.extend(parcel.messages)
            size += parcel.size
        if put:
            self._say(put, messages)

    def _say(self, put: list[Parcel], messages: list[NewMessage]) -> None:
        """One that no frame can hold fails by itself, and none of those it was put together with."""
        assert self._transport is not None
        self._number += 1
        try:
            frames = _frames(self._number, messages)
        except (FrameError, UnicodeEncodeError, OverflowError, TypeError) as error:
            if len(put) == 1:
                put[0].future.set_exception(RefusedError(f"it cannot be sent: {error}"))
                return
            for parcel in put:
                self._say([parcel], parcel.messages)
            return
        self._sent[self._number] = put
        self._transport.writelines(frames)

    def _send(self, what: Frame) -> None:
        if self._transport is None:
            self._connect()
        else:
            self._transport.write(packed(what))

    # -- in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._reader, self._paused = cast("asyncio.Transport", transport), FrameReader(), False
        self._transport.set_write_buffer_limits(UNSENT)
        self._failure = ""
        self._transport.write(packed(Greet("producer")))
        for question, _ in self._awaited.values():
            self._transport.write(packed(question))
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._reader.feed(data):
                self._take(unpacked(payload))
        except FrameError as error:
            _log.error("the dispatcher sent what is no message: %s", error)
            if self._transport is not None:
                self._transport.abort()

    def _take(self, frame: Frame) -> None:
        match frame:
            case PutDone():
                self._done(frame)
                self._flush()
            case Ended():
                _, future = self._awaited.get(frame.number, (None, None))
                if future is not None and not future.done():
                    future.set_result(frame)
            case Refusal():
                self._failure = frame.reason
            case _:
                raise FrameError(f"a producer is not told {type(frame).__name__}")

    def _done(self, answer: PutDone) -> None:
        at = 0
        for parcel in self._sent.pop(answer.number, []):
            receipts = answer.receipts[at : at + len(parcel.messages)]
            at += len(parcel.messages)
            if parcel.future.done():
                continue
            if answer.error:
                parcel.future.set_exception(RefusedError(answer.error))
            else:
                parcel.future.set_result(_as_first(receipts, parcel))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """What was on its way is sent again, in its order."""
        self._transport = None
        repeated = [parcel for _, put in sorted(self._sent.items()) for parcel in put if not parcel.future.done()]
        self._sent.clear()
        for parcel in reversed(repeated):
            parcel.repeated = True
            self._waiting.appendleft(parcel)
            self._depth += len(parcel.messages)
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    # -- one connection after the other

    def _connect(self) -> None:
        if self._life is None or self._life.done():
            self._life = self.loop.create_task(self._live(), name="bkd-postbox")

    async def _live(self) -> None:
        """The task: connect and stay, as long as somebody waits."""
        delay = RETRY_FIRST
        while self._is_wanted():
            began = monotonic()
            try:
                await self._stay()
            except OSError as error:
                self._failure = hindrance(self.path, error)
            if monotonic() - began > 1.0:
                delay = RETRY_FIRST
            await asyncio.sleep(delay)
            delay = min(RETRY_CAP, delay * 2)

    def _is_wanted(self) -> bool:
        parcels = any(not parcel.future.done() for parcel in self._waiting)
        return parcels or any(not future.done() for _, future in self._awaited.values())

    async def _stay(self) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        self._gone = self.loop.create_future()
        try:
            sock.connect(self.path)
            await self.loop.create_unix_connection(lambda: self, sock=sock)
        except BaseException:
            sock.close()
            raise
        await self._gone


def _frames(number: int, messages: list[NewMessage]) -> list[bytes]:
    """A put, with what comes before it. Raises what packing raises."""
    frames, light = [], []
    for index, message in enumerate(messages):
        body = message.payload
        if len(body) > INLINE:
            parts = range(0, len(body), PART)
            frames += [packed(PutPart(number, index, body[offset : offset + PART])) for offset in parts]
        light.append(replace(message, payload=b"") if len(body) > INLINE else message)
    return [*frames, packed(Put(number, light))]


def _as_first(receipts: list[Receipt], parcel: Parcel) -> list[Receipt]:
    """A repeated put may have been stored the first time: these messages are still the caller's own."""
    if not parcel.repeated:
        return receipts
    pairs = zip(receipts, parcel.messages, strict=True)
    return [replace(receipt, created=True) if receipt.guid == message.guid else receipt for receipt, message in pairs]
