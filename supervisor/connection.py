"""One connection to the control socket: frames, credentials of the peer, and limits that harm only the sender."""

import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from typing import NamedTuple, Protocol, cast

from ..ipc.errors import FrameError
from ..ipc.frames import FrameReader, frame
from ..ipc.message import Envelope, Message, decode, encode

TURN = 64
SILENT = 5.0
BREATH = 0.001
UNSENT = 8 << 20
READ = 1 << 18
LAST = 1 << 20  # bytes that are taken of a process that is gone: copies of it may go on and on
_CREDENTIALS = struct.Struct("3i")


class Peer(NamedTuple):
    """Who connected, by SO_PEERCRED at the moment of connecting (unix(7))."""

    pid: int
    uid: int
    gid: int


class Owner(Protocol):
    """What a connection needs of the server."""

    def opened(self, connection: "Connection") -> bool:
        """Whether this peer may stay; False closes it without an answer."""

    def received(self, connection: "Connection", envelope: Envelope) -> None:
        """One message; raises FrameError when it has no sense here."""

    def rejected(self, connection: "Connection", why: str) -> None:
        """The peer broke the rules and is being closed."""

    def closed(self, connection: "Connection") -> None:
        """The connection is gone."""


class Listener(Protocol):
    """Who hears a connection's messages in place of its owner."""

    def received(self, envelope: Envelope) -> None:
        """One message; raises FrameError when it has no sense."""

    def turned(self) -> None:
        """Those were the messages of this turn."""

    def jammed(self, full: bool) -> None:
        """More than the listener's limit waits to be sent, or again less."""


