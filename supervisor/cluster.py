"""The cluster as plain data: groups, slots, workers, releases. No clock, no process, no decision.

Every row is frozen; a change makes a new row (`msgspec.structs.replace`). Times are monotonic seconds.
"""

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from .config.schema import GroupSection, PingSection
from .fact import Fact
from .memorytrend import Trend
from .rollrows import Origin as Origin
from .rollrows import Outcome as Outcome
from .rollrows import Roll as Roll
from .rollrows import Stage as Stage
from .rollrows import Wanted as Wanted


class Phase(StrEnum):
    """Where a worker's process is in its life; a stop in progress is told by `Worker.stop`."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Cause(StrEnum):
    """Why a worker ended, or is being ended."""

    PLANNED = "planned"
    BOOT = "boot failure"
    CRASH = "crash"
    HUNG = "hung"
    OOM = "out of memory"
    OUTSIDE = "killed from outside"
    FINISHED = "finished"


class Verdict(StrEnum):
    """What a worker that makes no progress is found to be."""

    OK = "ok"
    BUSY = "busy"
    STUCK = "stuck"
    STOPPED = "stopped"
    UNINTERRUPTIBLE = "uninterruptible"
    STARVED = "starved"
    OVERDUE = "overdue"
    SLOW_BOOT = "slow boot"


class Step(StrEnum):
    """How far the ending of a worker has gone."""

    WANTED = "wanted"
    ASKED = "asked"
    TERMED = "termed"
    KILLED = "killed"
    SURVIVED = "survived"


class Observation(msgspec.Struct, frozen=True):
    """What /proc said of a worker: state letter, CPU seconds used, seconds waited for a CPU; `traced` by a debugger."""

    at: float
    state: str
    cpu: float
    waited: float
    traced: bool = False


class Pulse(msgspec.Struct, frozen=True):
    """The last heartbeat: `lag` in seconds or None, requests in flight, the age of the oldest, bytes, CPU seconds,
    the share of one CPU used since the heartbeat before, the requests served in all; `pss` in bytes, 0 when it was not
    measured yet; `late`: how often the main loop was later than `ping.lag_warn`."""

    at: float
    lag: float | None = None
    in_flight: int = 0
    oldest: float = 0.0
    rss: int = 0
    cpu: float = 0.0
    load: float = 0.0
    served: int = 0
    pss: int = 0
    late: int = 0


class Trouble(msgspec.Struct, frozen=True):
    """A worker without progress: the first observation, the newest, and what was reported."""

    first: Observation
    last: Observation
    verdict: Verdict = Verdict.OK
    reported: bool = False


class Ending(msgspec.Struct, frozen=True):
    """The ending of one worker: why, since when, how far; `gathered`: the evidence is there; `hasty`: by SIGKILL;
    `until`: no step is overdue before this moment, as the program asked for; `killed`: an earlier master got as far as
    SIGKILL."""

    cause: Cause
    why: str
    since: float
    step: Step = Step.WANTED
    step_at: float = 0.0
    gathered: bool = True
    verdict: Verdict = Verdict.OK
    hasty: bool = False
    until: float = 0.0
    killed: bool = False


class Worker(msgspec.Struct, frozen=True):
    """One process in a slot. `progress`: when its main loop is last known to have turned; `looked_at`: when /proc was
    last asked about it; `signalled`: the last signal an operator sent it; `termed`: it says that it was sent SIGTERM;
    `stale`: why a fresh one is to replace it; `quiet`: it takes no work yet; `until`: its start is not overdue before
    this moment, as the program asked for; `tripped`: by its own watchdog it is stuck, silent for so many seconds;
    `overdue`: of somebody else's, for this reason."""

    id: int
    slot: str
    release: int
    ordered: float
    phase: Phase = Phase.STARTING
    pid: int = 0
    start: int = 0
    ready_at: float = 0.0
    progress: float = 0.0
    pulse: Pulse | None = None
    watched: bool = False
    looked_at: float = 0.0
    trouble: Trouble | None = None
    ending: Ending | None = None
    signalled: int = 0
    termed: bool = False
    boot_error: str = ""
    stale: str = ""
    quiet: bool = False
    trend: Trend | None = None
    until: float = 0.0
    tripped: float | None = None
    overdue: str = ""


class Exit(msgspec.Struct, frozen=True):
    """How a worker ended; `code` is negative for a signal, None when nobody could learn it; `reason`: its own words."""

    at: float
    cause: Cause
    code: int | None
    pid: int
    release: int
    uptime: float
    killed: bool = False
    reason: str = ""


class Slot(msgspec.Struct, frozen=True):
    """A stable name and what runs under it: one worker, a second one while it is being replaced, and those ending.
    `done`: its work has come to its end, in the hands of the release `done_by`."""

    name: str
    workers: tuple[Worker, ...] = ()
    held: bool = False
    retired: bool = False
    done: bool = False
    done_by: int = 0
    failed: str = ""
    score: float = 0.0
    scored_at: float = 0.0
    next_try: float = 0.0
    restarts: int = 0
    charged: tuple[float, ...] = ()
    outside: tuple[float, ...] = ()
    looping: bool = False
    boot_failures: int = 0
    last_exit: Exit | None = None

    @property
    def staying(self) -> list[Worker]:
        """The workers that are not ending, the older first."""
        return [worker for worker in self.workers if worker.ending is None]

    @property
    def active(self) -> Worker | None:
        """The oldest worker that is not ending, if there is one."""
        for worker in self.workers:
            if worker.ending is None:
                return worker
        return None

    @property
    def is_up(self) -> bool:
        """Whether a start may call it done: it is ready, or has finished its work."""
        return self.done or self.held or self.serves

    @property
    def serves(self) -> bool:
        """Whether one of its workers takes work and is not ending."""
        return any(w.phase == Phase.READY and w.ending is None and not w.quiet for w in self.workers)


