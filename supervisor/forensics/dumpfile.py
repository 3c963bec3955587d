"""The file into which a worker's faulthandler writes: memory that the master keeps open beyond the worker's end."""

import os
import stat
from typing import Self

from loguru import logger

from .. import procfs

NAME = "/memfd:bkd-stacks"
FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class DumpFile:
    """Runs in the master. Whatever the worker makes of the file, nothing here waits for it."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor` is this process's own and is closed with it; see `open`."""
        self._descriptor = descriptor

    @classmethod
    def open(cls, pid: int, start: int, descriptor: int) -> Self | None:
        """The file behind a descriptor of process (`pid`, `start`); None when it is not such a file or cannot be had.

        The worker names the descriptor itself and could have put anything there, even between two looks: what was
        opened is looked at again.
        """
        if descriptor < 0 or not _is(pid, start) or not procfs.opened(pid, descriptor).startswith(NAME):
            return None
        try:
            opened = os.open(f"/proc/{pid}/fd/{descriptor}", FLAGS)
        except OSError as error:
            logger.warning("stacks of pid {} will not be seen when it hangs or crashes: {}", pid, error.strerror)
            return None
        if _is(pid, start) and _is_memory(opened):
            return cls(opened)
        os.close(opened)
        return None

    def clear(self) -> bool:
        """Forget what was written; False when the worker has sealed the file."""
        try:
            os.ftruncate(self._descriptor, 0)
        except PermissionError:
            return False
        return True

    def read(self, limit: int = 1 << 20) -> str:
        """The first `limit` bytes. faulthandler writes ASCII; anything else is replaced."""
        return os.pread(self._descriptor, limit, 0).decode("ascii", errors="replace")

    def size(self) -> int:
        """In bytes."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Once; nothing can be read after that."""
        os.close(self._descriptor)


def _is(pid: int, start: int) -> bool:
    facts = procfs.read(pid)
    return facts is not None and facts.start == start


def _is_memory(descriptor: int) -> bool:
    """A memfd is a regular file without a name in any folder."""
    found = os.fstat(descriptor)
    named = procfs.opened(os.getpid(), descriptor).startswith(NAME)
    return named and stat.S_ISREG(found.st_mode) and found.st_nlink == 0
