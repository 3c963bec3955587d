"""What applications send and get: envelopes whose data are plain objects. Bytes and values; no sockets here."""

from typing import Any

import msgspec

from .errors import AwayError, BkdError, ClosedError, DeadlineError, RefusedError, RemoteError
from .frames import frame

REPLY, ERROR = "reply", "error"

ERRORS: dict[str, type[BkdError]] = {
    "timeout": DeadlineError,
    "closed": ClosedError,
    "refused": RefusedError,
    "failed": RemoteError,
    "away": AwayError,
}


class Parcel(msgspec.Struct, omit_defaults=True):
    """An `Envelope` for those who want to see the data: the same on the wire, encoded and decoded in one step."""

    op: str
    data: Any = msgspec.field(default_factory=dict)
    id: int = 0
    re: int = 0
    to: str = ""
    by: str = ""
    within: float = 0.0


_encode = msgspec.msgpack.Encoder().encode
read = msgspec.msgpack.Decoder(Parcel).decode
"""The parcel in a frame's payload; raises message.UNREADABLE."""


def pack(parcel: Parcel) -> bytes:
    """The whole frame. Raises FrameError when it is too long, TypeError and the like for data that cannot be sent."""
    return frame(_encode(parcel))


def raised(data: Any) -> BkdError:
    """What the data of an `error` mean for the caller."""
    if not isinstance(data, dict):
        return RemoteError("the answer is an error that cannot be read")
    kind, reason = data.get("error"), data.get("reason")
    return ERRORS.get(kind if isinstance(kind, str) else "", RemoteError)(str(reason or kind or "no reason given"))
