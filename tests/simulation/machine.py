"""The fake machine: processes and zygotes that boot, beat, hang and die by the world's clock and its seeded chance.

It is the shell's other half: `perform` takes what the policy orders and posts what comes of it. What is wrong with a
release belongs to it: every zygote and every process of it has the flaw.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Cluster, Observation
from bkd.supervisor.config.schema import GroupSection, PingSection

from .settings import flaw, fresh_size

MEASURING = 10.0
LEAK = 100
FORK = 0.01
REAP = 0.005


class Clock(Protocol):
    """What the machine needs of the world around it; `calm`: nothing new goes wrong."""

    now: float
    random: Random
    cluster: Cluster
    calm: bool

    def post(self, event: events.Event, zygote: "Zygote | None" = None) -> None:
        """Tell the master, unless it comes from a zygote that is dropped by then."""

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call later."""


@dataclass
class Process:
    """A worker's process as it really is. `hung`: since when its main loop does not turn; `recovered`: when it last
    did again; `load`: requests in a heartbeat; `fresh`: the size it begins with; `pss`: the size when it was last
    measured; `code`: how it ended."""

    worker: int
    group: str
    slot: str
    release: int
    settings: GroupSection
    ordered: float
    pid: int = 0
    alive: bool = False
    ready: bool = False
    state: str = "S"
    hung: float | None = None
    recovered: float = 0.0
    mute: bool = False
    deaf: bool = False
    traced: bool = False
    starved: bool = False
    clean: bool = True
    code: int | None = None
    kill_waits: bool = False
    known: bool = True
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


@dataclass
class Zygote:
    """A loader's process; `wedged`: it answers nothing any more; `dropped`: the master wants to hear nothing of it."""

    group: str
    release: int
    alive: bool = True
    loaded: bool = False
    wedged: bool = False
    dropped: bool = False
    forks: set[int] = field(default_factory=set)


@dataclass
class Dials:
    """What is wrong around a group's application just now, whatever its release."""

    boots_fail: bool = False
    imports_fail: bool = False
    slow_boots: int = 0
    spawns_fail: int = 0
    boot_code: int = 1
    threads: bool = False


