"""A piece of the keeper's memory that masters write to and find again: it needs no disk, and ends with the keeper.

Two halves, written in turn. A master that is killed in the middle of a write leaves the half before it, whole.
"""

import os
import zlib
from collections.abc import Iterator
from struct import Struct

HALF = 1 << 26  # bytes of address space; what is not written takes no memory
_HEAD = Struct("<8sQQII")  # mark, number of the write, length, checksum of the content, checksum of all this
_MARK = b"bkdslate"


class Slate:
    """`descriptor` is the keeper's memory, -1 when there is none; then nothing is kept and nothing is found."""

    def __init__(self, descriptor: int = -1) -> None:
        self.descriptor = descriptor
        self._number = max((number for number, _length, _sum in self._heads()), default=0)

    def contents(self) -> Iterator[bytes]:
        """What was written last, and before that."""
        for number, length, checksum in sorted(self._heads(), reverse=True):
            data = os.pread(self.descriptor, length, HALF * (number % 2) + _HEAD.size)
            if len(data) == length and zlib.crc32(data) == checksum:
                yield data

    def write(self, data: bytes) -> bool:
        """Whether it is kept now. The machine may have no memory left."""
        if self.descriptor < 0 or len(data) > HALF - _HEAD.size:
            return False
        number = self._number + 1
        start = HALF * (number % 2)
        head = _HEAD.pack(_MARK, number, len(data), zlib.crc32(data), 0)
        try:
            self._put(bytes(_HEAD.size), start)
            self._put(data, start + _HEAD.size)
            self._put(_signed(head), start)
        except OSError:
            return False
        self._number = number
        return True

    def _put(self, data: bytes, start: int) -> None:
        while data:
            written = os.pwrite(self.descriptor, data, start)
            data, start = data[written:], start + written

    def _heads(self) -> Iterator[tuple[int, int, int]]:
        """Number, length and checksum of each half that has something."""
        for half in (0, 1) if self.descriptor >= 0 else ():
            head = os.pread(self.descriptor, _HEAD.size, HALF * half)
            if len(head) == _HEAD.size and head == _signed(head):
                _mark, number, length, checksum, _own = _HEAD.unpack(head)
                if number % 2 == half:
                    yield number, length, checksum


def _signed(head: bytes) -> bytes:
    """The header with its own checksum at the end."""
    return head[:-4] + zlib.crc32(head[:-4]).to_bytes(4, "little")
