"""One connection to the dispatcher's socket: frames, the peer's credentials, and limits that harm only the sender."""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections import deque
from typing import NamedTuple, Protocol, cast

from ...ipc.durable.wire import AnyFrame, Frame, Refusal, packed, unpacked
from ...ipc.errors import FrameError
from ...ipc.frames import FrameReader

SILENT = 5.0  # seconds until the first frame
UNSENT = 8 << 20  # bytes
READ = 1 << 18
LAST = 8 << 20  # bytes that are taken of a peer that is gone: copies of it may go on and on
TURN, TURN_BYTES = 32, 1 << 18  # frames of one peer, and their bytes, before the others have theirs
_CREDENTIALS = struct.Struct("3i")

logger = logging.getLogger("bkd.dispatch")


class Credentials(NamedTuple):
    """Who connected, by SO_PEERCRED at the moment of connecting (unix(7))."""

    pid: int
    uid: int
    gid: int


class Role(Protocol):
    """What a peer is, from its first frame on."""

    def heard(self, frame: AnyFrame) -> None:
        """It says this; raises FrameError when it may not."""

    def gone(self) -> None:
        """The connection is closed."""


class Owner(Protocol):
    """What a peer needs of the door."""

    def opened(self, peer: "Peer") -> None:
        """There is a connection."""

    def introduced(self, peer: "Peer", first: AnyFrame) -> Role:
        """Its first frame; raises FrameError when it is not let in, with a line for it."""

    def closed(self, peer: "Peer") -> None:
        """Called once for every connection."""


class Peer(asyncio.BufferedProtocol):
    """`buffer` is read into; all peers of one loop may share it, for what was read is taken out at once."""

    def __init__(self, owner: Owner, buffer: memoryview) -> None:
        self.credentials = Credentials(0, -1, -1)
        self.role: Role | None = None
        self._owner, self._buffer = owner, buffer
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._waiting: deque[bytes] = deque()
        self._held = self._closed = False  # closed: here, so that nothing more is to be heard
        self._silent: asyncio.TimerHandle | None = None

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.credentials = Credentials(*_CREDENTIALS.unpack(raw))
        self._silent = asyncio.get_running_loop().call_later(SILENT, self._was_silent)
        self._owner.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._take_up(bytes(self._buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:  # what was sent could not arrive; what the peer has said before its end did
            self._take_rest()
        self._closed = True
        self._introduced()
        self._waiting.clear()
        self._owner.closed(self)
        if self.role is not None:
            self.role.gone()

    # -- for the dispatcher

    @property
    def is_open(self) -> bool:
        """Whether something can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, what: Frame) -> None:
        """A peer that does not read is dropped when UNSENT bytes wait for it."""
        if not self.is_open or self._transport is None:
            return
        self._transport.write(packed(what))
        if self._transport.get_write_buffer_size() > UNSENT:
            logger.error("pid %d does not read what is sent to it: its connection is dropped", self.credentials.pid)
            self._closed = True
            self._transport.abort()

    def hold(self) -> None:
        """Take nothing more of it before `go_on`."""
        self._held = True
        if self._transport is not None:
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Take from it again."""
        if self._held:
            self._held = False
            asyncio.get_running_loop().call_soon(self._go_on)

    def refuse(self, why: str) -> None:
        """Say why, and close."""
        logger.warning("pid %d, uid %d: %s; its connection is closed", self.credentials.pid, self.credentials.uid, why)
        self._waiting.clear()
        self.send(Refusal(why))
        self.close()

    def close(self) -> None:
        """Close it after what was sent has left."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    # -- inside

    def _take_up(self, data: bytes) -> None:
        try:
            self._waiting.extend(self._reader.feed(data))
        except FrameError as error:
            self.refuse(str(error))
            return
        self._work()

    def _take_rest(self) -> None:
        assert self._transport is not None
        fd, left = self._transport.get_extra_info("socket").fileno(), LAST
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while left > 0 and not self._closed and (data := os.read(fd, READ)):
                left -= len(data)
                self._take_up(data)
        while self._waiting and not self._held and not self._closed:
            self._work()

    def _work(self) -> None:
        try:
            taken = 0
            for _ in range(TURN):
                if self._held or not self._waiting or self._closed or taken >= TURN_BYTES:
                    break
                payload = self._waiting.popleft()
                taken += len(payload)
                self._take(unpacked(payload))
        except FrameError as error:
            self.refuse(str(error))
        if self._waiting and not self._held and self.is_open:
            assert self._transport is not None
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._held or not self.is_open or self._transport is None:
            return
        self._work()
        if not self._waiting and not self._held and self.is_open:
            self._transport.resume_reading()

    def _take(self, frame: AnyFrame) -> None:
        if self.role is not None:
            self.role.heard(frame)
            return
        self._introduced()
        self.role = self._owner.introduced(self, frame)

    def _introduced(self) -> None:
        if self._silent is not None:
            self._silent.cancel()
            self._silent = None

    def _was_silent(self) -> None:
        self._silent = None
        self.refuse(f"it did not say within {SILENT:g} s who it is")
