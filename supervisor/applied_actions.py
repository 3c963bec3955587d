"""What an action changes in the moment the shell takes it: it will not be given twice. Pure."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from ..ipc.quantity import counted
from . import actions, exits, rollouts
from .cluster import (
    Cause,
    Closing,
    Cluster,
    Ending,
    Loader,
    Observation,
    Phase,
    Release,
    Step,
    Trouble,
    Verdict,
    Worker,
)
from .facts import (
    BreakerClosed,
    BreakerOpened,
    ReleaseDropped,
    ReleaseFailed,
    ReleaseLoading,
    StopAsked,
    Survivor,
    WorkerHung,
    WorkerKilled,
    WorkerLate,
    WorkerRetired,
    WorkerWorn,
)
from .resizing import left
from .rows import Place, find, told, with_group, with_release, with_slot, with_worker, without_worker


def taken(cluster: Cluster, action: actions.Action, now: float) -> Cluster:
    """The cluster after the shell took this action."""
    return _CHANGES[type(action)](cluster, action, now)


def _load_release(cluster: Cluster, action: actions.LoadRelease, now: float) -> Cluster:
    group = cluster.groups[action.group]
    release = replace(group.releases[action.release], loader=Loader.LOADING, since=now, why="", alive=True, pid=0)
    cluster = with_group(cluster, replace(group, releases={**group.releases, action.release: release}))
    return told(cluster, ReleaseLoading(group=action.group, release=action.release))


def _drop_loader(cluster: Cluster, action: actions.DropLoader, now: float) -> Cluster:
    group = cluster.groups[action.group]
    release = group.releases[action.release]
    if action.hung and release.loader == Loader.LOADING:
        return _load_timed_out(cluster, release, action, now)
    served = release.loader in (Loader.LOADING, Loader.READY)
    prints = release.prints if action.hung else ""  # what nobody needs does not come back
    dropped = replace(release, loader=Loader.ABSENT, why=action.why, next_try=now, prints=prints) if served else release
    releases = {**group.releases, action.release: replace(dropped, alive=False, pid=0)}
    group = rollouts.without_loader(group, action.release, action.why) if served else group
    cluster = with_group(cluster, replace(group, releases=releases))
    if cluster.closing is not None or not served:
        return cluster
    return told(cluster, ReleaseDropped(group=action.group, release=action.release, why=action.why))


def _load_timed_out(cluster: Cluster, release: Release, action: actions.DropLoader, now: float) -> Cluster:
    """An import that does not end is one that fails: it is tried again less and less often."""
    failures = release.failures + 1
    next_try = now + exits.loader_delay(failures, 0.5)
    failed = replace(release, loader=Loader.FAILED, why=action.why, failures=failures, next_try=next_try, since=now)
    cluster = with_release(cluster, action.group, replace(failed, alive=False, pid=0))
    cluster = with_group(cluster, rollouts.without_loader(cluster.groups[action.group], release.number, action.why))
    return told(cluster, ReleaseFailed(group=action.group, release=release.number, reason=action.why))


def _spawn(cluster: Cluster, action: actions.Spawn, now: float) -> Cluster:
    group = cluster.groups[action.group]
    slot = group.slots[action.slot]
    worker = Worker(action.worker, action.slot, action.release, ordered=now, progress=now, quiet=action.quiet)
    places = {**cluster.places, action.worker: action.slot}
    cluster = replace(cluster, next_worker=max(cluster.next_worker, action.worker + 1), places=places)
    return with_slot(cluster, group, replace(slot, workers=(*slot.workers, worker)))


def _admit(cluster: Cluster, action: actions.Admit, now: float) -> Cluster:
    place = find(cluster, action.worker)
    return cluster if place is None else with_worker(cluster, place, replace(place.worker, quiet=False))


def _observe(cluster: Cluster, action: actions.Observe, now: float) -> Cluster:
    place = find(cluster, action.worker)
    return cluster if place is None else with_worker(cluster, place, replace(place.worker, looked_at=now))


def _warn(cluster: Cluster, action: actions.Warn, now: float) -> Cluster:
    place = find(cluster, action.worker)
    if place is None:
        return cluster
    worker = place.worker
    nothing = Observation(now, "", 0.0, 0.0)
    trouble = replace(worker.trouble or Trouble(nothing, nothing), verdict=action.verdict, reported=True)
    cluster = with_worker(cluster, place, replace(worker, trouble=trouble))
    age = round(action.age, 3)
    return told(cluster, WorkerLate(slot=worker.slot, pid=worker.pid, verdict=str(action.verdict), age=age))


def _condemn(cluster: Cluster, action: actions.Condemn, now: float) -> Cluster:
    place = find(cluster, action.worker)
    if place is None:
        return cluster
    worker = place.worker
    cause = Cause.BOOT if action.verdict == Verdict.SLOW_BOOT else Cause.HUNG
    why = action.why or str(action.verdict)
    ending = Ending(cause, why, now, step_at=now, gathered=False, verdict=action.verdict)
    if cause == Cause.BOOT and not worker.boot_error:
        limit = place.group.settings.start_timeout
        worker = replace(worker, boot_error=f"it was not ready within start_timeout ({limit:g} s)")
    if action.why:
        worker = replace(worker, boot_error=action.why)
    else:
        cluster = exits.charged(cluster, place, cause, now)
    again = find(cluster, action.worker)
    assert again is not None
    cluster = with_worker(cluster, again, replace(worker, ending=ending))
    hung = WorkerHung(worker.slot, worker.pid, str(action.verdict), round(action.age, 3), action.why)
    return told(cluster, hung)


def _retire(cluster: Cluster, action: actions.Retire, now: float) -> Cluster:
    place = find(cluster, action.worker)
    if place is None:
        return cluster
    ending = Ending(Cause.PLANNED, action.why, now, step_at=now, hasty=action.hasty)
    cluster = with_worker(cluster, place, replace(place.worker, ending=ending))
    return told(cluster, WorkerRetired(slot=place.slot.name, pid=place.worker.pid, why=action.why))


def _wear(cluster: Cluster, action: actions.Wear, now: float) -> Cluster:
    place = find(cluster, action.worker)
    if place is None:
        return cluster
    cluster = with_worker(cluster, place, replace(place.worker, stale=action.why))
    return told(cluster, WorkerWorn(slot=place.slot.name, pid=place.worker.pid, why=action.why))


def _stepped(step: Step) -> Callable[[Cluster, Any, float], Cluster]:
    def change(cluster: Cluster, action: actions.Ask | actions.Terminate | actions.Kill, now: float) -> Cluster:
        place = find(cluster, action.worker)
        if place is None or place.worker.ending is None:
            return cluster
        ending = replace(place.worker.ending, step=step, step_at=now)
        phase = Phase.DRAINING if step == Step.ASKED else place.worker.phase
        cluster = with_worker(cluster, place, replace(place.worker, ending=ending, phase=phase))
        return _killed(cluster, place) if step == Step.KILLED else cluster

    return change


def _killed(cluster: Cluster, place: Place) -> Cluster:
    worker = place.worker
    end = worker.ending
    why, at_once = (end.why, end.hasty or end.step == Step.WANTED) if end else ("", False)
    return told(cluster, WorkerKilled(slot=worker.slot, pid=worker.pid, why=why, at_once=at_once))


def _give_up(cluster: Cluster, action: actions.GiveUp, now: float) -> Cluster:
    place = find(cluster, action.worker)
    if place is None:
        return cluster
    worker, closing = place.worker, cluster.closing
    if not worker.pid:
        return without_worker(cluster, place, place.slot)
    if closing is not None:
        survived = (*closing.survived, f"{worker.slot} (pid {worker.pid})")
        cluster = replace(cluster, closing=replace(closing, survived=survived))
    cluster = without_worker(cluster, place, place.slot)
    return told(cluster, Survivor(slot=worker.slot, pid=worker.pid))


def _sweep(cluster: Cluster, action: actions.Sweep, now: float) -> Cluster:
    sweeps = tuple(replace(s, taken=True) if s.worker == action.worker else s for s in cluster.sweeps)
    return replace(cluster, sweeps=sweeps)


def _open_breaker(cluster: Cluster, action: actions.OpenBreaker, now: float) -> Cluster:
    group = cluster.groups[action.group]
    cluster = with_group(cluster, replace(group, breaker=replace(group.breaker, open_since=now)))
    deaths = group.breaker.deaths
    slots = counted(len({slot for _, slot in deaths}), "slot")
    why = f"{counted(len(deaths), 'death')} in {slots} within a minute"
    return told(cluster, BreakerOpened(group=action.group, why=why))


def _close_breaker(cluster: Cluster, action: actions.CloseBreaker, now: float) -> Cluster:
    group = cluster.groups[action.group]
    cluster = with_group(cluster, replace(group, breaker=replace(group.breaker, open_since=None, deaths=())))
    return told(cluster, BreakerClosed(group=action.group, why="a probing slot stayed healthy"))


def _stop(cluster: Cluster, action: actions.Stop, now: float) -> Cluster:
    cluster = rollouts.without_rolls(cluster, action.why, now)
    cluster = replace(cluster, closing=Closing(action.why, now, action.code))
    return told(cluster, StopAsked(why=action.why))


def _forget_release(cluster: Cluster, action: actions.ForgetRelease, now: float) -> Cluster:
    group = cluster.groups[action.group]
    releases = {number: release for number, release in group.releases.items() if number != action.release}
    return with_group(cluster, replace(group, releases=releases))


def _make_way(cluster: Cluster, action: actions.MakeWay, now: float) -> Cluster:
    return left(cluster, cluster.groups[action.group], now)


def _forget_group(cluster: Cluster, action: actions.ForgetGroup, now: float) -> Cluster:
    return replace(cluster, groups={name: group for name, group in cluster.groups.items() if name != action.group})


def _leave(cluster: Cluster, action: actions.Leave, now: float) -> Cluster:
    closing = cluster.closing or Closing("", now)
    return replace(cluster, closing=replace(closing, left=True))


_CHANGES: dict[type[actions.Action], Callable[[Cluster, Any, float], Cluster]] = {
    actions.LoadRelease: _load_release,
    actions.DropLoader: _drop_loader,
    actions.Spawn: _spawn,
    actions.Admit: _admit,
    actions.Observe: _observe,
    actions.Warn: _warn,
    actions.Condemn: _condemn,
    actions.Retire: _retire,
    actions.Wear: _wear,
    actions.BeginRoll: rollouts.inherited,
    actions.AdvanceRoll: rollouts.advanced,
    actions.AbortRoll: rollouts.aborted,
    actions.FinishRoll: rollouts.finished_roll,
    actions.ForgetRelease: _forget_release,
    actions.MakeWay: _make_way,
    actions.ForgetGroup: _forget_group,
    actions.Ask: _stepped(Step.ASKED),
    actions.Terminate: _stepped(Step.TERMED),
    actions.Kill: _stepped(Step.KILLED),
    actions.GiveUp: _give_up,
    actions.Sweep: _sweep,
    actions.OpenBreaker: _open_breaker,
    actions.CloseBreaker: _close_breaker,
    actions.Stop: _stop,
    actions.Leave: _leave,
}
