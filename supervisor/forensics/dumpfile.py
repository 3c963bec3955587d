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

    def __init__(self, descriptor: int, theirs: str = "") -> None:
        """`descriptor` is this process's own and is closed with it; `theirs`: the worker's, in /proc. See `open`."""
        self._descriptor, self._theirs = descriptor, theirs

    @classmethod
    def open(cls, pid: int, start: int, descriptor: int) -> Self | None:
        """The file behind a descriptor of process (`pid`, `start`); None when it is not such a file or cannot be had.

        The worker names the descriptor itself and could have put anything there, even between two looks: what was
        opened is looked at again.
        """
        if descriptor < 0 or not _is(pid, start) or not procfs.opened(pid, descriptor).startswith(NAME):
            return None
        theirs = f"/proc/{pid}/fd/{descriptor}"
        try:
            held = os.open(theirs, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            logger.warning("stacks of pid {} will not be seen when it hangs or crashes: {}", pid, error.strerror)
            return None
        try:
            fits = _is(pid, start) and _is_memory(held)
            return cls(os.open(f"/proc/self/fd/{held}", FLAGS), theirs) if fits else None
        except OSError as error:
            logger.warning("stacks of pid {} cannot be read: {}", pid, error.strerror)
            return None
        finally:
            os.close(held)

    def is_theirs(self) -> bool:
        """Whether the worker's descriptor is this file still: what faulthandler writes goes there, whatever it is."""
        try:
            return self._descriptor >= 0 and os.path.samestat(os.stat(self._theirs), os.fstat(self._descriptor))
        except OSError:
            return False

    def clear(self) -> bool:
        """Forget what was written; False when the worker has sealed the file, or has ended."""
        if self._descriptor < 0:
            return False
        try:
            os.ftruncate(self._descriptor, 0)
        except PermissionError:
            return False
        return True

    def read(self, limit: int = 256 << 10) -> str:
        """The first `limit` bytes, "" when it is closed. faulthandler writes ASCII; anything else is replaced."""
        if self._descriptor < 0:
            return ""
        return os.pread(self._descriptor, limit, 0).decode("ascii", errors="replace")

    def close(self) -> None:
        """From now on it is empty. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _is(pid: int, start: int) -> bool:
    facts = procfs.read(pid)
    return facts is not None and facts.start == start


def _is_memory(descriptor: int) -> bool:
    """A memfd is a regular file without a name in any folder."""
    found = os.fstat(descriptor)
    named = procfs.opened(os.getpid(), descriptor).startswith(NAME)
    return named and stat.S_ISREG(found.st_mode) and found.st_nlink == 0
