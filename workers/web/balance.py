"""Who has how many connections: one byte per worker of the group, in a file that all of them map."""

import logging
import mmap
import os
from pathlib import Path

AWAY = 255  # this worker does not serve
MOST = 254
PATIENCE = 32  # times a sibling is waited for that does not move at all
SLACK = 4  # many connections may differ by a quarter: evening them out exactly costs more than it brings

logger = logging.getLogger("bkd.web")


class Balance:
    """This worker's byte and those of its siblings. Without a file every answer is: not crowded."""

    def __init__(self, cells: mmap.mmap | bytearray, index: int) -> None:
        self._cells = cells
        self._index = index
        self._shown = AWAY
        self._still = b""
        self._waits = 0

    @classmethod
    def alone(cls) -> "Balance":
        """For a worker that shares its listeners with nobody it knows of."""
        return cls(bytearray([AWAY]), 0)

    @classmethod
    def open(cls, path: str, index: int) -> "Balance":
        """Map the file; where that is impossible the worker serves without balance, and says so."""
        if not path:
            return cls.alone()
        try:
            cells = _map(Path(path))
        except (OSError, ValueError) as error:
            logger.warning("serving without balance between workers: %s: %s", path, error)
            return cls.alone()
        if not 0 <= index < len(cells):
            logger.warning("serving without balance between workers: %s has no place %d", path, index)
            return cls.alone()
        return cls(cells, index)

    def show(self, count: int) -> None:
        """Say how many connections are open here."""
        self._shown = min(count, MOST)
        self._cells[self._index] = self._shown

    def leave(self) -> None:
        """Say that this worker serves no more."""
        self._cells[self._index] = AWAY

    def crowded(self, count: int) -> bool:
        """Whether a sibling has so much less that it should take the next connection, and is likely to."""
        self.show(count)
        others = bytes(self._cells[: self._index] + self._cells[self._index + 1 :])
        if others != self._still:
            self._still, self._waits = others, 0
        least = min(others, default=AWAY)
        return self._shown > least + 1 + least // SLACK and self._waits < PATIENCE

    def waited(self) -> None:
        """The siblings were given time and left the connection; those that never move are hung."""
        self._waits += 1


def _map(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)
