"""`apply(cluster, event, now) -> cluster`: what happened becomes state. Pure; no clock, no process.

Rule 1: nothing but this module and those it calls makes new rows. Rule 2: every change that people want to know of adds
a fact to `cluster.news`, and nothing else does.
"""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from . import applied_actions, dispatcher, events, exits, facts, heartbeat, ownwords, recycling, rollouts
from .cluster import (
    Cause,
    Closing,
    Cluster,
    Ending,
    Group,
    Loader,
    Phase,
    Release,
    Slot,
    Step,
    Worker,
)
from .facts import (
    PreloadOff,
    ReleaseDropped,
    ReleaseFailed,
    ReleaseLoaded,
    Scaled,
    SlotHeld,
    SlotReset,
    SlotUnheld,
    StopAsked,
    Survivor,
    WorkerReady,
    WorkerStarted,
)
from .founding import founded_group
from .resizing import left, resized
from .rows import find, forgiven, told, with_group, with_release, with_slot, with_worker

HEARING = 1.0
GREETING = 2.5
LOADER_CALM = 60.0


def apply(cluster: Cluster, event: events.Event, now: float) -> Cluster:
    """The cluster after the event; events about workers that are gone change nothing."""
    return _HANDLERS[type(event)](cluster, event, now)


def _spawned(cluster: Cluster, event: events.Spawned, now: float) -> Cluster:
    place = find(cluster, event.worker)
    if place is None:
        return cluster
    worker = replace(place.worker, pid=event.pid, start=event.start)
    cluster = with_worker(cluster, place, worker)
    return told(cluster, WorkerStarted(slot=worker.slot, pid=event.pid, release=worker.release))


def _became_ready(cluster: Cluster, event: events.BecameReady, now: float) -> Cluster:
    place = find(cluster, event.worker)
    if place is None or place.worker.phase != Phase.STARTING:
        return cluster
    worker = replace(place.worker, phase=Phase.READY, ready_at=now, progress=now, watched=event.watched)
    cluster = with_worker(cluster, place, worker)
    cluster = with_group(cluster, replace(cluster.groups[place.group.name], proven=True))
    seconds = round(now - worker.ordered, 3)
    return told(cluster, WorkerReady(slot=worker.slot, pid=worker.pid, release=worker.release, seconds=seconds))


def _boot_failed(cluster: Cluster, event: events.BootFailed, now: float) -> Cluster:
    place = find(cluster, event.worker)
    if place is None:
        return cluster
    return with_worker(cluster, place, replace(place.worker, boot_error=event.reason))


def _terminated(cluster: Cluster, event: events.Terminated, now: float) -> Cluster:
    place = find(cluster, event.worker)
    return cluster if place is None else with_worker(cluster, place, replace(place.worker, termed=True))


def _observed(cluster: Cluster, event: events.Observed, now: float) -> Cluster:
    place = find(cluster, event.worker)
    if place is None:
        return cluster
    return with_worker(cluster, place, exits.seen(place.worker, event.observation))


def _gathered(cluster: Cluster, event: events.Gathered, now: float) -> Cluster:
    place = find(cluster, event.worker)
    if place is None or place.worker.ending is None:
        return cluster
    return with_worker(cluster, place, replace(place.worker, ending=replace(place.worker.ending, gathered=True)))


def _signalled(cluster: Cluster, event: events.Signalled, now: float) -> Cluster:
    place = find(cluster, event.worker)
    if place is None:
        return cluster
    return with_worker(cluster, place, replace(place.worker, signalled=event.number))


