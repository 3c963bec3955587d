"""Which slot gets which process: what is missing is started, what is outdated is replaced. Pure.

One rule for rolls, recycling and crashes: a slot is to have one worker of its target release. A worker that is not of
it, or stale, goes when its successor can take over; how many slots have two at a time, or none, is bounded.
"""

from collections.abc import Iterator

from . import actions
from .cluster import Cause, Group, Loader, Phase, Release, Slot, Stage, Worker
from .rolls import finished, has_proven, target, tries_quietly
from .watch import Watch

DRAINING_LEAST, DRAINING_SHARE = 2, 4
RECYCLED_LEAST, RECYCLED_SHARE = 1, 10


class Moves:
    """The births and replacements of one group during one pass; `numbers` are those of the workers to come."""

    def __init__(self, group: Group, numbers: Iterator[int], watch: Watch) -> None:
        self.group, self.numbers, self.watch = group, numbers, watch
        self.blamed: set[int] = set()
        self.probing = group.breaker.open_since is not None and _is_probing(group, watch.now)
        self._counted = False
        self._second = self._none = self._drains = 0

    def is_settled(self, worker: Worker) -> bool:
        """Whether the only worker of a slot is the one that it should have."""
        group = self.group
        return worker.release == group.current and not worker.stale and not worker.quiet and group.roll is None

    def may_blame_loader(self, worker: Worker) -> bool:
        """Whether the loader that is there now is the one that was given this order; once a pass is enough."""
        release = self.group.releases.get(worker.release)
        known = release is not None and release.loader == Loader.READY and worker.ordered >= release.since
        return known and worker.release not in self.blamed

    def slot(self, slot: Slot) -> Iterator[actions.Action]:
        """What is to be done for this slot, as far as there is room for it."""
        if slot.held:
            return
        wanted, staying = target(self.group, slot), slot.staying
        fresh = _fresh(staying, (wanted, self.group.current))
        others = [worker for worker in staying if worker not in fresh]
        if others and self._is_superfluous(slot, others):
            yield from self._retire(slot, others)
        elif others and not fresh and self.group.releases[wanted].lost:
            return
        elif others and not fresh:
            yield from self._replace(slot, wanted, others)
        elif others:
            yield from self._take_over(slot, fresh[0], others)
        elif not fresh and not self._is_clearing(slot):
            yield from self._spawn(slot, wanted)
        elif fresh and self._is_uncovered(slot, fresh[0]):
            self._second -= 1
            yield from self._spawn(slot, self.group.current)

    # -- replacing

    def _replace(self, slot: Slot, wanted: int, others: list[Worker]) -> Iterator[actions.Action]:
        """The successor first if there is room for it, else the old one ends first if the group may miss it."""
        self._count()
        if self._is_hard():
            yield from self._retire(slot, [worker for worker in others if worker.release != wanted], hasty=True)
        elif not slot.serves and not self._is_canary(slot):
            yield from self._retire(slot, others)
        elif self._second > 0:
            for spawn in self._spawn(slot, wanted):
                self._second -= 1
                yield spawn
        elif self._may_miss(slot) and self._drains > 0 and self.group.releases[wanted].loaded:
            self._none -= slot.serves
            yield from self._retire(slot, others)

    def _take_over(self, slot: Slot, fresh: Worker, others: list[Worker]) -> Iterator[actions.Action]:
        """The others go when the worker is ready, and if it is the first of its release, when it has been so for long
        enough."""
        trial = self._is_canary(slot)
        if has_proven(self.group, fresh, self.watch) if trial else fresh.phase == Phase.READY:
            yield from self._retire(slot, others)

    def _retire(self, slot: Slot, workers: list[Worker], *, hasty: bool = False) -> Iterator[actions.Action]:
        self._count()
        for worker in workers:
            if worker.phase == Phase.READY and not hasty:
                if self._drains <= 0:
                    return
                self._drains -= 1
            why = worker.stale or f"release {target(self.group, slot)} takes its place"
            yield actions.Retire(worker.id, why, hasty)

    def _is_superfluous(self, slot: Slot, others: list[Worker]) -> bool:
        """Whether nothing will follow these: the slot's work is done, or it has failed and they are of a release that
        is not to stay."""
        if self._on_trial(self.group.releases[target(self.group, slot)]):
            return self._is_finished(slot)
        foreign = all(worker.release != self.group.current for worker in others)
        return slot.done or (bool(slot.failed) and foreign)

    def _may_miss(self, slot: Slot) -> bool:
        """Whether the group can do without a worker in this slot; the canary's old one stays if there is a surge."""
        if self._is_canary(slot) and self.group.settings.max_surge:
            return False
        return self._none > 0 or not slot.serves

    def _is_finished(self, slot: Slot) -> bool:
        """Whether the release on trial has done this slot's work to its end already."""
        return self.group.roll is not None and finished(slot, self.group.roll)

    def _is_clearing(self, slot: Slot) -> bool:
        """Whether an old one has to be gone before its successor starts: it may hold a port that that needs."""
        ending = [w.ending for w in slot.workers if w.ending is not None and w.ending.cause == Cause.PLANNED]
        return any(end.hasty or not self.group.settings.max_surge for end in ending)

    def _is_canary(self, slot: Slot) -> bool:
        roll = self.group.roll
        return roll is not None and roll.stage == Stage.CANARY and slot.name == roll.canary

    def _is_hard(self) -> bool:
        roll = self.group.roll
        return roll is not None and roll.wanted.hard and roll.stage == Stage.ROLLING

    def _is_uncovered(self, slot: Slot, fresh: Worker) -> bool:
        """Whether the canary is alone in its slot: until it has passed, the old release serves there as well."""
        if not self._is_canary(slot) or slot.done or fresh.release == self.group.current:
            return False
        self._count()
        return self._second > 0

    def _count(self) -> None:
        """How much room there is; counted once a pass, and only if somebody asks. Outside of a roll, what is recycled
        gets its successor first wherever there may be one."""
        if self._counted:
            return
        self._counted = True
        group, slots, settings = self.group, self.group.eligible(), self.group.settings
        second, none = settings.max_surge, settings.max_unavailable
        if group.roll is None:
            at_once = max(RECYCLED_LEAST, group.count // RECYCLED_SHARE)
            second, none = (at_once, 0) if settings.max_surge else (0, min(none, at_once))
        self._second = second - sum(1 for slot in slots if len(slot.staying) > 1)
        self._none = none - sum(1 for slot in slots if not (slot.serves or slot.done or slot.failed))
        draining = sum(1 for slot in group.slots.values() for worker in slot.workers if _drains(worker))
        self._drains = max(DRAINING_LEAST, group.count // DRAINING_SHARE) - draining

    # -- starting

    def _spawn(self, slot: Slot, number: int) -> Iterator[actions.Action]:
        """A process for this slot, if it may have one now. What a release on trial does is the roll's affair: neither
        back-off nor breaker, which speak of the release before it, hold it up."""
        group = self.group
        release = group.releases[number]
        trial = self._on_trial(release)
        if number in self.blamed or not release.loaded or (self._is_finished(slot) if trial else not self._may(slot)):
            return
        if group.breaker.open_since is not None and not trial:
            if self.probing:
                return
            self.probing = True
        quiet = tries_quietly(group, slot, release)
        yield actions.Spawn(next(self.numbers), group.name, slot.name, number, release.forks, quiet)

    def _on_trial(self, release: Release) -> bool:
        roll = self.group.roll
        return roll is not None and roll.new == release.number and roll.stage != Stage.ABORTING and not roll.fault

    def _may(self, slot: Slot) -> bool:
        return not slot.failed and not slot.done and self.watch.due(slot.next_try)


def _fresh(staying: list[Worker], releases: tuple[int, int]) -> list[Worker]:
    """The worker that is to stay. Of two that are both outdated one takes over first, and is replaced after: one of
    the wanted release, else of the current one, else the newer."""
    fresh = [worker for worker in staying if worker.release == releases[0] and not worker.stale]
    if fresh or len(staying) < 2:
        return fresh
    known = [worker for release in releases for worker in reversed(staying) if worker.release == release]
    return [(known or staying[-1:])[0]]


def in_turn(slots: list[Slot]) -> list[Slot]:
    """The order in which slots get what there is little of: those without a worn worker, then the fattest first, and
    at last those that are to go, which do not ask."""
    return sorted(slots, key=_weight)


def _weight(slot: Slot) -> tuple[bool, bool, int]:
    worn = [worker.pulse.pss if worker.pulse else 0 for worker in slot.staying if worker.stale]
    return slot.retired, bool(worn), -max(worn, default=0)


def _drains(worker: Worker) -> bool:
    return worker.ending is not None and worker.ending.cause == Cause.PLANNED and worker.phase != Phase.STARTING


def _is_probing(group: Group, now: float) -> bool:
    """Whether some slot tries already: it is starting, or ready but not yet for long enough."""
    return any(
        worker.phase == Phase.STARTING or _on_probation(group, worker, now)
        for slot in group.slots.values()
        for worker in slot.staying
    )


def _on_probation(group: Group, worker: Worker, now: float) -> bool:
    opened = group.breaker.open_since or 0.0
    return worker.ordered >= opened and now - worker.ready_at < group.settings.min_ready
