"""Rolls: which release a slot should have, and when a roll goes on, is taken back, or is over. Pure."""

from collections.abc import Iterator

from . import actions
from .cluster import Group, Loader, Phase, Release, Roll, Slot, Stage, Worker
from .watch import Watch

DEAD_WEIGHT = frozenset({Loader.UNSAFE, Loader.FAILED})
BEATS, FASTEST = 5, 0.1  # heartbeats in the time that a worker is watched; seconds between them at least
SILENCE, SHORTEST_SILENCE = 2.5, 0.3  # heartbeats, and seconds, that one who is well may be silent
HELD = "every slot is held"
QUIET = 0.8  # of the time that a canary is watched, the part without work
TAKING_BACK = 30.0  # seconds beyond its own limits that a way back may take before the roll counts as over


def target(group: Group, slot: Slot) -> int:
    """The release that this slot's worker should have."""
    roll = group.roll
    if roll is not None and roll.stage == Stage.CANARY and slot.name == roll.canary:
        return roll.new
    return group.current


def on_trial(group: Group, worker: Worker) -> bool:
    """Whether the worker's death is the roll's fault and not its slot's."""
    roll = group.roll
    return roll is not None and worker.release == roll.new and roll.stage != Stage.ABORTING


def probation(group: Group) -> float:
    """Seconds that a worker of a new release has to stay ready."""
    roll = group.roll
    return 0.0 if roll is not None and roll.wanted.quick else group.settings.min_ready


def tries_quietly(group: Group, slot: Slot, release: Release) -> bool:
    """Whether a worker of this release is to be watched without work first. What dies of itself then costs nobody a
    request; what dies of its work does so while all others are still the old ones."""
    roll = group.roll
    first = roll is not None and roll.stage == Stage.CANARY and roll.canary == slot.name and roll.new == release.number
    web = release.settings.kind == "web" and group.settings.max_surge > 0
    alone = bool(group.release.lost) and not any(other.serves for other in group.slots.values())
    return first and web and probation(group) > 0 and not alone


def may_serve(group: Group, slot: Slot, worker: Worker, watch: Watch) -> bool:
    """Whether a quiet worker has been watched for long enough without work."""
    quiet = tries_quietly(group, slot, group.releases[worker.release])
    return not quiet or watch.due(worker.ready_at + QUIET * probation(group))


def pace(group: Group, period: float) -> float:
    """Seconds between the heartbeats of a group: while a release is on trial often enough to judge it in time."""
    if group.roll is None or not probation(group):
        return period
    return min(period, max(FASTEST, probation(group) / BEATS))


def has_proven(group: Group, worker: Worker, watch: Watch) -> bool:
    """Whether a worker has been ready for long enough, and its main loop has turned until about the end of that."""
    time = probation(group)
    if worker.phase != Phase.READY or not watch.due(worker.ready_at + time):
        return False
    beat = pace(group, time)
    silence = min(max(SILENCE * beat, SHORTEST_SILENCE), time / 2)
    if not worker.watched or worker.progress >= worker.ready_at + time - silence:
        return True
    watch.due(watch.now + max(beat, FASTEST))
    return False


def has_come(group: Group | None, watch: Watch) -> bool:
    """Whether a group that takes another's addresses over does its work; one that is gone is waited for no more."""
    if group is None:
        return True
    ready = [_is_well(group, slot, watch) for slot in group.slots.values()]
    return all(ready) and group.roll is None


def _is_well(group: Group, slot: Slot, watch: Watch) -> bool:
    since = [w.ready_at for w in slot.staying if w.phase == Phase.READY]
    return slot.done or slot.held or any(watch.due(at + group.settings.min_ready) for at in since)


def moved(group: Group) -> int:
    """How many slots have come onto the new release."""
    return sum(1 for slot in group.eligible() if _arrived(group, slot))


def progress(group: Group, watch: Watch) -> Iterator[actions.Action]:
    """The next stage of this group's roll, if it has come to it."""
    roll = group.roll
    if roll is None:
        yield from _inheriting(group, watch)
    elif roll.fault and roll.stage != Stage.ABORTING:
        yield actions.AbortRoll(group.name, roll.fault)
    else:
        yield from _STAGES[roll.stage](group, roll, watch)


