"""Standard error as a place that may stop taking text: a paused terminal or a full pipe must not stop who writes.

Standard library only: keeper and master both speak through it.
"""

import errno
import os
import select
import socket
import stat

from ..ipc.quantity import counted

PIECE = 4096  # PIPE_BUF: a pipe that is ready takes that much without blocking, pipe(7)


class Terminal:
    """Writes what is taken at once and drops the rest; how much that was is told with the next write that works."""

    def __init__(self, descriptor: int = 2) -> None:
        self.descriptor = descriptor
        self.dropped = 0
        self._own = _unblocked(descriptor)

    def write(self, text: str) -> None:
        """Never waits and never raises: there is nobody left to tell."""
        if self.dropped:
            what = "line was dropped here: nobody read it", "lines were dropped here: nobody read them"
            text = f"… {counted(self.dropped, *what)}\n{text}"
        data = text.encode(errors="replace")
        if self._take(data):
            self.dropped = 0
        else:
            self.dropped += 1

    def _take(self, data: bytes) -> bool:
        for at in range(0, len(data), PIECE):
            try:
                self._put(data[at : at + PIECE])
            except OSError:
                return False
        return True

    def _put(self, piece: bytes) -> None:
        if isinstance(self._own, socket.socket):
            self._own.send(piece, socket.MSG_DONTWAIT)
            return
        poll = select.poll()
        poll.register(self._own, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, "nobody reads")
        os.write(self._own, piece)


def _unblocked(descriptor: int) -> int | socket.socket:
    """O_NONBLOCK belongs to the open file, which others share: so it is opened once more where that is possible."""
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            return socket.socket(fileno=os.dup(descriptor))
        if stat.S_ISREG(mode):
            return descriptor  # never blocks, and its offset is everybody's
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        return descriptor
