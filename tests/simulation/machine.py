"""The fake machine: processes and zygotes that boot, beat, hang and die by the world's clock and its seeded chance.

It is the shell's other half: `perform` takes what the policy orders and posts what comes of it. What is wrong with a
release belongs to it: every zygote and every process of it has the flaw. What a master has under way ends with it: such
a task looks at `Clock.life` before it posts anything.
"""

from collections.abc import Callable

from bkd.supervisor import actions, events
from bkd.supervisor.config.schema import PingSection

from .keeper import Keeper, Reaped
from .nursery import FORK, Clock, Nursery
from .processes import Process, Zygote
from .settings import fresh_size

REAP = 0.005


class Machine(Nursery):
    """Every process by worker number as the present master knows it, and all that ever were by pid (`born`);
    `sweeping`: whose leftovers are looked for."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.keeper = Keeper()
        self.sweeping: set[int] = set()
        self.pace = 0
        self.born: dict[int, Process] = {}
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

    # -- births

    def _spawn(self, action: actions.Spawn) -> None:
        settings = self.clock.cluster.groups[action.group].releases[action.release].settings
        process = Process(
            action.worker, action.group, action.slot, action.release, settings, self.clock.now, action.fork
        )
        self.processes[action.worker] = process
        dials = self.dials[action.group]
        zygote = self.zygotes.get((action.group, action.release)) if action.fork else None
        if action.fork and (zygote is None or not zygote.loaded):
            self.later(FORK, lambda: self.failed(process, "the zygote is gone", blameless=True))
        elif dials.spawns_fail or self.flaw(settings) == "spawn fails":
            dials.spawns_fail = max(0, dials.spawns_fail - 1)
            self.later(FORK, lambda: self.failed(process, "fork: Resource temporarily unavailable"))
        elif zygote is not None and not zygote.connected:
            zygote.forks.add(process.worker)
            zygote.waiting.append(process)
        else:
            if zygote is not None:
                zygote.forks.add(process.worker)
            self.order(process, zygote)

    def order(self, process: Process, zygote: Zygote | None) -> None:
        """It is on its way; whether it is still read when the master dies meanwhile is chance."""
        life, lost = self.clock.life, self._chance() < 0.5
        self.clock.after(
            FORK * self._chance(),
            lambda: None if lost and life != self.clock.life else self._born(process, zygote, life),
        )

    def failed(self, process: Process, why: str, *, blameless: bool = False) -> None:
        if not process.told and process.known:
            process.known = False
            self.clock.post(events.SpawnFailed(process.worker, why, self._chance(), blameless))

    def _born(self, process: Process, zygote: Zygote | None, life: int) -> None:
        if zygote is not None and (zygote.wedged or not zygote.alive):
            return
        heard = life == self.clock.life and not self.clock.absent
        if heard and not process.known:
            return
        self.pids += 1
        process.pid, process.alive = self.pids, True
        self.born[process.pid] = process
        self._living[process.pid] = process
        process.drain = self.clock.random.choice((0.05, 0.5, 3.0, 30.0))
        process.load = self.clock.random.choice((0, 1, 5, 20))
        process.fresh = fresh_size(process.group, process.release, process.worker)
        if heard:
            self.later(FORK * self._chance(), lambda: self.arrived(process))
        elif not self.clock.absent:
            self.later(FORK, lambda: self.meet(process))
        self._boot(process)

    def arrived(self, process: Process) -> None:
        """The master learns its pid, and of its end if it has ended already."""
        if not process.known:  # it was given up while it was being born: it will say hello all the same
            self.later(FORK, lambda: self.meet(process))
        if process.told or not process.known:
            return
        process.told = process.connected = True
        zygote = self.zygotes.get((process.group, process.release))
        if zygote is not None:
            zygote.forks.discard(process.worker)
        for _ in range(2 if self._chance() < 0.02 else 1):
            self.clock.post(events.Spawned(process.worker, process.pid, 1))
        if process.early is not None:
            self.ended(Reaped(process, *process.early))

    def meet(self, process: Process) -> None:
        """A worker says hello to a master that did not see it start: one that it does not know is ended."""
        if not process.can_speak:
            return
        if not process.known:
            self.die(process, -9)
            return
        self.arrived(process)
        process.connected, process.heard = True, self.clock.now
        if process.hung is None:
            process.recovered = self.clock.now
        elif process.mute:
            process.hung = min(process.hung, self.clock.adopted)
        if process.ready:
            self.clock.post(events.BecameReady(process.worker, process.speaks))
        if process.asked:
            self._drain(process)

    def _tell(self, process: Process, event: events.Event) -> None:
        if process.known and process.connected and not self.clock.absent:
            self.clock.post(event)

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
            self._tell(process, events.BootFailed(process.worker, "ConnectionRefusedError: database"))
            self.die(process, dials.boot_code if dials.boots_fail else 1)
        elif flaw == "exit 78":
            self.die(process, 78)
        elif process.state == "S":
            process.ready = True
            self._tell(process, events.BecameReady(process.worker, process.speaks))
            self._live_with(flaw, process)
            if process.speaks:
                self._beat(process, self.pace)

    def _live_with(self, flaw: str, process: Process) -> None:
        """What its release's flaw does to a worker that is ready."""
        group = self.clock.cluster.groups.get(process.group)
        long = group.settings.min_ready if group is not None else 0.0
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
        if not process.alive or pace != self.pace:
            return
        now = self.clock.now
        process.pace = pace
        if not process.mute:
            process.served += 0 if self.clock.calm else process.load
            behind = 0.0 if process.hung is None else now - process.hung
            process.measure(now)
            ping = events.Pinged(
                process.worker,
                max(0.001, behind),
                rss=3 * process.pss,
                pss=process.pss,
                cpu=process.cpu(now),
                served=process.served,
                behind=behind,
            )
            self._tell(process, ping)
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
        elif process.connected or not process.speaks:
            self._drain(process)
        else:
            process.asked = True

    def _drain(self, process: Process) -> None:
        if process.hung is None:
            self.clock.after(process.drain, lambda: self.die(process, 0))

    def terminate(self, process: Process) -> None:
        """Somebody else sends SIGTERM: it says so, finishes what it does, and ends."""
        if process.can_speak and process.hung is None:
            self._tell(process, events.Terminated(process.worker))
            self._drain(process)

    def die(self, process: Process, code: int, *, oom: bool = False) -> None:
        """The process ends; the master hears of it a moment later."""
        if process.alive:
            process.alive, process.code = False, code
            del self._living[process.pid]
            self.clock.after(REAP * self._chance(), lambda: self._reaped(Reaped(process, code, oom)))

    def _reaped(self, reaped: Reaped) -> None:
        if self.clock.absent:
            self.keeper.untold.append(reaped)
        else:
            self.keeper.told.append(reaped)
            self.ended(reaped)

    def ended(self, reaped: Reaped) -> None:
        """The keeper tells of a death; whose pid that was the master may not know yet."""
        process = reaped.process
        if process.known and process.told:
            process.known = False
            self.clock.post(events.Exited(process.worker, reaped.code, reaped.oom, self._chance()))
        elif process.known:
            process.early = reaped.code, reaped.oom

    def _give_up(self, action: actions.GiveUp) -> None:
        process = self.processes[action.worker]
        process.known, process.given_up = False, process.told

    def _observe(self, action: actions.Observe) -> None:
        process = self.processes[action.worker]
        if process.alive or self._chance() < 0.5:
            self.clock.post(events.Observed(process.worker, process.look(self.clock.now)))

    def _gather(self, action: actions.Condemn) -> None:
        if self._chance() < 0.9:
            seconds = self.clock.random.uniform(0.0, 0.4)
            self.later(seconds, lambda: self.clock.post(events.Gathered(action.worker)))

    def _sweep(self, action: actions.Sweep) -> None:
        self.sweeping.add(action.worker)
        seconds = self.clock.random.uniform(0.0, 0.2)
        self.later(seconds, lambda: self.clock.post(events.Swept(action.worker)))
