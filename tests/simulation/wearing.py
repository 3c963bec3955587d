"""The promises about recycling: nobody is worn by memory who has not grown, and the fattest goes first."""

from typing import TYPE_CHECKING

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Cluster, Group, Slot, Worker
from bkd.supervisor.facts import WorkerWorn
from bkd.supervisor.rows import find

from .promise import expect

if TYPE_CHECKING:
    from .world import World

ROOM = 1.2
SPREAD = 0.1


class WearChecks:
    """Knows how large every worker really was when it was fresh."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.outlived: dict[int, float] = {}

    def heard(self, before: Cluster, event: events.Pinged, after: Cluster) -> None:
        """Was it right to call a worker worn after this heartbeat, if it was?"""
        place = find(after, event.worker)
        if place is not None and after.news != before.news and isinstance(after.news[-1], WorkerWorn):
            self._worn(place.group, place.worker, event)

    def _worn(self, group: Group, worker: Worker, event: events.Pinged) -> None:
        settings, least, fresh = group.settings, 1 - SPREAD, self.world.machine.processes[worker.id].fresh
        if settings.max_requests and event.served >= least * settings.max_requests:
            return
        limit, text = settings.max_memory, f"{worker.slot} (worker {worker.id}) is worn"
        expect(limit > 0 and event.pss >= least * limit, f"{text} by {event.pss} bytes, max_memory = {limit}")
        expect(event.pss > fresh, f"{text}, but has not grown")
        size = min(fresh, group.releases[worker.release].fresh)
        expect(limit >= ROOM * size, f"{text}, but max_memory = {limit} has no room for a fresh one of {size}")

    def wear(self, action: actions.Wear) -> None:
        """Its time is over: the pass that sees it does not move it."""
        self.outlived[action.worker] = self.world.now

    def spawn(self, action: actions.Spawn, group: Group, slot: Slot) -> None:
        """Of those that could be replaced now the fattest is."""
        if group.roll is None and any(worker.stale for worker in slot.staying):
            fatter = [other.name for other in group.slots.values() if self._could(other) and _size(other) > _size(slot)]
            expect(not fatter, f"{action} before {fatter}")

    def _could(self, slot: Slot) -> bool:
        now = self.world.now
        away = slot.held or slot.retired or slot.failed or slot.done or slot.next_try > now
        moved = any(worker.ending is not None and worker.ending.since == now for worker in slot.workers)
        if away or moved or not slot.serves or len(slot.staying) != 1:
            return False
        return bool(slot.staying[0].stale) and self.outlived.get(slot.staying[0].id) != now


def _size(slot: Slot) -> int:
    return max((worker.pulse.pss for worker in slot.staying if worker.pulse is not None), default=0)
