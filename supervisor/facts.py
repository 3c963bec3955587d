"""Everything that can happen to a cluster, as a closed set of types. Facts are in the past tense.

A fact is written to the journal as one line of JSON (see `journal`, which adds the time) and told to people as one line
of text, `describe`: its `line` says what it means. Times are in seconds; `slot` is a name such as `web.2`.
"""

from functools import reduce
from operator import or_
from typing import Any

import msgspec

from ..ipc.quantity import counted
from . import leftoverfacts as _of_leftovers  # noqa: F401 - their facts are among the kinds below
from . import messagefacts as _of_messages  # noqa: F401 - and so are those
from .fact import Fact, Group, Intrusion, Level, Process, Release, Slot, signal_name, span
from .fleet import facts as _of_the_fleet  # noqa: F401 - and so are those
from .rollfacts import RollAborted as RollAborted
from .rollfacts import RollDone as RollDone
from .rollfacts import RolledBack as RolledBack
from .rollfacts import RollMoved as RollMoved
from .rollfacts import RollStarted as RollStarted
from .rundirfacts import Dropped as Dropped
from .rundirfacts import RunDirRestored as RunDirRestored
from .rundirfacts import RunDirUnfit as RunDirUnfit
from .stopfacts import ClusterStopped as ClusterStopped
from .stopfacts import StopAsked as StopAsked
from .upgradefacts import KeeperKept as KeeperKept
from .upgradefacts import KeeperReplaced as KeeperReplaced
from .upgradefacts import MasterUpgraded as MasterUpgraded
from .upgradefacts import UpgradeFailed as UpgradeFailed

_LEVELS: dict[str, Level] = {"planned": "info", "finished": "info", "killed from outside": "warning"}
_ENDINGS = {
    "planned": "ended as planned",
    "crash": "crashed",
    "boot failure": "failed to start",
    "hung": "ended after a hang",
    "out of memory": "ran out of memory",
}


class ClusterStarted(Fact, frozen=True):
    """The first master of a cluster begins. `config`: the file it was read from, if any."""

    line = "{app} started"
    app: str
    config: str = ""


class MasterStarted(Fact, frozen=True):
    """A master took over; the first one has epoch 1."""

    epoch: int
    pid: int
    adopted: int = 0

    def _text(self) -> str:
        adopted = f" {counted(self.adopted, 'worker')}" if self.adopted else ""
        return f"master {self.epoch} (pid {self.pid}) took over{adopted}"


class KeeperLost(Fact, frozen=True):
    line = "the keeper (pid {pid}) is gone, so everything is drained; start the cluster again"
    severity = "error"
    pid: int


class Overslept(Fact, frozen=True):
    line = "the master stood still for {seconds} (host suspended, or the master stopped); nobody was judged for it"
    severity = "warning"
    seconds: float


class ReleaseLoading(Release, frozen=True):
    line = "{group}: loading release {release}"


class ReleaseLost(Release, frozen=True):
    """Its loader was lost, and what can be imported now is other code. `serving`: it is what the group has."""

    severity = "warning"
    why: str
    serving: bool = True

    def _text(self) -> str:
        then = "its workers serve on, the next death there starts a roll" if self.serving else "no rollback goes to it"
        return f"{self.group}: release {self.release} is not restorable: {self.why}; {then}"


class ReleaseLoaded(Release, frozen=True):
    line = "{group}: release {release} loaded in {seconds}"
    seconds: float


class ReleaseFailed(Release, frozen=True):
    line = "{group}: release {release} failed to load: {reason}"
    severity = "error"
    reason: str
    trace: str = ""


class ReleaseDropped(Release, frozen=True):
    line = "{group}: the loader of release {release} is gone: {why}"
    why: str


class PreloadOff(Group, frozen=True):
    line = "{group}: preload is off, workers import the application themselves: {why}"
    severity = "warning"
    why: str


class WorkerStarted(Process, frozen=True):
    line = "{slot} started (pid {pid}, release {release})"
    release: int