class Connection(asyncio.BufferedProtocol):
    """`role` is "" until the hello. A peer that sends faster than its turn allows is not read meanwhile.

    `buffer` is read into; all connections of one loop may share it, for what was read is taken out at once. Without it
    the loop would get and give back a quarter of a megabyte for each message.
    """

    def __init__(self, owner: Owner, buffer: memoryview) -> None:
        self.owner = owner
        self._buffer = buffer
        self.role = ""
        self.worker = 0
        self.token = ""
        self.loader: tuple[str, int] | None = None
        self.peer = Peer(0, -1, -1)
        self.transport: asyncio.Transport | None = None
        self.listener: Listener | None = None
        self._reader = FrameReader()
        self._waiting: deque[bytes] = deque()
        self._behind: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._held = self._closed = False  # closed: here, so that nothing more is to be heard
        self._silent: asyncio.TimerHandle | None = None

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.peer = Peer(*_CREDENTIALS.unpack(raw))
        if not self.owner.opened(self):
            self.transport.abort()
            return
        self._silent = asyncio.get_running_loop().call_later(SILENT, self._was_silent)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._take_up(bytes(self._buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._silent is not None:
            self._silent.cancel()
        if exc is not None:  # what was sent could not arrive; what the peer has said before its end did
            self._take_rest()
        self._closed = True
        self._waiting.clear()
        while self._behind:
            _close(self._behind.popleft()[1])
        self.owner.closed(self)

    def pause_writing(self) -> None:
        if self.listener is not None:
            self.listener.jammed(True)

    def resume_writing(self) -> None:
        if self.listener is not None:
            self.listener.jammed(False)

    # -- for the server

    @property
    def is_open(self) -> bool:
        """Whether something can still be sent."""
        return self.transport is not None and not self.transport.is_closing()

    def welcomed(self, role: str) -> None:
        """The hello was accepted."""
        self.role = role
        if self._silent is not None:
            self._silent.cancel()

    def send(self, message: Message, *, id: int = 0, re: int = 0, descriptors: tuple[int, ...] = ()) -> None:
        """A peer that does not read what it asked for is closed when UNSENT bytes wait."""
        if not self.is_open:
            return
        data = frame(encode(message, id=id, re=re))
        if descriptors or self._behind:
            self._behind.append((data, tuple(map(os.dup, descriptors))))
            self._send_behind(asyncio.get_running_loop().time() + SILENT)
        else:
            self._write(data)

    def hand_over(self, listener: Listener, unsent: int) -> None:
        """Whatever comes from now on is for this one, which also hears when `unsent` bytes wait to be sent."""
        assert self.transport is not None
        self.listener = listener
        self.transport.set_write_buffer_limits(high=unsent)

    def hold(self) -> None:
        """Read and take up nothing more before `go_on`."""
        self._held = True

    def go_on(self) -> None:
        """Read again."""
        self._held = False
        asyncio.get_running_loop().call_soon(self._go_on)

    def hear_out(self) -> None:
        """The peer's process is gone: take up at once what it has said before that, and the loop has not read yet."""
        if self.transport is not None:
            self._take_rest()

    def _take_rest(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):  # its end the loop will see for itself
            left = LAST
            while left > 0 and not self._closed and (data := self._read_now()):
                left -= len(data)
                self._take_up(data)
        while self._waiting and not self._closed and not self._held:
            self._work()

    def _read_now(self) -> bytes:
        assert self.transport is not None
        return os.read(self.transport.get_extra_info("socket").fileno(), READ)

    def reject(self, why: str) -> None:
        """Close it, for a reason."""
        self._closed = True
        self._waiting.clear()
        self.owner.rejected(self, why)
        if self.transport is not None:
            self.transport.abort()

    def close(self) -> None:
        """Close it after what was sent has left."""
        self._closed = True
        if self.transport is not None:
            self.transport.close()

    # -- inside

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)
        if self.transport.get_write_buffer_size() > UNSENT:
            self.reject("it does not read what is sent to it")

    def _send_behind(self, deadline: float) -> None:
        """What came behind descriptors. These go with the first bytes, so nothing may wait before them."""
        while self._behind and self.is_open:
            data, descriptors = self._behind[0]
            try:
                rest = self._send_descriptors(data, descriptors) if descriptors else data
            except BlockingIOError:
                self._send_later(deadline)
                return
            self._behind.popleft()
            _close(descriptors)
            self._write(rest)

    def _send_later(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() > deadline:
            self.reject("it does not read what is sent to it")
        else:
            loop.call_later(BREATH, self._send_behind, deadline)

    def _send_descriptors(self, data: bytes, descriptors: tuple[int, ...]) -> bytes:
        """Gives what is still to be sent; raises BlockingIOError when something waits before it."""
        assert self.transport is not None
        if self.transport.get_write_buffer_size():
            raise BlockingIOError("the peer is behind")
        sock = self.transport.get_extra_info("socket")
        with socket.socket(fileno=os.dup(sock.fileno())) as raw:
            return data[socket.send_fds(raw, [data], list(descriptors)) :]

    def _take_up(self, data: bytes) -> None:
        try:
            self._waiting.extend(self._reader.feed(data))
        except FrameError as error:
            self.reject(str(error))
            return
        self._work()

    def _work(self) -> None:
        try:
            self._take_turn()
        except FrameError as error:
            self.reject(str(error))
        if self.listener is not None:
            self.listener.turned()
        if (self._waiting or self._held) and self.is_open:
            assert self.transport is not None
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _take_turn(self) -> None:
        waiting = self._waiting
        for _ in range(min(TURN, len(waiting))):
            if not waiting:
                return
            envelope = decode(waiting.popleft())
            if self.listener is not None:
                self.listener.received(envelope)
            else:
                self.owner.received(self, envelope)

    def _go_on(self) -> None:
        if self._held or not self.is_open:
            return
        self._work()
        if not self._waiting and not self._held and self.is_open:
            assert self.transport is not None
            self.transport.resume_reading()

    def _was_silent(self) -> None:
        if not self.role:
            self.reject(f"it said no hello within {SILENT:g} s")


def _close(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