def _swept(cluster: Cluster, event: events.Swept, now: float) -> Cluster:
    sweep = next((sweep for sweep in cluster.sweeps if sweep.worker == event.worker), None)
    if sweep is None:
        return cluster
    cluster = replace(cluster, sweeps=tuple(s for s in cluster.sweeps if s is not sweep))
    if cluster.closing is not None:
        killed = tuple(f"{sweep.slot} (pid {pid})" for pid in event.killed)
        survived = tuple(f"{sweep.slot} (pid {pid})" for pid in event.survivors)
        closing = cluster.closing
        closing = replace(closing, killed=closing.killed + killed, survived=closing.survived + survived)
        cluster = replace(cluster, closing=closing)
    for pid in event.survivors:
        cluster = told(cluster, Survivor(slot=sweep.slot, pid=pid))
    return cluster


# -- loaders


def _release(cluster: Cluster, group: str, number: int) -> Release | None:
    row = cluster.groups.get(group)
    return row.releases.get(number) if row else None


def _loader_spawned(cluster: Cluster, event: events.LoaderSpawned, now: float) -> Cluster:
    release = _release(cluster, event.group, event.release)
    return with_release(cluster, event.group, replace(release, pid=event.pid)) if release else cluster


def _loader_ready(cluster: Cluster, event: events.LoaderReady, now: float) -> Cluster:
    release = _release(cluster, event.group, event.release)
    if release is None:
        return cluster
    seconds = round(event.seconds, 3)
    fact = ReleaseLoaded(group=event.group, release=event.release, seconds=seconds)
    if event.unsafe and cluster.groups[event.group].settings.preload == "true":
        reason = f'preload = "true", but after the import there are {", ".join(event.unsafe)}'
        cluster = _loader_failed(cluster, events.LoaderFailed(event.group, event.release, reason), now)
        failed = cluster.groups[event.group].releases[event.release]
        return with_release(cluster, event.group, replace(failed, alive=True, pid=release.pid))
    if rollouts.is_edited(cluster.groups[event.group], release, event.prints):
        return rollouts.lost(cluster, event, now)
    loader = Loader.UNSAFE if event.unsafe else Loader.READY
    why, prints = ", ".join(event.unsafe), event.prints or release.prints
    release = replace(release, loader=loader, why=why, since=now, prints=prints, lost="")
    cluster = with_release(cluster, event.group, release)
    cluster = told(cluster, fact)
    return told(cluster, PreloadOff(group=event.group, why=why)) if event.unsafe else cluster


def _loader_failed(cluster: Cluster, event: events.LoaderFailed, now: float) -> Cluster:
    release = _release(cluster, event.group, event.release)
    if release is None:
        return cluster
    failures = release.failures + 1
    next_try = now + exits.loader_delay(failures, event.chance)
    release = replace(
        release,
        loader=Loader.FAILED,
        why=event.reason,
        failures=failures,
        next_try=next_try,
        alive=False,
        pid=0,
        since=now,
    )
    cluster = _without_loader(with_release(cluster, event.group, release), event, event.trace)
    fact = ReleaseFailed(group=event.group, release=event.release, reason=event.reason, trace=event.trace)
    return told(cluster, fact)


def _loader_gone(cluster: Cluster, event: events.LoaderGone, now: float) -> Cluster:
    release = _release(cluster, event.group, event.release)
    if release is None or release.loader not in (Loader.LOADING, Loader.READY):
        return cluster
    failures = release.failures + 1 if now - release.since < LOADER_CALM else 1
    next_try = now + (exits.loader_delay(failures, event.chance) if failures > 1 else 0.0)
    gone = replace(
        release,
        loader=Loader.ABSENT,
        alive=False,
        pid=0,
        why=event.reason,
        failures=failures,
        next_try=next_try,
        since=now,
    )
    fact = ReleaseDropped(group=event.group, release=event.release, why=event.reason)
    return told(_without_loader(with_release(cluster, event.group, gone), event), fact)


def _without_loader(cluster: Cluster, event: events.LoaderFailed | events.LoaderGone, trace: str = "") -> Cluster:
    group = cluster.groups[event.group]
    return with_group(cluster, rollouts.without_loader(group, event.release, event.reason, trace))


# -- operators