class WorkerReady(Process, frozen=True):
    """The worker does its work, `seconds` after it was ordered."""

    line = "{slot} ready after {seconds} (pid {pid})"
    seconds: float
    release: int = 0


class WorkerLate(Process, frozen=True):
    """Silent or without progress for longer than `ping.interval`."""

    line = "{slot} is {verdict}: no progress for {age} (pid {pid})"
    severity = "warning"
    verdict: str
    age: float


class WorkerHung(Process, frozen=True):
    line = "{slot} hung ({verdict}): no progress for {age} (pid {pid}); it is replaced"
    severity = "error"
    verdict: str
    age: float
    why: str = ""

    def _text(self) -> str:
        if self.why:
            return f"{self.slot} is {self.verdict}: {self.why} (pid {self.pid}); it is replaced"
        return super()._text()


class EvidenceTaken(Process, frozen=True):
    """What it was doing is known, `took` seconds after it was asked; `where`: the line of code, "" when nobody told."""

    where: str
    took: float

    def _text(self) -> str:
        where = f"is at {self.where}" if self.where else "did not tell what it is doing"
        return f"{self.slot} {where} (pid {self.pid}); see `bkd why {self.slot}`"


class LoopLate(Process, frozen=True):
    """The main loop did not turn for `seconds`; told once for each place, counted after that."""

    line = "{slot}: its event loop was late by {seconds}: {where} (pid {pid})"
    severity = "warning"
    seconds: float
    where: str


class WorkerRetired(Process, frozen=True):
    """The worker is to end in peace."""

    line = "{slot} is being drained: {why} (pid {pid})"
    why: str


class WorkerKilled(Process, frozen=True):
    """`at_once`: it was not given time to end by itself."""

    line = "{slot} did not end in time and got SIGKILL: {why} (pid {pid})"
    severity = "warning"
    why: str
    at_once: bool = False

    def _text(self) -> str:
        return f"{self.slot} gets SIGKILL: {self.why} (pid {self.pid})" if self.at_once else super()._text()


class WorkerExited(Process, frozen=True):
    """The worker's process is gone. `cause`: planned, finished, boot failure, crash, hung, out of memory, killed from
    outside; `delay`: seconds until the slot's next try, None if there is none; `ago`: how many seconds before this was
    told it happened, when no master was there."""

    release: int
    cause: str
    code: int | None
    signal: int | None
    uptime: float
    delay: float | None = None
    reason: str = ""
    ago: float = 0.0

    def level(self) -> Level:
        if self.cause == "planned" and self.reason:
            return "warning"
        return _LEVELS.get(self.cause, "error")

    def _text(self) -> str:
        how = signal_name(self.signal) if self.signal else f"exit code {self.code}" if self.code is not None else ""
        reason = f": {self.reason}" if self.reason else ""
        end = _ENDINGS.get(self.cause, self.cause)
        ago = f", {span(self.ago)} ago" if self.ago else ""
        return f"{self.slot} {end}{how and f' ({how})'} after {span(self.uptime)}{ago}{reason}{self._next()}"

    def _next(self) -> str:
        if self.delay is None or self.cause in ("planned", "finished", "hung"):
            return ""
        return f"; next try in {span(self.delay)}" if self.delay else "; started again at once"


class Survivor(Process, frozen=True):
    line = "pid {pid} of {slot} survived SIGKILL"
    severity = "error"


class CrashLoop(Slot, frozen=True):
    line = "{slot} is in a crash loop: {deaths} deaths in {seconds}"
    severity = "error"
    deaths: int
    seconds: float


class BreakerOpened(Group, frozen=True):
    line = "{group}: breaker open, one slot is tried at a time: {why}"
    severity = "error"
    why: str


class BreakerClosed(Group, frozen=True):
    line = "{group}: breaker closed: {why}"
    why: str


class SlotFailed(Slot, frozen=True):
    line = "{slot} failed and stays down: {why}; `bkd reset {slot}` tries it again"
    severity = "error"
    why: str


class SlotDone(Slot, frozen=True):
    line = "{slot} is done"