class Machine:
    """Every process by worker number, every living zygote by group and release, and the one that was started last."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.processes: dict[int, Process] = {}
        self.zygotes: dict[tuple[str, int], Zygote] = {}
        self.started: dict[tuple[str, int], Zygote] = {}
        self.dials: dict[str, Dials] = defaultdict(Dials)
        self.pids = 100
        self.pace = 0
        self._living: dict[int, Process] = {}
        self.paced(clock.cluster.ping)
        self._do: dict[type[actions.Action], Callable[..., None]] = {
            actions.LoadRelease: self._load,
            actions.DropLoader: self._drop,
            actions.Spawn: self._spawn,
            actions.Observe: self._observe,
            actions.Condemn: self._gather,
            actions.Ask: self._signal,
            actions.Terminate: self._signal,
            actions.Kill: self._signal,
            actions.GiveUp: self._give_up,
            actions.Sweep: self._sweep,
        }

    def perform(self, action: actions.Action) -> None:
        """Carry one action out; those that only change the state need nothing."""
        do = self._do.get(type(action))
        if do is not None:
            do(action)

    def living(self) -> list[Process]:
        """Processes that are there."""
        return list(self._living.values())

    def paced(self, ping: PingSection) -> None:
        """Heartbeats come as often as this asks for."""
        self.period = min(2.0, max(0.1, min(ping.interval, ping.kill or ping.interval) / 5))
        self.pace += 1
        for process in self.living():
            if process.pace:
                self._beat(process, self.pace)

    def flaw(self, settings: GroupSection) -> str:
        """What is wrong with a release of these settings; in calm times all is mended."""
        return "" if self.clock.calm else flaw(settings)

    # -- zygotes

    def _load(self, action: actions.LoadRelease) -> None:
        zygote = Zygote(action.group, action.release)
        self.zygotes[action.group, action.release] = self.started[action.group, action.release] = zygote
        self.pids += 1
        self.clock.post(events.LoaderSpawned(action.group, action.release, self.pids))
        settings = self.clock.cluster.groups[action.group].releases[action.release].settings
        if self.flaw(settings) != "import hangs":
            seconds = self.clock.random.uniform(0.1, 2.0)
            self.clock.after(seconds, lambda: self._imported(zygote, settings, seconds))

    def _imported(self, zygote: Zygote, settings: GroupSection, seconds: float) -> None:
        if not zygote.alive or zygote.wedged:
            return
        dials, flaw = self.dials[zygote.group], self.flaw(settings)
        if dials.imports_fail or flaw == "import fails":
            self.lose_zygote(zygote, "ImportError")
            return
        zygote.loaded = True
        unsafe = ("2 threads",) if dials.threads and settings.preload == "auto" else ()
        self.clock.post(events.LoaderReady(zygote.group, zygote.release, seconds, unsafe), zygote)
        if flaw == "zygote dies":
            self.clock.after(self.clock.random.uniform(0.0, 8.0), lambda: self.lose_zygote(zygote, "signal 11"))
        zygote.wedged = flaw == "zygote wedges"

    def lose_zygote(self, zygote: Zygote, why: str) -> None:
        """It ends by itself, and the master hears of it."""
        if zygote.alive:
            kind = events.LoaderGone if zygote.loaded else events.LoaderFailed
            self.end_zygote(zygote)
            self.clock.post(kind(zygote.group, zygote.release, why, chance=self._chance()), zygote)

    def _drop(self, action: actions.DropLoader) -> None:
        zygote = self.started.get((action.group, action.release))
        if zygote is not None:
            zygote.dropped = True
            self.end_zygote(zygote)

    def end_zygote(self, zygote: Zygote) -> None:
        """It is gone, and what was ordered from it will not come."""
        zygote.alive = False
        if self.zygotes.get((zygote.group, zygote.release)) is zygote:
            del self.zygotes[zygote.group, zygote.release]
        for worker in sorted(zygote.forks):
            self._failed(worker, "the zygote is gone", blameless=True)
        zygote.forks.clear()

    # -- births

    def _spawn(self, action: actions.Spawn) -> None:
        settings = self.clock.cluster.groups[action.group].releases[action.release].settings
        process = Process(action.worker, action.group, action.slot, action.release, settings, self.clock.now)
        self.processes[action.worker] = process
        dials = self.dials[action.group]
        zygote = self.zygotes.get((action.group, action.release)) if action.fork else None
        if action.fork and (zygote is None or not zygote.loaded):
            self.clock.after(FORK, lambda: self._failed(action.worker, "the zygote is gone", blameless=True))
        elif dials.spawns_fail or self.flaw(settings) == "spawn fails":
            dials.spawns_fail = max(0, dials.spawns_fail - 1)
            self.clock.after(FORK, lambda: self._failed(action.worker, "fork: Resource temporarily unavailable"))
        else:
            if zygote is not None:
                zygote.forks.add(action.worker)
            self.clock.after(FORK * self._chance(), lambda: self._born(process, zygote))

    def _failed(self, worker: int, why: str, *, blameless: bool = False) -> None:
        process = self.processes[worker]
        if not process.pid and process.known:
            process.known = False
            self.clock.post(events.SpawnFailed(worker, why, self._chance(), blameless))

    def _born(self, process: Process, zygote: Zygote | None) -> None:
        if zygote is not None:
            if zygote.wedged or not zygote.alive:
                return
            zygote.forks.discard(process.worker)
        if not process.known:
            return
        self.pids += 1
        process.pid, process.alive = self.pids, True
        self._living[process.worker] = process
        process.drain = self.clock.random.choice((0.05, 0.5, 3.0, 30.0))
        process.load = self.clock.random.choice((0, 1, 5, 20))
        process.fresh = fresh_size(process.group, process.release, process.worker)
        self.clock.post(events.Spawned(process.worker, process.pid, 1))
        self._boot(process)

    def _boot(self, process: Process) -> None:
        dials = self.dials[process.group]
        if dials.slow_boots:
            dials.slow_boots -= 1
            process.clean = False
        elif self.flaw(process.settings) != "never ready":
            seconds = self.clock.random.uniform(0.05, 1.5)
            self.clock.after(seconds, lambda: self._booted(process))

    def _booted(self, process: Process) -> None:
        if not process.alive:
            return
        dials, flaw = self.dials[process.group], self.flaw(process.settings)
        if dials.boots_fail or flaw in ("boot crash", "import fails"):
            self.clock.post(events.BootFailed(process.worker, "ConnectionRefusedError: database"))
            self.die(process, dials.boot_code if dials.boots_fail else 1)
        elif flaw == "exit 78":
            self.die(process, 78)
        elif process.state == "S":
            process.ready = True
            watched = process.settings.kind != "command"
            self.clock.post(events.BecameReady(process.worker, watched))
            self._live_with(flaw, process)
            if watched:
                self._beat(process, self.pace)

    def _live_with(self, flaw: str, process: Process) -> None:
        """What its release's flaw does to a worker that is ready."""
        long = self.clock.cluster.groups[process.group].settings.min_ready
        chance = self._chance()
        if flaw == "short life":
            self.clock.after(0.9 * chance * long, lambda: self.die(process, -11))
        elif flaw == "dies settling":
            self.clock.after((1.05 + 2 * chance) * max(long, 0.2), lambda: self.die(process, 1))
        elif flaw == "killed twice":
            self.clock.after(chance * max(long, 0.2), lambda: self.die(process, -9))
        elif flaw == "hangs":
            self.clock.after(chance * long, lambda: self.hang(process))

    def hang(self, process: Process) -> None:
        """Its main loop turns no more."""
        if process.alive and process.hung is None and process.clean:
            process.hung = self.clock.now

    def _beat(self, process: Process, pace: int) -> None:
        if not process.alive or not process.known or pace != self.pace:
            return
        now = self.clock.now
        process.pace = pace
        if not process.mute:
            process.served += 0 if self.clock.calm else process.load
            lag = 0.001 if process.hung is None else now - process.hung
            process.measure(now)
            used = {"rss": 3 * process.pss, "pss": process.pss, "cpu": process.cpu(now), "served": process.served}
            self.clock.post(events.Pinged(process.worker, lag, **used))
        self.clock.after(self.period, lambda: self._beat(process, pace))

    # -- signals and deaths

    def _signal(self, action: actions.Ask | actions.Terminate | actions.Kill) -> None:
        process = self.processes[action.worker]
        if not process.alive:
            return
        if isinstance(action, actions.Kill):
            if process.state == "D":
                process.kill_waits = True
            else:
                self.die(process, -9)
        elif process.state in "TD" or process.deaf:
            return
        elif isinstance(action, actions.Terminate):
            self.clock.after(self.clock.random.uniform(0.0, 1.0), lambda: self.die(process, -15))
        elif process.hung is None:
            self.clock.after(process.drain, lambda: self.die(process, 0))

    def die(self, process: Process, code: int, *, oom: bool = False) -> None:
        """The process ends; the master hears of it a moment later."""
        if process.alive:
            process.alive, process.code = False, code
            del self._living[process.worker]
            self.clock.after(REAP * self._chance(), lambda: self._reaped(process, code, oom))

    def _reaped(self, process: Process, code: int, oom: bool) -> None:
        if process.known:
            process.known = False
            self.clock.post(events.Exited(process.worker, code, oom, self._chance()))

    def _give_up(self, action: actions.GiveUp) -> None:
        self.processes[action.worker].known = False

    def _observe(self, action: actions.Observe) -> None:
        process = self.processes[action.worker]
        if process.alive or self._chance() < 0.5:
            self.clock.post(events.Observed(process.worker, process.look(self.clock.now)))

    def _gather(self, action: actions.Condemn) -> None:
        if self._chance() < 0.9:
            seconds = self.clock.random.uniform(0.0, 0.4)
            self.clock.after(seconds, lambda: self.clock.post(events.Gathered(action.worker)))

    def _sweep(self, action: actions.Sweep) -> None:
        seconds = self.clock.random.uniform(0.0, 0.2)
        self.clock.after(seconds, lambda: self.clock.post(events.Swept(action.worker)))

    def _chance(self) -> float:
        return self.clock.random.random()