def _scaled(cluster: Cluster, event: events.Scaled, now: float) -> Cluster:
    group = cluster.groups.get(event.group)
    if group is None or group.leaving:
        return cluster
    after = resized(group, event.count)
    cluster = with_group(cluster, recycling.thinned(after) if event.count < group.count else after)
    return told(cluster, Scaled(group=group.name, old=group.count, new=event.count))


def _reconfigured(cluster: Cluster, event: events.Reconfigured, now: float) -> Cluster:
    """What a process was started with stays its release's affair; a roll brings it up to date."""
    for name in cluster.groups:
        if name in event.makes_way:
            cluster = with_group(cluster, replace(cluster.groups[name], makes_way=event.makes_way[name]))
        elif name not in event.groups and name != dispatcher.NAME:  # that goes when nobody needs it
            cluster = left(cluster, cluster.groups[name], now)
    for name, settings in event.groups.items():
        group = cluster.groups.get(name)
        if group is None:
            cluster = with_group(cluster, replace(founded_group(settings, event.origins.get(name)), late=True))
            cluster = told(cluster, facts.GroupAdded(group=name, count=settings.count))
        else:
            cluster = with_group(cluster, replace(group, settings=settings, makes_way=()))
            if group.settings.max_memory != settings.max_memory:
                cluster = recycling.rejudged(cluster, cluster.groups[name])
            if group.count != settings.count:
                cluster = _scaled(cluster, events.Scaled(name, settings.count), now)
    return replace(cluster, ping=event.ping, exit_when_failed=event.exit_when_failed, judged_from=now)


def _replaced(cluster: Cluster, event: events.Replaced, now: float) -> Cluster:
    group = cluster.groups.get(event.slot.rpartition(".")[0])
    slot = group.slots.get(event.slot) if group else None
    if group is None or slot is None:
        return cluster
    why = "an operator wants a fresh one"
    ending = Ending(Cause.PLANNED, why, now, step_at=now, hasty=True) if event.hard else None
    slot = forgiven(slot) if slot.done else slot
    workers = tuple(
        worker if worker.ending is not None else replace(worker, stale=why, ending=ending) for worker in slot.workers
    )
    return with_slot(cluster, group, replace(slot, workers=workers))


def _held(cluster: Cluster, event: events.Held, now: float) -> Cluster:
    group = cluster.groups.get(event.slot.rpartition(".")[0])
    slot = group.slots.get(event.slot) if group else None
    if group is None or slot is None:
        return cluster
    workers = tuple(
        replace(worker, trouble=None, tripped=None, progress=max(worker.progress, now)) for worker in slot.workers
    )
    cluster = with_slot(cluster, group, replace(slot, held=event.held, workers=workers))
    return told(cluster, SlotHeld(slot=slot.name) if event.held else SlotUnheld(slot=slot.name))


def _cleared(cluster: Cluster, event: events.Cleared, now: float) -> Cluster:
    meant = {g.name: [slot for slot in g.slots if event.name in (g.name, slot)] for g in cluster.groups.values()}
    if not any(meant.values()):
        return cluster
    for name, slots in meant.items():
        if slots:
            cluster = _clear_group(cluster, cluster.groups[name], slots, now)
    return told(cluster, SlotReset(name=event.name))


def _clear_group(cluster: Cluster, group: Group, names: list[str], now: float) -> Cluster:
    slots = {name: forgiven(slot) if name in names else slot for name, slot in group.slots.items()}
    release = group.release
    releases = {**group.releases, release.number: replace(release, failures=0, next_try=now)}
    breaker = replace(group.breaker, open_since=None, deaths=())
    return with_group(cluster, replace(group, slots=slots, releases=releases, breaker=breaker))


def _stop_asked(cluster: Cluster, event: events.StopAsked, now: float) -> Cluster:
    closing = cluster.closing
    if closing is not None:
        hasty, code = closing.hasty or event.hasty, closing.code or event.code
        return replace(cluster, closing=replace(closing, hasty=hasty, code=code))
    cluster = rollouts.without_rolls(cluster, event.why, now)
    cluster = replace(cluster, closing=Closing(event.why, now, event.code, event.hasty))
    return told(cluster, StopAsked(why=event.why))


