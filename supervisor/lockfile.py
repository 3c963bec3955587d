"""Lock files, each holding the pid of whoever holds it. Runs in the keeper; standard library only."""

import fcntl
import os
from typing import Any


class Locks:
    """`held`: their descriptors by path; they stay locked until those are closed."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}

    def take(self, path: str) -> dict[str, Any]:
        """Lock it, anew if another file has come in its place; the answer names the holder when somebody else has it.

        Raises OSError.
        """
        if path in self.held and _is_same(path, self.held[path]):
            return {}
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 64).decode(errors="replace").strip()
            os.close(fd)
            return {"error": "locked", "holder": holder}
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
        if path in self.held:
            os.close(self.held[path])
        self.held[path] = fd
        return {}


def _is_same(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False
