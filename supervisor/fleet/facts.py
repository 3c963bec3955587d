"""What can happen on the bus and to the commands of the fleet. See `supervisor.facts`."""

from ...ipc.quantity import counted
from ..fact import Fact, Level

ADVICE = {
    "unknown-key": "a host has a key that is not known here; compare its secret_file with this one",
    "unsigned": "a host has unsigned = true in [bus], this one has not",
    "clock": "compare the clock of this host with that of Redis",
}


class BusRefused(Fact, frozen=True):
    """Something on the bus was not believed; `count` of this kind so far."""

    severity = "warning"
    reason: str
    channel: str
    count: int

    def _text(self) -> str:
        advice = f": {ADVICE[self.reason]}" if self.reason in ADVICE else ""
        return f"bus: {counted(self.count, 'message')} refused as {self.reason}, the last on {self.channel}{advice}"


class BusKeysChanged(Fact, frozen=True):
    """The file with the keys was read again, and they are others."""

    line = "bus: other keys are in force, {count} of them; the first signs, all verify"
    count: int


class BusResync(Fact, frozen=True):
    """The commands on the bus are not those that were there before: it was emptied, or its clock went back."""

    line = "bus: it was emptied or its clock went back; commands given before count as expired"
    severity = "warning"


class HostClash(Fact, frozen=True):
    """Another cluster calls itself as this one does."""

    line = "bus: another cluster calls itself {host}; give one of them another name: [app] host"
    severity = "error"
    host: str


class FleetCommandTaken(Fact, frozen=True):
    """This host has accepted a command of the fleet."""

    line = "fleet: {verb} by {issuer} accepted ({id})"
    id: str
    verb: str
    issuer: str


class FleetCommandEnded(Fact, frozen=True):
    """… and this is how it ended here."""

    id: str
    verb: str
    state: str
    reason: str
    seconds: float

    def _text(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return f"fleet: {self.verb} {self.state} here{reason} ({self.id})"

    def level(self) -> Level:
        return "info" if self.state == "done" else "warning"


class FleetCommandIgnored(Fact, frozen=True):
    """A command of the fleet that came too late."""

    line = "fleet: {verb} by {issuer} came too late and is not obeyed ({id})"
    severity = "warning"
    id: str
    verb: str
    issuer: str
