"""Standard error of a master that the keeper tries out: a file in which the keeper's user finds its last words."""

import os
from types import TracebackType


class Probation:
    """Runs in the master. `terminal` is the real standard error, -1 when nobody tries this master out: with that it
    goes on, but what ends it before it is up is said into the file."""

    def __init__(self, terminal: int) -> None:
        self._words = -1
        if terminal >= 0:
            self._words = os.dup(2)
            os.dup2(terminal, 2)
            os.close(terminal)

    def passed(self) -> None:
        """The master is up."""
        if self._words >= 0:
            os.close(self._words)
            self._words = -1

    def __enter__(self) -> "Probation":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None and self._words >= 0:
            os.dup2(self._words, 2)
