"""Frames: a 4-byte little-endian length, then that many bytes. Bytes in, payloads out; no sockets here."""

import struct

from .errors import FrameError

LIMIT = 1 << 20
_LENGTH = struct.Struct("<I")


def frame(payload: bytes) -> bytes:
    """One payload as it goes over the wire; raises FrameError above LIMIT bytes."""
    if len(payload) > LIMIT:
        raise FrameError(f"a frame of {len(payload)} bytes is over the limit of {LIMIT}")
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Collects bytes and gives back whole payloads. What comes in many pieces is looked at once it may be whole."""

    __slots__ = ("_rest", "_whole")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._whole = 4

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads completed by `data`; raises FrameError when a length is over LIMIT."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._whole:
                return []
            data = bytes(self._rest)
        elif len(data) > 4 and _LENGTH.unpack_from(data)[0] == len(data) - 4 <= LIMIT:
            return [data[4:]]
        payloads, at, size, self._whole = [], 0, len(data), 4
        while size - at >= 4:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > LIMIT:
                raise FrameError(f"a frame of {length} bytes is over the limit of {LIMIT}")
            end = at + 4 + length
            if end > size:
                self._whole = 4 + length
                break
            payloads.append(data[at + 4 : end])
            at = end
        self._rest = bytearray(data[at:])
        return payloads
