"""One application connection: who is there, what is still to be sent, and what was dropped on the way."""

from typing import Protocol

import msgspec

from ..ipc.errors import AwayError, BkdError, DeadlineError, FrameError, RefusedError
from ..ipc.frames import frame
from ..ipc.message import Envelope
from .connection import UNSENT, Connection
from .identity import Identity
from .pending import Party

ROOM = 1 << 20
TOO_LARGE = "the message is too large: 1 MiB at most"
encoded = msgspec.msgpack.Encoder().encode


class Hub(Protocol):
    """What a port needs of the exchange."""

    touched: list["Port"]
    dropped: int

    def received(self, port: "Port", envelope: Envelope) -> None:
        """One message of this process."""

    def flush(self) -> None:
        """Send what was put into the ports."""


class Port(Party):
    """What is put is sent at the end of the turn, in one piece. `full`: more than ROOM bytes wait for the process to
    read them; it gets no events and no calls meanwhile, and if it goes on asking itself, it is not read."""

    __slots__ = ("_connection", "_held", "_hub", "_outbox", "dropped", "errands", "full", "who")

    def __init__(self, hub: Hub, connection: Connection, who: Identity) -> None:
        super().__init__()
        self.who = who
        self.full = self._held = False
        self.dropped = self.errands = 0
        self._hub, self._connection = hub, connection
        self._outbox: list[bytes] = []
        connection.hand_over(self, ROOM)

    # -- for the exchange

    def put(self, frame: bytes) -> None:
        """Send this frame with the others of the turn."""
        if not self._outbox:
            self._hub.touched.append(self)
        self._outbox.append(frame)

    def event(self, frame: bytes) -> bool:
        """The same, if there is room; False when it was dropped."""
        if self.full:
            self.dropped += 1
            self._hub.dropped += 1
            return False
        self.put(frame)
        return True

    def answered(self, id: int, op: str, data: msgspec.Raw) -> None:
        """The answer to a call of this process."""
        try:
            answer = framed(op, 0, id, data)
        except FrameError:
            answer = framed("error", 0, id, error("failed", TOO_LARGE))
        if self.full:
            self._held = True
        self.put(answer)

    def flush(self) -> None:
        """Hand what was put to the kernel; a process that never reads loses its connection."""
        outbox, self._outbox = self._outbox, []
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            return
        transport.write(outbox[0] if len(outbox) == 1 else b"".join(outbox))
        if self.full and transport.get_write_buffer_size() > UNSENT:
            self._connection.reject("it does not read what is sent to it")

    def drop(self) -> None:
        """Close it at once; there is nobody at the other end any more."""
        if self._connection.transport is not None:
            self._connection.transport.abort()

    # -- for the connection

    def received(self, envelope: Envelope) -> None:
        """One message."""
        self._hub.received(self, envelope)

    def turned(self) -> None:
        """The end of its turn."""
        self._hub.flush()
        if self._held:
            self._connection.hold()

    def jammed(self, full: bool) -> None:
        """The process reads slower than it is written to, or has caught up."""
        self.full = full
        if self._held and not full:
            self._held = False
            self._connection.go_on()


def framed(op: str, id: int, re: int, data: msgspec.Raw, by: str = "") -> bytes:
    """One frame; raises FrameError when it would be too large."""
    return frame(encoded(Envelope(op, id, re, data, "", by)))


def raw(value: object) -> msgspec.Raw:
    """A value as `data`."""
    return msgspec.Raw(encoded(value))


def error(kind: str, reason: str) -> msgspec.Raw:
    """The data of an error: `timeout closed refused failed away`, and one line."""
    return raw({"error": kind, "reason": reason})


def error_of(fault: BkdError) -> msgspec.Raw:
    """The same for an exception."""
    kinds = {"away": AwayError, "refused": RefusedError, "timeout": DeadlineError}
    kind = next((kind for kind, type in kinds.items() if isinstance(fault, type)), "failed")
    return error(kind, str(fault))