def _inheriting(group: Group, watch: Watch) -> Iterator[actions.Action]:
    """What is lost is kept for as long as it lives; the first worker that is needed makes it a matter of the heir."""
    if not group.heir or group.leaving or not group.releases[group.heir].loaded:
        return
    slot = next((slot for slot in group.eligible() if _needs_worker(slot, watch)), None)
    if slot is not None:
        why = f"{slot.name} needs a worker, and release {group.current} is not restorable: {group.release.lost}"
        yield actions.BeginRoll(group.name, why)


def _needs_worker(slot: Slot, watch: Watch) -> bool:
    if slot.failed or slot.done or not watch.due(slot.next_try):
        return False
    return all(worker.stale for worker in slot.staying)


def _loading(group: Group, roll: Roll, watch: Watch) -> Iterator[actions.Action]:
    if not group.releases[roll.new].loaded and group.count:
        return
    proven = roll.new < roll.old or roll.wanted.hard or not group.count
    if not group.eligible() and group.count:
        yield actions.AbortRoll(group.name, HELD)
    elif proven:
        yield actions.AdvanceRoll(group.name, Stage.ROLLING)
    else:
        yield actions.AdvanceRoll(group.name, Stage.CANARY, first(group))


def _canary(group: Group, roll: Roll, watch: Watch) -> Iterator[actions.Action]:
    slot = group.slots.get(roll.canary)
    if slot is None or slot.retired or slot.held:
        yield from _another_canary(group)
    elif finished(slot, roll) or any(w.release == roll.new and has_proven(group, w, watch) for w in slot.staying):
        yield actions.AdvanceRoll(group.name, Stage.ROLLING)
    else:
        yield from _stalled(group, roll, [slot], watch)


def _stalled(group: Group, roll: Roll, slots: list[Slot], watch: Watch) -> Iterator[actions.Action]:
    """A worker may be ready and never prove itself; where `ping.kill` does not end it, the roll does not wait."""
    limit = probation(group) + group.settings.start_timeout
    for slot in slots:
        for worker in slot.staying:
            ready = worker.release == roll.new and worker.phase == Phase.READY
            since = max(worker.ready_at, roll.stage_at)
            if ready and watch.due(since + limit) and not has_proven(group, worker, watch):
                yield actions.AbortRoll(group.name, f"{slot.name} was ready and has made no progress since")
                return


def _another_canary(group: Group) -> Iterator[actions.Action]:
    if group.eligible():
        yield actions.AdvanceRoll(group.name, Stage.CANARY, first(group))
    elif group.count:
        yield actions.AbortRoll(group.name, HELD)
    else:
        yield actions.AdvanceRoll(group.name, Stage.ROLLING)


def _rolling(group: Group, roll: Roll, watch: Watch) -> Iterator[actions.Action]:
    if all(_arrived(group, slot) for slot in group.eligible()):
        yield actions.AdvanceRoll(group.name, Stage.SETTLING)


def _settling(group: Group, roll: Roll, watch: Watch) -> Iterator[actions.Action]:
    """Over when all have stayed healthy for long enough and the last old worker is gone, but those in held slots."""
    settled = [_arrived(group, slot) and _settled(group, slot, watch) for slot in group.eligible()]
    unheld = [slot for slot in group.slots.values() if not slot.held]
    if all(settled) and not any(worker.release != roll.new for slot in unheld for worker in slot.workers):
        yield actions.FinishRoll(group.name)
    elif not all(settled):
        yield from _stalled(group, roll, group.eligible(), watch)


def _aborting(group: Group, roll: Roll, watch: Watch) -> Iterator[actions.Action]:
    """Over when nothing is left of the new release; who cannot come back does not keep anybody waiting for ever, and
    where there is nothing to come back to, the new one serves on."""
    settings = group.settings
    limit = roll.stage_at + settings.start_timeout + settings.drain + settings.term + TAKING_BACK
    left = any(worker.release == roll.new for slot in group.eligible() for worker in slot.workers)
    if not left or group.release.lost or watch.due(limit):
        yield actions.FinishRoll(group.name)


_STAGES = {
    Stage.LOADING: _loading,
    Stage.CANARY: _canary,
    Stage.ROLLING: _rolling,
    Stage.SETTLING: _settling,
    Stage.ABORTING: _aborting,
}


