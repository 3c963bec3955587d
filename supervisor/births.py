"""Lines that spawned processes wait for on their standard input. Runs in the keeper; standard library only."""

import contextlib
import os
from typing import Any

from . import spawning


class Births:
    """The pipes of those who have not had their line yet, by pid."""

    def __init__(self) -> None:
        self.pipes: dict[int, int] = {}

    def spawn(self, order: dict[str, Any]) -> int:
        """Spawn a program whose standard input is a pipe; its pid. Raises OSError."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            pid = spawning.spawn({**order, "stdin": read_end})
        except OSError:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self.pipes[pid] = write_end
        return pid

    def give(self, pid: int, line: str) -> None:
        """A line of at most PIPE_BUF bytes, so that the write cannot block, and no other after it."""
        with contextlib.suppress(BrokenPipeError, KeyError):  # it has ended: its exit was told, or will be
            os.write(self.pipes[pid], line.encode())
        self.forget(pid)

    def forget(self, pid: int) -> None:
        """It has had its line, or has ended."""
        if pid in self.pipes:
            os.close(self.pipes.pop(pid))

    def forget_all(self) -> None:
        """Nobody gets a line any more."""
        for pid in list(self.pipes):
            self.forget(pid)
