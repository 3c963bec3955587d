"""What is told of upgrades of bkd itself."""

from ..ipc.quantity import counted
from .fact import Fact, span


class MasterUpgraded(Fact, frozen=True):
    """A master of another bkd is up. `adopted`: workers that it found alive; `seconds`: since the upgrade was asked."""

    old: str
    new: str
    epoch: int
    pid: int
    adopted: int
    seconds: float

    def _text(self) -> str:
        who = f"master {self.epoch}, pid {self.pid}"
        took = span(self.seconds)
        return f"bkd {self.old} -> {self.new} ({who}), {counted(self.adopted, 'worker')} adopted, took {took}"


class UpgradeFailed(Fact, frozen=True):
    """The other bkd could not take over, and the one from before serves on."""

    line = "the upgrade of bkd {old} to {new} failed: {reason}"
    severity = "error"
    old: str
    new: str
    reason: str


class KeeperReplaced(Fact, frozen=True):
    """The keeper runs the new bkd as well; its pid is the same."""

    line = "the keeper (pid {pid}) was replaced in place"
    pid: int


class KeeperKept(Fact, frozen=True):
    line = "the keeper is the old one: {why}"
    severity = "error"
    why: str
