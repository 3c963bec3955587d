"""What there is to tell of processes of a cluster that was here before."""

from ..ipc.quantity import counted
from .fact import Fact, Level


class LeftoversEnded(Fact, frozen=True):
    """They were ended before anything was started. `processes`: their slots and pids; `survivors`: those that could
    not be."""

    processes: list[str]
    survivors: list[str]

    def level(self) -> Level:
        return "error" if self.survivors else "warning"

    def _text(self) -> str:
        text = f"what was left of the cluster before is ended: {', '.join(self.processes)}"
        left = f"; cannot be ended, see to it yourself: {', '.join(self.survivors)}" if self.survivors else ""
        return f"{text}{left}"


class WorkersForgotten(Fact, frozen=True):
    """The state of the last master is lost; its workers serve until there are others."""

    severity = "error"
    processes: int

    def _text(self) -> str:
        serve = counted(self.processes, "serves until it is", "serve until they are")
        return f"what the last master knew is lost: {serve} replaced, everything is begun anew"
