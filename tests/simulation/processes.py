"""What runs on the fake machine: processes and zygotes as they really are, and what the master knows of them."""

from dataclasses import dataclass, field

from bkd.supervisor.cluster import Observation
from bkd.supervisor.config.schema import GroupSection

MEASURING = 10.0
LEAK = 100


@dataclass(eq=False)
class Process:
    """A worker's process as it really is. `hung`: since when its main loop does not turn; `recovered`: when it last
    did again; `load`: requests in a heartbeat; `fresh`: the size it begins with; `pss`: the size when it was last
    measured; `code`: how it ended.

    What the present master has of it: `known`: it is in its registry; `told`: with its pid; `connected`: it has said
    hello, at `heard`; `asked`: it is to drain when it does; `early`: how it ended before anybody knew its pid. `lost`:
    it will never say hello again; `tripped`: it said that it is stuck; `given_up`: it did not end by SIGKILL;
    `mourned`: how often its end is in the journal, as far as the state knows."""

    worker: int
    group: str
    slot: str
    release: int
    settings: GroupSection
    ordered: float
    forked: bool
    pid: int = 0
    alive: bool = False
    ready: bool = False
    state: str = "S"
    hung: float | None = None
    recovered: float = 0.0
    mute: bool = False
    deaf: bool = False
    traced: bool = False
    tripped: bool = False
    starved: bool = False
    clean: bool = True
    code: int | None = None
    kill_waits: bool = False
    known: bool = True
    told: bool = False
    connected: bool = False
    heard: float = 0.0
    asked: bool = False
    early: tuple[int | None, bool] | None = None
    lost: bool = False
    given_up: bool = False
    mourned: int = 0
    drain: float = 0.1
    load: int = 0
    served: int = 0
    fresh: int = 0
    pss: int = 0
    measured: float = 0.0
    pace: int = 0
    busy: float = 0.0
    waiting: float = 0.0
    _cpu: float = 0.0
    _waited: float = 0.0
    _since: float = 0.0

    @property
    def speaks(self) -> bool:
        """Whether it has a heartbeat of its own; of a program the master finds out itself."""
        return self.settings.kind != "command"

    @property
    def can_speak(self) -> bool:
        """Whether its threads run."""
        return self.alive and self.state not in "TtD"

    def use(self, now: float, busy: float, waiting: float) -> None:
        """From now on it uses and waits for so much of a CPU."""
        self._cpu += self.busy * (now - self._since)
        self._waited += self.waiting * (now - self._since)
        self.busy, self.waiting, self._since = busy, waiting, now

    def cpu(self, now: float) -> float:
        """CPU seconds used so far."""
        return self._cpu + self.busy * (now - self._since)

    def measure(self, now: float) -> None:
        """See how large it is, now and then."""
        if not self.pss or now >= self.measured + MEASURING:
            self.pss, self.measured = self.fresh + LEAK * self.served, now

    def look(self, now: float) -> Observation:
        """What /proc says."""
        waited = self._waited + self.waiting * (now - self._since)
        return Observation(now, self.state if self.alive else "Z", self.cpu(now), waited, self.traced)


@dataclass(eq=False)
class Zygote:
    """A loader's process; `wedged`: it answers nothing any more; `dropped`: the master wants to hear nothing of it;
    `told`: the master knows its pid; `connected`: it has said hello to this master; `heard`: that has heard that it is
    loaded; `failed`: its import has failed and nobody heard of it; `prints`: which files it has imported; `waiting`:
    orders for when it is connected."""

    group: str
    release: int
    settings: GroupSection
    alive: bool = True
    loaded: bool = False
    wedged: bool = False
    dropped: bool = False
    told: bool = False
    connected: bool = True
    heard: bool = False
    failed: bool = False
    prints: str = ""
    forks: set[int] = field(default_factory=set)
    waiting: list[Process] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int]:
        """Group and release."""
        return self.group, self.release


@dataclass
class Dials:
    """What is wrong around a group's application just now, whatever its release."""

    boots_fail: bool = False
    imports_fail: bool = False
    slow_boots: int = 0
    spawns_fail: int = 0
    boot_code: int = 1
    threads: bool = False
    edition: int = 1