class SlotHeld(Slot, frozen=True):
    line = "{slot} is held: not watched, not replaced, until `bkd unhold {slot}`"
    severity = "warning"


class SlotUnheld(Slot, frozen=True):
    line = "{slot} is no longer held"


class SlotReset(Fact, frozen=True):
    line = "{name} was reset"
    name: str


class Scaled(Group, frozen=True):
    line = "{group} scaled from {old} to {new}"
    old: int
    new: int


class GroupAdded(Group, frozen=True):
    count: int

    def _text(self) -> str:
        return f"{self.group} is new: {counted(self.count, 'worker')}"


class GroupRemoved(Group, frozen=True):
    """`why`: what else it goes for than a configuration that has it no more."""

    line = "{group} is no longer in the configuration and is drained"
    why: str = ""

    def _text(self) -> str:
        return f"{self.group} is drained: {self.why}" if self.why else super()._text()


class WorkerWorn(Process, frozen=True):
    """`alarming`: nobody has set this limit, something is wrong with the application."""

    line = "{slot} is to be replaced: {why} (pid {pid})"
    why: str
    alarming: bool = False

    def level(self) -> Level:
        return "warning" if self.alarming else "info"


class LimitRefused(Release, frozen=True):
    """`max_memory` does not count for this release: whoever is fresh would be recycled. Sizes in bytes."""

    line = "{group}: {why}"
    severity = "warning"
    limit: int
    fresh: int
    why: str


class ConfigReloaded(Fact, frozen=True):
    changes: int

    def _text(self) -> str:
        return f"configuration reloaded: {counted(self.changes, 'change')}"


class CommandGiven(Fact, frozen=True, tag="command"):
    verb: str
    arguments: dict[str, Any]
    uid: int
    pid: int
    user: str
    outcome: str

    def _text(self) -> str:
        given = " ".join(f"{name}={value}" for name, value in self.arguments.items())
        who = f"{self.user or self.uid} (pid {self.pid})" if self.pid else self.user
        return f"{who}: {' '.join(filter(None, [self.verb, given]))}: {self.outcome}"


class PeerRefused(Intrusion, frozen=True):
    """Somebody connected who may not; `count` of them since the last such fact."""

    def _text(self) -> str:
        return f"connection of uid {self.uid} (pid {self.pid}) refused: {self.why} ({counted(self.count, 'time')})"


class FrameRejected(Intrusion, frozen=True):
    """A peer sent what is no message and lost its connection."""

    def _text(self) -> str:
        return f"connection of uid {self.uid} (pid {self.pid}) closed: {self.why} ({counted(self.count, 'time')})"


class BusConnected(Fact, frozen=True):
    line = "bus {url} connected"
    url: str


class BusLost(Fact, frozen=True):
    """Told once, however often it is tried in vain."""

    line = "the bus is away, it is tried again and again: {why}"
    severity = "error"
    url: str
    why: str


class BusDeaf(Fact, frozen=True):
    line = "bus {url} answers, but nothing is heard from it; it is connected anew"
    severity = "warning"
    url: str


class DiskTrouble(Fact, frozen=True):
    """Told once for each reason. `safe`: what the next master has to know is kept where it needs no disk."""

    severity = "error"
    path: str
    why: str
    safe: bool = True

    def _text(self) -> str:
        then = "the cluster runs on from memory" if self.safe else "a next master would forget what this one does"
        return f"{self.path} cannot be written: {self.why}; {then}: make room there"


class DiskWell(Fact, frozen=True):
    line = "{path} is written again"
    path: str


def _leaves(base: type[Fact]) -> list[type[Fact]]:
    below = [leaf for kind in base.__subclasses__() for leaf in _leaves(kind)]
    return below or [base]


FACTS: tuple[type[Fact], ...] = tuple(_leaves(Fact))
_decoder: msgspec.json.Decoder[Fact] = msgspec.json.Decoder(reduce(or_, FACTS))


def decode(line: bytes) -> Fact:
    """The fact of a line of the journal; raises msgspec.MsgspecError if it is none that this bkd knows."""
    return _decoder.decode(line)
