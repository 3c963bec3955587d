"""How a command of the fleet goes, host by host, as its acknowledgements tell it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ...ipc.quantity import counted
from ..bus.orders import Ack
from ..fact import span
from ..logfiles import clean

PENDING = frozenset({"", "accepted", "waiting", "running"})
FAILED = frozenset({"failed", "refused", "skipped"})
PARTLY = 3


@dataclass
class HostProgress:
    """One host. `state` is "" until it answers; `number`: of the last acknowledgement; `took` once it is over."""

    host: str
    state: str = ""
    number: int = 0
    reason: str = ""
    step: str = ""
    took: float | None = None
    code: int = 0
    out: str = ""
    err: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is expected of it."""
        return self.state not in PENDING

    def take(self, ack: Ack) -> bool:
        """What it says of itself; whether that is news. Its last word stands, and what is over stays over."""
        if ack.number <= self.number or (self.is_over and self.state != "unreachable"):
            return False
        self.number, self.state, self.reason, self.step = ack.number, ack.state, clean(ack.reason), clean(ack.step)
        self.took, self.code = ack.took if self.is_over else None, ack.code or 0
        self.out, self.err = ack.out, ack.err
        return True

    def end(self, state: str, reason: str) -> bool:
        """What others know of it; whether that is news."""
        if self.is_over:
            return False
        self.state, self.reason, self.step = state, reason, ""
        return True

    def describe(self) -> str:
        """One line for people."""
        rest = f" {self.step}" if self.step else f" in {span(self.took)}" if self.took is not None else ""
        return f"{self.host}: {self.state or 'asked'}{rest}{f': {self.reason}' if self.reason else ''}"

    def document(self) -> dict[str, Any]:
        """One row of `--json`."""
        took = None if self.took is None else round(self.took, 3)
        return {"host": self.host, "state": self.state or "accepted", "reason": self.reason or None, "took": took}


@dataclass
class FleetProgress:
    """One command on all its hosts."""

    id: str
    verb: str
    hosts: dict[str, HostProgress] = field(default_factory=dict)
    _told: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, id: str, verb: str, hosts: Iterable[str]) -> "FleetProgress":
        """Nobody has answered yet."""
        return cls(id, verb, {host: HostProgress(host) for host in hosts})

    @property
    def is_over(self) -> bool:
        """Whether every host has come to its end."""
        return all(host.is_over for host in self.hosts.values())

    @property
    def code(self) -> int:
        """1 if any host failed, refused or was skipped, 3 if only those are missing that could not be reached, or that
        did some of it."""
        states = {host.state for host in self.hosts.values()}
        if states & FAILED:
            return 1
        return PARTLY if states - {"done"} or any(host.code for host in self.hosts.values()) else 0

    @property
    def state(self) -> str:
        """Of the whole: `running`, `done`, `failed` or `partly`."""
        return ("done", "failed", "", "partly")[self.code] if self.is_over else "running"

    def news(self) -> list[str]:
        """A line for each host of which something else is to be said than the last time this was asked."""
        lines = {name: host.describe() for name, host in self.hosts.items() if host.state}
        fresh = [line for name, line in lines.items() if self._told.get(name) != line]
        self._told = lines
        return fresh

    def verdict(self) -> str:
        """One line for people: `restart: 4 of 5 hosts done, 1 unreachable`."""
        counts: dict[str, int] = {}
        for host in self.hosts.values():
            counts[host.state or "asked"] = counts.get(host.state or "asked", 0) + 1
        done = counts.pop("done", 0)
        rest = "".join(f", {count} {state}" for state, count in sorted(counts.items()))
        return f"{self.verb}: {done:,} of {counted(len(self.hosts), 'host')} done{rest}"

    def document(self) -> dict[str, Any]:
        """What `--json` ends with."""
        rows = [host.document() for host in self.hosts.values()]
        return {"id": self.id, "verb": self.verb, "state": self.state, "hosts": rows}
