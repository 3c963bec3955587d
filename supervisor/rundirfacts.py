"""What becomes of the run directory while the cluster lives."""

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