class Loader(StrEnum):
    """State of a release's zygote."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNSAFE = "unsafe"


class Release(msgspec.Struct, frozen=True):
    """A numbered load of a group's code, with its `Origin`. `why`: why its loader failed or may not fork; `alive`: it
    has a process; `fresh`: bytes of memory that its last new worker began with, 0 when not known; `refused`: the
    `max_memory` that is too small for it; `prints`: the fingerprint of the files it was imported from, "" when it was
    not, or is not to come back; `lost`: how these differ by now, so that it cannot be loaded again."""

    number: int
    settings: GroupSection
    python: str = ""
    written: GroupSection | None = None
    interpreter: str = ""
    loader: Loader = Loader.ABSENT
    why: str = ""
    since: float = 0.0
    alive: bool = False
    pid: int = 0
    failures: int = 0
    next_try: float = 0.0
    fresh: int = 0
    refused: int = 0
    prints: str = ""
    lost: str = ""

    @property
    def forks(self) -> bool:
        """Whether its workers come from a zygote."""
        settings = self.settings
        return settings.kind != "command" and settings.preload != "false" and self.loader != Loader.UNSAFE

    @property
    def loaded(self) -> bool:
        """Whether workers of it can be started now."""
        return not self.forks or self.loader == Loader.READY


class Breaker(msgspec.Struct, frozen=True):
    """Opens when much of a group dies at once; `deaths` are the charged ones of the last minute with their slots."""

    open_since: float | None = None
    deaths: tuple[tuple[float, str], ...] = ()


class Group(msgspec.Struct, frozen=True):
    """`[workers.NAME]` at work: `count` is what is wanted now, `current` the release its slots should have, `newest`
    the highest number a release ever had; `proven`: one of its workers has been ready; `asked`: the last ticket given
    to a request for a roll; `rolled_at`: when it last came onto a release; `leaving`: the configuration has it no more;
    `late`: it came by a reload; `makes_way`: the groups that take its addresses over, after whose coming it goes;
    `heir`: the release, loaded but on trial nowhere yet, to roll onto when the current one is lost and needed (0)."""

    name: str
    settings: GroupSection
    count: int
    current: int
    releases: dict[int, Release]
    slots: dict[str, Slot]
    newest: int = 1
    breaker: Breaker = Breaker()
    proven: bool = False
    roll: Roll | None = None
    queued: Wanted | None = None
    outcome: Outcome | None = None
    asked: int = 0
    rolled_at: float = 0.0
    leaving: bool = False
    late: bool = False
    makes_way: tuple[str, ...] = ()
    heir: int = 0

    @property
    def release(self) -> Release:
        """The release its slots should have."""
        return self.releases[self.current]

    def eligible(self) -> list[Slot]:
        """The slots that a roll moves."""
        return [slot for slot in self.slots.values() if not slot.retired and not slot.held]


class Closing(msgspec.Struct, frozen=True):
    """The whole cluster is being stopped: by whom, since when; `hasty`: straight to SIGKILL; who had to be `killed`,
    had messages that were `interrupted`, or `survived`."""

    why: str
    since: float
    code: int = 0
    hasty: bool = False
    killed: tuple[str, ...] = ()
    interrupted: tuple[str, ...] = ()
    survived: tuple[str, ...] = ()
    left: bool = False


class Sweeping(msgspec.Struct, frozen=True):
    """An ended worker whose leftovers are to be looked for; `taken`: the search is on."""

    worker: int
    slot: str
    taken: bool = False


class Cluster(msgspec.Struct, frozen=True):
    """Everything the policy knows. `places`: the slot of each worker by its number; `news`: facts not yet written to
    the journal; `judged_from`: nobody is blamed for silence before this moment; `greeted`: from this moment on all who
    live have said hello to this master, and it knows who is ready."""

    groups: dict[str, Group]
    ping: PingSection
    exit_when_failed: bool = False
    next_worker: int = 1
    places: dict[int, str] = {}
    judged_from: float = 0.0
    greeted: float = 0.0
    sweeps: tuple[Sweeping, ...] = ()
    closing: Closing | None = None
    news: tuple[Fact, ...] = ()

    def slots(self) -> Iterator[tuple[Group, Slot]]:
        """Every slot with its group."""
        for group in self.groups.values():
            for slot in group.slots.values():
                yield group, slot

    def workers(self) -> Iterator[tuple[Group, Slot, Worker]]:
        """Every worker with its slot and group."""
        for group, slot in self.slots():
            for worker in slot.workers:
                yield group, slot, worker


def slot_names(group: str, count: int) -> list[str]:
    """`web.1 … web.N`."""
    return [f"{group}.{number}" for number in range(1, count + 1)]
