"""The death of a master, what it leaves behind, and how the next one takes over: the fake of the shell's part.

A save is what `run_dir/state` holds: the rows, and which process is which. What was done since the last one is
forgotten by everybody but the processes to which it was done.
"""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from bkd.supervisor import events
from bkd.supervisor.cluster import Cluster, Phase, Step
from bkd.supervisor.founding import founded

from .history import Knowledge, knowledge, restored
from .keeper import Reaped
from .processes import Process, Zygote

if TYPE_CHECKING:
    from .world import World

SAVE_DELAY = 0.05
EXITS_HEARD = 0.2
HELLO_LIMIT = 2.0
STRAY_LIMIT = 4.0
LATE_HELLO, LATE_ZYGOTE = 5.0, 3.0


class ZygoteRow(NamedTuple):
    """A zygote's process as the state has it."""

    zygote: Zygote
    told: bool
    heard: bool


class Save(NamedTuple):
    """What the next master finds, and what the checks knew at that moment."""

    at: float
    cluster: Cluster
    processes: list[tuple[Process, bool]]
    zygotes: list[ZygoteRow]
    knowledge: Knowledge


class Succession:
    """One master after the other. `forgets`: until when nothing can be written down."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.forgets = 0.0
        self.save: Save | None = None
        self._soon = False

    # -- writing down

    def changed(self) -> None:
        """Something is different: it is written down soon."""
        if not self._soon:
            self._soon = True
            self.world.machine.later(SAVE_DELAY, self.remember)

    def remember(self) -> None:
        """Write it down, if the disk takes it."""
        self._soon = False
        world = self.world
        if world.now < world.paused:
            self.changed()
            return
        if world.now < self.forgets and self.save is not None:
            return
        cluster, machine = world.cluster, world.machine
        numbers = (*cluster.places, *(sweep.worker for sweep in cluster.sweeps))
        processes = [(machine.processes[number], machine.processes[number].told) for number in numbers]
        zygotes = [ZygoteRow(z, z.told, z.heard) for z in machine.started.values() if not z.dropped and self._has(z)]
        self.save = Save(world.now, cluster, processes, zygotes, knowledge(world.checks))

    def _has(self, zygote: Zygote) -> bool:
        group = self.world.cluster.groups.get(zygote.group)
        return group is not None and zygote.release in group.releases

    # -- dying

    def end(self) -> None:
        """The master is gone, and with it all that it had under way."""
        machine = self.world.machine
        self._soon = False
        machine.sweeping.clear()
        for process in machine.living():
            process.connected = process.asked = False
        for zygote in machine.living_zygotes:
            zygote.connected = False
            zygote.forks.clear()
            zygote.waiting.clear()

    # -- taking over

    def begin(self) -> None:
        """A new master with the last save, or, where there is none to be used, with nothing."""
        save = self.save
        if save is None:
            self._found()
        else:
            self._restore(save)
        self._hear_hellos()

    def adopt(self) -> None:
        """After the first turn: exits and hellos in any order; then who has said nothing is buried."""
        world, machine = self.world, self.world.machine
        remembered = [machine.processes[number] for number in world.cluster.places]
        for _, _, worker in world.cluster.workers():
            process = machine.processes[worker.id]
            if process.told and not worker.pid:
                world.post(events.Spawned(worker.id, process.pid, 1))
        for process in remembered:
            self._recognize(process)
        for reaped in machine.keeper.announced(world.random):
            machine.later(world.random.uniform(0.0, EXITS_HEARD), partial(self._told_again, reaped))
        machine.later(EXITS_HEARD, lambda: self._bury(remembered))
        machine.later(EXITS_HEARD + HELLO_LIMIT, lambda: self._bury_unborn(remembered))

    def _restore(self, save: Save) -> None:
        world, machine = self.world, self.world.machine
        world.cluster = save.cluster
        for number in [number for number in machine.processes if number >= save.cluster.next_worker]:
            machine.processes.pop(number).known = False
        for process, told in save.processes:
            machine.processes[process.worker] = process
            process.known, process.told, process.early = True, told, None
        self._restore_zygotes(save.zygotes)
        for _, _, worker in world.cluster.workers():
            asked = worker.ending is not None and worker.ending.step == Step.ASKED
            machine.processes[worker.id].asked = asked
        restored(world.checks, save.knowledge, world.cluster)
        machine.paced(world.cluster.ping)

    def _restore_zygotes(self, rows: list[ZygoteRow]) -> None:
        machine = self.world.machine
        for zygote in machine.living_zygotes:
            zygote.dropped = True
        for row in rows:
            row.zygote.dropped, row.zygote.told, row.zygote.heard = False, row.told, row.heard
        machine.started = {row.zygote.key: row.zygote for row in rows}
        machine.zygotes = {key: zygote for key, zygote in machine.started.items() if zygote.alive}

    def _found(self) -> None:
        """Of what runs nothing is known: all of it is in the way."""
        world, machine, old = self.world, self.world.machine, self.world.cluster
        sections = {name: group.settings for name, group in old.groups.items() if not group.leaving}
        world.cluster = founded(sections or world.first, old.ping, exit_when_failed=old.exit_when_failed)
        for process in machine.processes.values():
            process.known = False
        machine.processes = {}
        self._restore_zygotes([])
        restored(world.checks, None, world.cluster)

    # -- who is there

    def _hear_hellos(self) -> None:
        world, machine = self.world, self.world.machine
        for process in machine.living():
            if process.speaks:
                self._hello(process, self._delay(LATE_HELLO))
            elif not process.known:
                machine.later(world.random.uniform(EXITS_HEARD, STRAY_LIMIT), partial(machine.die, process, -9))
        for zygote in list(machine.living_zygotes):
            machine.later(self._delay(LATE_ZYGOTE), partial(machine.greet, zygote))

    def _delay(self, latest: float) -> float:
        late = self.world.random.random() < 0.1
        return self.world.random.uniform(0.0, latest if late else 0.4)

    def _hello(self, process: Process, delay: float) -> None:
        """One whose threads stand still says it when they go on; a few never do."""
        machine, random = self.world.machine, self.world.random
        process.lost = process.lost or (random.random() < 0.01 and not self.world.calm)

        def speak() -> None:
            if process.can_speak and not process.lost:
                machine.meet(process)
            elif process.alive:
                machine.later(1.0, speak)

        machine.later(delay, speak)

    def _recognize(self, process: Process) -> None:
        """Those that were exec'd carry a mark; a program's state is asked for anew."""
        machine = self.world.machine
        if process.alive and not process.forked:
            machine.arrived(process)
            process.connected = not process.speaks
        if process.alive and not process.speaks and process.ready and process.told:
            machine.later(self.world.random.uniform(0.0, 0.3), lambda: self._found_ready(process))

    def _found_ready(self, process: Process) -> None:
        row = next((w for _, _, w in self.world.cluster.workers() if w.id == process.worker), None)
        if process.alive and row is not None and row.phase == Phase.STARTING:
            self.world.post(events.BecameReady(process.worker, False))

    def _told_again(self, reaped: Reaped) -> None:
        """A process that the policy has buried before is told of to it as well: it has to bear that."""
        process, machine = reaped.process, self.world.machine
        twice = not process.known and machine.processes.get(process.worker) is process and process.told
        machine.ended(reaped)
        if twice and self.world.random.random() < 0.1:
            self.world.post(events.Exited(process.worker, reaped.code, reaped.oom, 0.5))

    def _bury(self, remembered: list[Process]) -> None:
        machine = self.world.machine
        for process in remembered:
            if process.told and not process.alive:
                machine.ended(Reaped(process, None))
        for zygote in machine.started.values():
            if not zygote.dropped and (not zygote.alive or not zygote.told):
                self._bury_zygote(zygote)

    def _bury_zygote(self, zygote: Zygote) -> None:
        machine = self.world.machine
        machine.zygotes.pop(zygote.key, None)
        self.world.post(machine.lost(zygote, "it ended while no master was there"))
        zygote.dropped = True

    def _bury_unborn(self, remembered: list[Process]) -> None:
        for process in remembered:
            if process.known and not process.told:
                process.known = False
                self.world.post(events.SpawnFailed(process.worker, "the master ended meanwhile", blameless=True))