def first(group: Group) -> str:
    """The slot that goes first: one that has nothing to lose, if there is one."""
    slots = group.eligible()
    down = [slot for slot in slots if not slot.serves and not slot.done]
    return next((slot.name for slot in (*down, *slots)), "")


def finished(slot: Slot, roll: Roll) -> bool:
    """Whether the slot's work was done to its end by the new release."""
    return slot.done and slot.done_by == roll.new


def _arrived(group: Group, slot: Slot) -> bool:
    roll, staying = group.roll, slot.staying
    if not staying:
        return roll is not None and finished(slot, roll)
    return all(worker.release == group.current and worker.phase == Phase.READY for worker in staying)


def _settled(group: Group, slot: Slot, watch: Watch) -> bool:
    return all(has_proven(group, worker, watch) for worker in slot.staying)


# -- releases


def wanted(group: Group) -> set[int]:
    """The releases that are to stay loaded: the current one, those of a roll, and the ones to roll back to."""
    roll = group.roll
    if roll is not None:
        return {number for number in group.releases if number <= roll.old or number == roll.new} - _failed(group, roll)
    return {group.current, *(release.number for release in in_reserve(group))}


def _failed(group: Group, roll: Roll) -> set[int]:
    """The new release, once it is clear that nothing more will be started from it."""
    return {roll.new} if roll.stage == Stage.ABORTING and roll.new > roll.old else set()


def kept(group: Group) -> list[int]:
    """The releases that a rollback can go to, the nearest first: loaded, and listening where the current one does."""
    return [release.number for release in _nearest(group) if release.loader == Loader.READY and not release.lost]


def in_reserve(group: Group) -> list[Release]:
    """The releases that are to be loaded without having a worker: those to roll back to, and the heir."""
    heir = [group.releases[group.heir]] if group.heir else []
    return [*heir, *(release for release in _nearest(group) if not release.lost)]


def is_given_up(group: Group, release: Release) -> bool:
    """Whether a release that is lost need not be looked at now: another one is on its way, or waits."""
    return bool(release.lost) and (group.roll is not None or group.heir > 0)


def _nearest(group: Group) -> list[Release]:
    """The releases before the current one that are remembered, the newest first."""
    before = [release for release in group.releases.values() if _is_remembered(group, release)]
    return sorted(before, key=lambda release: -release.number)[: group.settings.keep_releases]


def _is_remembered(group: Group, release: Release) -> bool:
    """Whether it was kept until its loader ended, and may be loaded again or is lost by then."""
    same = release.settings.bind == group.release.settings.bind
    again = release.prints and release.loader in (Loader.ABSENT, Loader.LOADING)
    return release.number < group.current and same and bool(release.loader == Loader.READY or again or release.lost)


def leftovers(group: Group) -> Iterator[actions.Action]:
    """Zygotes and releases that nobody needs any more."""
    stay = set() if group.leaving else wanted(group)
    used = {worker.release for slot in group.slots.values() for worker in slot.workers}
    remembered = [] if group.leaving else [release.number for release in _nearest(group)]
    for release in group.releases.values():
        if release.number in stay or (group.leaving and used):
            if release.alive and release.loader in DEAD_WEIGHT:
                yield actions.DropLoader(group.name, release.number, release.why)
        elif release.alive:
            yield actions.DropLoader(group.name, release.number, "it is no longer needed")
        elif release.number not in (*used, *remembered, group.current):
            yield actions.ForgetRelease(group.name, release.number)
    if group.leaving and not group.slots and not any(release.alive for release in group.releases.values()):
        yield actions.ForgetGroup(group.name)


def no_way_back(group: Group) -> str:
    """Why this group cannot be rolled back, "" when it can."""
    nearest = _nearest(group)
    if nearest and nearest[0].lost:
        return f"release {nearest[0].number} is not restorable: {nearest[0].lost}"
    if kept(group):
        return ""
    if nearest:
        return f"release {nearest[0].number} is being loaded again; try again in a moment"
    settings = group.release.settings
    if settings.kind == "command":
        return "programs are not kept loaded; change the configuration back and `bkd reload`"
    if not group.release.forks:
        return "its workers import the application themselves (preload is off), so no release is kept loaded"
    if not group.settings.keep_releases:
        return "keep_releases = 0, so no release is kept loaded"
    return f"no release before {group.current} is loaded (one that listened elsewhere is not kept)"