def _overslept(cluster: Cluster, event: events.Overslept, now: float) -> Cluster:
    return told(_postponed(cluster, event.seconds, now), facts.Overslept(seconds=round(event.seconds, 3)))


def _postponed(cluster: Cluster, seconds: float, now: float) -> Cluster:
    """Every deadline that was running moves by the time that nobody could keep it in, and HEARING more: the one that
    was to wake the master must not pass in this very pass. Nobody is judged for silence."""

    def later(at: float) -> float:
        return min(at + seconds + HEARING, now)

    for group in list(cluster.groups.values()):
        slots = {name: _later(slot, later) for name, slot in group.slots.items()}
        releases = {n: replace(release, since=later(release.since)) for n, release in group.releases.items()}
        roll = group.roll and replace(group.roll, stage_at=later(group.roll.stage_at))
        cluster = with_group(cluster, replace(group, slots=slots, releases=releases, roll=roll))
    return replace(cluster, judged_from=now)


def _later(slot: Slot, later: Callable[[float], float]) -> Slot:
    return replace(slot, workers=tuple(_worker_later(worker, later) for worker in slot.workers))


def _worker_later(worker: Worker, later: Callable[[float], float]) -> Worker:
    ending = worker.ending
    if ending is not None:
        ending = replace(ending, since=later(ending.since), step_at=later(ending.step_at))
    ordered = later(worker.ordered) if worker.phase == Phase.STARTING else worker.ordered
    return replace(worker, ordered=ordered, ending=ending)


def _adopted(cluster: Cluster, event: events.Adopted, now: float) -> Cluster:
    """Searches and kills that were under way died with the old master. Nobody is blamed for its absence."""
    sweeps = tuple(replace(sweep, taken=False) for sweep in cluster.sweeps)
    cluster = replace(_postponed(cluster, event.seconds, now), sweeps=sweeps, greeted=now + GREETING)
    for _, _, worker in list(cluster.workers()):
        place = find(cluster, worker.id)
        if place is None:
            continue
        ending = worker.ending
        if ending is not None and ending.step == Step.KILLED:
            worker = replace(worker, ending=replace(ending, step=Step.TERMED, killed=True))
        cluster = with_worker(cluster, place, replace(worker, trouble=None))
    return cluster


def _news_told(cluster: Cluster, event: events.NewsTold, now: float) -> Cluster:
    return replace(cluster, news=())


def _taken(cluster: Cluster, event: events.Taken, now: float) -> Cluster:
    return applied_actions.taken(cluster, event.action, now)


_HANDLERS: dict[type[events.Event], Callable[[Cluster, Any, float], Cluster]] = {
    events.Taken: _taken,
    events.Spawned: _spawned,
    events.SpawnFailed: exits.spawn_failed,
    events.BecameReady: _became_ready,
    events.BootFailed: _boot_failed,
    events.Terminated: _terminated,
    events.Pinged: heartbeat.pinged,
    events.Extended: ownwords.extended,
    events.Tripped: ownwords.tripped,
    events.Observed: _observed,
    events.Gathered: _gathered,
    events.Signalled: _signalled,
    events.Exited: exits.exited,
    events.Swept: _swept,
    events.LoaderSpawned: _loader_spawned,
    events.LoaderReady: _loader_ready,
    events.LoaderFailed: _loader_failed,
    events.LoaderGone: _loader_gone,
    events.Scaled: _scaled,
    events.Held: _held,
    events.Cleared: _cleared,
    events.Replaced: _replaced,
    events.RollAsked: rollouts.asked,
    events.RollCalledOff: rollouts.called_off,
    events.Reconfigured: _reconfigured,
    events.StopAsked: _stop_asked,
    events.Overslept: _overslept,
    events.Adopted: _adopted,
    events.NewsTold: _news_told,
}
