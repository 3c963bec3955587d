"""Signals as bytes in a pipe, which a poll can wait for. Runs in the keeper; standard library only."""

import contextlib
import os
import signal
from collections.abc import Iterable


class Wakeup:
    """The signals that are to be heard; `descriptor` is readable as soon as one has come."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = frozenset(numbers)
        self.descriptor, self._out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def begin(self) -> None:
        """Hear them from now on, and those that have come while they were blocked."""
        signal.set_wakeup_fd(self._out, warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, lambda _number, _frame: None)
        self.unblock()

    def arrived(self) -> bytes:
        """The numbers of those that have come since the last call, in their order."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.descriptor, 4096)
        return b""

    def block(self) -> None:
        """They wait in the kernel, also over an exec."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)

    def unblock(self) -> None:
        """They are delivered again."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)

    def close(self) -> None:
        """For one that never began."""
        os.close(self.descriptor)
        os.close(self._out)
