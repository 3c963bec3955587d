"""What becomes of the run directory, and of the logs there, while the cluster lives."""

from ..ipc.quantity import counted
from .fact import Fact


class RunDirRestored(Fact, frozen=True):
    line = "{path} had been removed and is there again; commands find the master again"
    severity = "warning"
    path: str


class RunDirUnfit(Fact, frozen=True):
    """Told once for each reason: no start would take such a folder."""

    line = "{path}: {why}; what runs goes on, but the next start would refuse this folder: set it right"
    severity = "warning"
    path: str
    why: str


class LogTrouble(Fact, frozen=True):
    """Told once for each reason."""

    line = "{path} cannot be written: {why}; what processes print is lost meanwhile"
    severity = "error"
    path: str
    why: str


class LogWell(Fact, frozen=True):
    line = "{path} can be written again"
    path: str


class Dropped(Fact, frozen=True):
    severity = "warning"
    count: int

    def _text(self) -> str:
        missing = counted(self.count, "event is missing here: it", "events are missing here: they")
        return f"{missing} could not be written"
