"""The promises about what a master leaves to the next one, and about who is told of a death."""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from bkd.supervisor import events
from bkd.supervisor.cluster import Cluster, Group, Phase, Roll, Slot, Step
from bkd.supervisor.fact import Fact
from bkd.supervisor.facts import WorkerExited
from bkd.supervisor.rows import find

from .processes import Process
from .promise import expect

if TYPE_CHECKING:
    from .world import World


class SurvivalChecks:
    """`again`: deaths that the journal has twice, because the state that knew of the first telling was not written."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.again = 0
        self._unsaved: list[Process] = []

    # -- deaths are told once

    def told(self, news: tuple[Fact, ...]) -> None:
        """Facts go into the journal."""
        for fact in news:
            if isinstance(fact, WorkerExited) and fact.pid:
                process = self.world.machine.born[fact.pid]
                process.mourned += 1
                self._unsaved.append(process)
                expect(process.mourned == 1, f"the end of {process.slot} (pid {fact.pid}) is told twice")

    def saved(self) -> None:
        """From here on the state knows what was told."""
        self._unsaved.clear()

    def forgotten(self) -> None:
        """The next master does not know what was told since the last save."""
        for process in self._unsaved:
            process.mourned -= 1
        self.again += len(self._unsaved)
        self._unsaved.clear()

    def mourned(self) -> None:
        """Nobody whom the master knew has ended in silence."""
        machine = self.world.machine
        for process in machine.born.values():
            if process.alive or not process.told or machine.processes.get(process.worker) is not process:
                continue
            given_up = self.world.checks.records[process.worker].given_up
            expect(bool(process.mourned) or given_up, f"nobody was told of the end of {process.slot}: {process}")

    def silent_since(self, process: Process) -> float | None:
        """Since when it hangs, or this master waits for its hello."""
        if process.speaks and not process.connected:
            return self.world.adopted
        return process.hung

    # -- who says something twice is heard once

    def again_there(self, before: Cluster, event: events.BecameReady | events.Spawned, after: Cluster) -> None:
        """A hello repeats what another master may have heard."""
        place = find(before, event.worker)
        if isinstance(event, events.BecameReady) and place is not None and place.worker.phase != Phase.STARTING:
            expect(after == before, f"{event} began anew")
        if isinstance(event, events.Spawned) and place is not None and place.worker.pid:
            expect(after.groups == before.groups, f"{event} changed something")

    # -- after a turn

    def turn(self) -> None:
        """Every process is in the state, and every search for leftovers is going on."""
        machine, cluster = self.world.machine, self.world.cluster
        for process in machine.living():
            lost = process.known and process.told and process.worker not in cluster.places
            expect(not lost, f"{process.slot} (worker {process.worker}, pid {process.pid}) is forgotten")
        for sweep in cluster.sweeps:
            expect(sweep.worker in machine.sweeping, f"nobody looks for what worker {sweep.worker} left behind")

    # -- adoption

    def adopted(self, before: Cluster, after: Cluster) -> None:
        """What was promised is as it was; only deadlines move."""
        expect(before.places == after.places, "workers are forgotten at an adoption")
        expect(before.closing == after.closing, "the stop is another at an adoption")
        expect(after.judged_from == self.world.now, "the time without a master counts")
        killed = [row.id for _, _, row in after.workers() if row.ending is not None and row.ending.step == Step.KILLED]
        expect(not killed, f"{killed} were being killed by a master that died over it, and are not killed again")
        for name, group in before.groups.items():
            expect(_promised(group) == _promised(after.groups[name]), f"{name} is another group at an adoption")

    # -- when the faults have stopped

    def settled(self) -> None:
        """Nothing runs that the state does not know, and everybody was told of every death."""
        strays = [process.pid for process in self.world.machine.living() if not process.known and self._finds(process)]
        expect(not strays, f"strays are left: {strays}")
        self.mourned()

    def _finds(self, process: Process) -> bool:
        return process.can_speak and not process.lost and not process.given_up


def _promised(group: Group) -> Group:
    releases = {number: replace(release, since=0.0) for number, release in group.releases.items()}
    slots = {name: _kept(slot) for name, slot in group.slots.items()}
    roll: Roll | None = replace(group.roll, stage_at=0.0) if group.roll is not None else None
    return replace(group, releases=releases, slots=slots, roll=roll)


def _kept(slot: Slot) -> Slot:
    return replace(slot, workers=())
