"""Which lost requests are explained, and which are losses. Pure.

A request may be lost in one way: its connection was in the hands of a process at the moment when that was killed,
stopped or stood still. Nothing else is an excuse: no restart, no deploy, no dead master.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Violation(AssertionError):
    """Something is not as it has to be, in one line; the run is over. `slot`: whose end to look at."""

    def __init__(self, text, slot=""):
        super().__init__(text)
        self.slot = slot


class Failure(NamedTuple):
    """A request without a good answer. Times are monotonic; `client` and `server` are the ports of its connection."""

    at: float
    opened: float
    client: int
    server: int
    how: str
    path: str
    last: str = ""

    def __str__(self):
        return f"{self.at:.3f} {self.path} on port {self.server} from {self.client}: {self.how} (before: {self.last!r})"


class Doom(NamedTuple):
    """From this moment on whatever is `held`, pairs of server's and client's port, may get no answer."""

    at: float
    why: str
    held: frozenset[tuple[int, int]]

    def explains(self, failure: Failure) -> bool:
        """Whether the connection was in these hands; ports are used again, connections are not."""
        return (failure.server, failure.client) in self.held and failure.opened <= self.at <= failure.at


class Ledger:
    """Failures and what explains them, each as soon as it is known."""

    def __init__(self):
        self.explained = 0
        self._dooms: list[Doom] = []
        self._failures: list[Failure] = []

    def doom(self, doom: Doom):
        """To be said before the deed."""
        self._dooms.append(doom)

    def fail(self, failure: Failure):
        """A request was lost."""
        self._failures.append(failure)

    def losses(self, before: float) -> list[Failure]:
        """Those failed before this moment that nothing explains; the others are counted and forgotten."""
        due = [failure for failure in self._failures if failure.at < before]
        lost = [failure for failure in due if not _explained(failure, self._dooms)]
        self.explained += len(due) - len(lost)
        self._failures = [failure for failure in self._failures if failure not in due or failure in lost]
        return lost


def _explained(failure: Failure, dooms: Iterable[Doom]) -> bool:
    return any(doom.explains(failure) for doom in dooms)
