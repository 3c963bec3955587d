"""The fake machine: processes and zygotes that boot, beat, hang and die by the world's clock and its seeded chance.

It is the shell's other half: `perform` takes what the policy orders and posts what comes of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Cluster, Observation

FORK = 0.01
REAP = 0.005


class Clock(Protocol):
    """What the machine needs of the world around it."""

    now: float
    random: Random
    cluster: Cluster

    def post(self, event: events.Event, zygote: "Zygote | None" = None) -> None:
        """Tell the master, unless it comes from a zygote that is dropped by then."""

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call later."""


@dataclass
class Process:
    """A worker's process as it really is. `hung`: since when its main loop does not turn; `recovered`: when it last
    did again."""

    worker: int
    group: str
    slot: str
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
    kill_waits: bool = False
    known: bool = True
    drain: float = 0.1
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

    def look(self, now: float) -> Observation:
        """What /proc says."""
        spent = now - self._since
        cpu, waited = self._cpu + self.busy * spent, self._waited + self.waiting * spent
        return Observation(now, self.state if self.alive else "Z", cpu, waited, self.traced)


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
    """What is wrong with a group's application just now."""

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
        self.dials = {name: Dials() for name in clock.cluster.groups}
        self.pids = 100
        ping = clock.cluster.ping
        self.period = min(2.0, max(0.1, min(ping.interval, ping.kill or ping.interval) / 5))

    def perform(self, action: actions.Action) -> None:
        """Carry one action out."""
        match action:
            case actions.LoadRelease():
                self._load(action)
            case actions.DropLoader():
                self._drop(action)
            case actions.Spawn():
                self._spawn(action)
            case actions.Observe():
                self._observe(self.processes[action.worker])
            case actions.Condemn():
                self._gather(action.worker)
            case actions.Ask() | actions.Terminate() | actions.Kill():
                self._signal(action, self.processes[action.worker])
            case actions.GiveUp():
                self.processes[action.worker].known = False
            case actions.Sweep():
                self._sweep(action.worker)

    def living(self) -> list[Process]:
        """Processes that are there."""
        return [process for process in self.processes.values() if process.alive]

    # -- zygotes

    def _load(self, action: actions.LoadRelease) -> None:
        zygote = Zygote(action.group, action.release)
        self.zygotes[action.group, action.release] = self.started[action.group, action.release] = zygote
        self.pids += 1
        self.clock.post(events.LoaderSpawned(action.group, action.release, self.pids))
        seconds = self.clock.random.uniform(0.1, 2.0)
        self.clock.after(seconds, lambda: self._imported(zygote, seconds))

    def _imported(self, zygote: Zygote, seconds: float) -> None:
        if not zygote.alive or zygote.wedged:
            return
        dials = self.dials[zygote.group]
        if dials.imports_fail:
            self.end_zygote(zygote)
            self.clock.post(
                events.LoaderFailed(zygote.group, zygote.release, "ImportError", "", self._chance()), zygote
            )
            return
        zygote.loaded = True
        unsafe = ("2 threads",) if dials.threads else ()
        self.clock.post(events.LoaderReady(zygote.group, zygote.release, seconds, unsafe), zygote)

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
            self._failed(worker, "the zygote is gone")
        zygote.forks.clear()

    # -- births

    def _spawn(self, action: actions.Spawn) -> None:
        process = Process(action.worker, action.group, action.slot, self.clock.now)
        self.processes[action.worker] = process
        dials = self.dials[action.group]
        zygote = self.zygotes.get((action.group, action.release)) if action.fork else None
        if action.fork and (zygote is None or not zygote.loaded):
            self._failed(action.worker, "the zygote is gone")
        elif dials.spawns_fail:
            dials.spawns_fail -= 1
            self.clock.after(FORK, lambda: self._failed(action.worker, "fork: Resource temporarily unavailable"))
        else:
            if zygote is not None:
                zygote.forks.add(action.worker)
            self.clock.after(FORK * self._chance(), lambda: self._born(process, zygote))

    def _failed(self, worker: int, why: str) -> None:
        process = self.processes[worker]
        if not process.pid and process.known:
            process.known = False
            self.clock.post(events.SpawnFailed(worker, why, self._chance()))

    def _born(self, process: Process, zygote: Zygote | None) -> None:
        if zygote is not None:
            if zygote.wedged or not zygote.alive:
                return
            zygote.forks.discard(process.worker)
        if not process.known:
            return
        self.pids += 1
        process.pid, process.alive = self.pids, True
        process.drain = self.clock.random.choice((0.05, 0.5, 3.0, 30.0))
        self.clock.post(events.Spawned(process.worker, process.pid, 1))
        self._boot(process)

    def _boot(self, process: Process) -> None:
        dials = self.dials[process.group]
        if dials.slow_boots:
            dials.slow_boots -= 1
            process.clean = False
            return
        seconds = self.clock.random.uniform(0.05, 1.5)
        self.clock.after(seconds, lambda: self._booted(process))

    def _booted(self, process: Process) -> None:
        if not process.alive:
            return
        dials = self.dials[process.group]
        if dials.boots_fail:
            self.clock.post(events.BootFailed(process.worker, "ConnectionRefusedError: database"))
            self.die(process, dials.boot_code)
        elif process.state == "S":
            process.ready = True
            watched = self.clock.cluster.groups[process.group].settings.kind != "command"
            self.clock.post(events.BecameReady(process.worker, watched))
            if watched:
                self._beat(process)

    def _beat(self, process: Process) -> None:
        if not process.alive or not process.known:
            return
        if not process.mute:
            lag = 0.001 if process.hung is None else self.clock.now - process.hung
            self.clock.post(events.Pinged(process.worker, lag, rss=1000, cpu=process.look(self.clock.now).cpu))
        self.clock.after(self.period, lambda: self._beat(process))

    # -- signals and deaths

    def _signal(self, action: actions.Action, process: Process) -> None:
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
            process.alive = False
            self.clock.after(REAP * self._chance(), lambda: self._reaped(process, code, oom))

    def _reaped(self, process: Process, code: int, oom: bool) -> None:
        if process.known:
            process.known = False
            self.clock.post(events.Exited(process.worker, code, oom, self._chance()))

    def _observe(self, process: Process) -> None:
        if process.alive or self._chance() < 0.5:
            self.clock.post(events.Observed(process.worker, process.look(self.clock.now)))

    def _gather(self, worker: int) -> None:
        if self._chance() < 0.9:
            self.clock.after(self.clock.random.uniform(0.0, 0.4), lambda: self.clock.post(events.Gathered(worker)))

    def _sweep(self, worker: int) -> None:
        self.clock.after(self.clock.random.uniform(0.0, 0.2), lambda: self.clock.post(events.Swept(worker)))

    def _chance(self) -> float:
        return self.clock.random.random()
