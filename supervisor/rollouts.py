"""What changes a roll: requests, stages, deaths on the way, its end. The rows behind `rolls`. Pure."""

from msgspec.structs import replace

from . import actions, backoff, events
from .cluster import Breaker, Cause, Cluster, Exit, Group, Loader, Outcome, Release, Roll, Slot, Stage, Wanted, Worker
from .death import CHARGED
from .fact import signal_name, span
from .facts import ReleaseLost, RollAborted, RollDone, RolledBack, RollMoved, RollStarted
from .founding import made, origin_of
from .rolls import finished, moved, on_trial, probation
from .rows import forgiven, told, with_group

NOT_MOVED = (Stage.LOADING, Stage.CANARY)


def asked(cluster: Cluster, event: events.RollAsked, now: float) -> Cluster:
    """A request: it begins, takes the place of one that has moved nothing yet, or waits; the newest wins."""
    group = cluster.groups.get(event.group)
    if group is None or cluster.closing is not None:
        return cluster
    ticket = group.asked + 1
    wanted = Wanted(event.why, ticket, event.origin, event.release, event.hard, event.quick)
    group = replace(group, asked=ticket)
    if group.roll is None or group.roll.stage in NOT_MOVED:
        return _begun(cluster, replace(group, queued=None), wanted, now)
    return with_group(cluster, replace(group, queued=wanted))


def called_off(cluster: Cluster, event: events.RollCalledOff, now: float) -> Cluster:
    """Somebody wants the roll that is under way taken back; nothing is to follow it."""
    group = cluster.groups.get(event.group)
    if group is None or group.roll is None:
        return cluster
    return with_group(cluster, replace(faulty(group, event.why), queued=None))


def _begun(cluster: Cluster, group: Group, wanted: Wanted, now: float) -> Cluster:
    known = group.releases.get(wanted.release)
    if wanted.release and (known is None or not known.loaded):
        return _refused(cluster, group, wanted, f"release {wanted.release} is no longer loaded")
    number = wanted.release or group.newest + 1
    if number not in group.releases:
        releases = {**group.releases, number: made(number, wanted.origin)}
        group = replace(group, releases=releases, newest=number)
    roll = Roll(number, group.current, wanted, now, stage_at=now)
    fact = RollStarted(group=group.name, release=number, old=group.current, why=wanted.why)
    return told(with_group(cluster, replace(group, roll=roll, heir=0)), fact)


def inherited(cluster: Cluster, action: actions.BeginRoll, now: float) -> Cluster:
    """Onto the code that is there, since the release before cannot be had again. Nobody asked, so nobody waits."""
    group = cluster.groups[action.group]
    wanted = Wanted(action.why, group.asked, origin_of(group.releases[group.heir]), group.heir)
    return _begun(cluster, group, wanted, now)


def _refused(cluster: Cluster, group: Group, wanted: Wanted, why: str) -> Cluster:
    """A roll that ends before it begins."""
    number, current = wanted.release, group.current
    serving = _serving(group, number)
    outcome = Outcome(False, wanted.ticket, number, current, Stage.LOADING, 0.0, why, serving=serving)
    fact = RollAborted(
        group=group.name, release=number, old=current, stage=str(Stage.LOADING), reason=why, serving=serving
    )
    return told(with_group(cluster, replace(group, outcome=outcome)), fact)


def advanced(cluster: Cluster, action: actions.AdvanceRoll, now: float) -> Cluster:
    """The next stage. When the canary has passed, the new release is the one to have, and the past is forgiven."""
    group = cluster.groups[action.group]
    assert group.roll is not None
    before = group.roll.stage
    roll = replace(group.roll, stage=action.stage, stage_at=now, canary=action.canary)
    group = replace(group, roll=roll)
    if action.stage == Stage.ROLLING and before in NOT_MOVED:
        slots = {name: _forgiven(slot, roll) for name, slot in group.slots.items()}
        group = replace(group, current=roll.new, slots=slots, breaker=Breaker())
    fact = RollMoved(
        group=group.name,
        release=roll.new,
        stage=str(action.stage),
        moved=moved(group) if action.stage in (Stage.ROLLING, Stage.SETTLING) else 0,
        count=len(group.eligible()),
        slot=action.canary,
        watched=probation(group),
    )
    return told(with_group(cluster, group), fact)


def _forgiven(slot: Slot, roll: Roll) -> Slot:
    """What the old release did is no reason to wait with the new one."""
    return slot if finished(slot, roll) else forgiven(slot)


def aborted(cluster: Cluster, action: actions.AbortRoll, now: float) -> Cluster:
    """The way back begins."""
    group = cluster.groups[action.group]
    assert group.roll is not None
    roll = replace(group.roll, stage=Stage.ABORTING, stage_at=now, failed_in=group.roll.stage, fault=action.why)
    slots = {name: replace(slot, done=slot.done and not finished(slot, roll)) for name, slot in group.slots.items()}
    fact = RollAborted(
        group=group.name,
        release=roll.new,
        old=roll.old,
        stage=str(roll.failed_in),
        reason=roll.fault,
        slot=roll.culprit,
        trace=roll.trace,
        serving=_serving(group, roll.new),
    )
    return told(with_group(cluster, replace(group, current=roll.old, roll=roll, slots=slots)), fact)


def finished_roll(cluster: Cluster, action: actions.FinishRoll, now: float) -> Cluster:
    """Over; what waits begins."""
    group = cluster.groups[action.group]
    assert group.roll is not None
    roll, done = group.roll, group.roll.stage != Stage.ABORTING
    group = replace(_ended(group, done=done, now=now), rolled_at=now if done else group.rolled_at)
    group = group if done else _patient(group, now)
    cluster = with_group(cluster, group)
    if not done:
        cluster = told(cluster, RolledBack(group=group.name, release=roll.old))
    else:
        left = group.outcome.left if group.outcome else ()
        fact = RollDone(
            group=group.name,
            release=roll.new,
            old=roll.old,
            workers=sum(1 for slot in group.eligible() if slot.serves),
            seconds=round(now - roll.began, 3),
            left=list(left),
        )
        cluster = told(cluster, fact)
    if group.queued is None:
        return cluster
    return _begun(cluster, replace(group, queued=None), group.queued, now)


def without_rolls(cluster: Cluster, why: str, now: float) -> Cluster:
    """Whoever waits for a roll is told that it will not come to its end."""
    groups = {name: ended_by_stop(group, f"the cluster stops: {why}", now) for name, group in cluster.groups.items()}
    return replace(cluster, groups=groups)


def ended_by_stop(group: Group, why: str, now: float) -> Group:
    """The group is to end altogether: there is nothing left to roll."""
    if group.roll is None:
        return group
    return _ended(replace(faulty(group, why), queued=None), done=False, now=now)


def _ended(group: Group, *, done: bool, now: float) -> Group:
    roll = group.roll
    assert roll is not None
    ticket = roll.wanted.ticket if group.queued is not None else group.asked
    held = [slot for slot in group.slots.values() if slot.held and any(w.release != roll.new for w in slot.staying)]
    outcome = Outcome(
        done=done,
        ticket=ticket,
        release=roll.new,
        old=roll.old,
        stage=roll.failed_in if roll.stage == Stage.ABORTING else roll.stage,
        took=now - roll.began,
        reason=roll.fault,
        trace=roll.trace,
        left=tuple(slot.name for slot in held) if done else (),
        serving=_serving(group, roll.new) if roll.stage == Stage.ABORTING else -1,
    )
    return replace(group, roll=None, outcome=outcome)


def _serving(group: Group, but: int) -> int:
    """The slots that do their work with another release than this one."""
    return sum(any(not w.quiet and w.ready_at and w.release != but for w in s.staying) for s in group.slots.values())


# -- what speaks against a new release


def faulty(group: Group, why: str, *, slot: str = "", trace: str = "") -> Group:
    """The group whose roll cannot go on; the first reason counts."""
    roll = group.roll
    if roll is None or roll.fault or roll.stage == Stage.ABORTING:
        return group
    return replace(group, roll=replace(roll, fault=why, culprit=slot, trace=trace))


def with_death(group: Group, worker: Worker, end: Exit) -> Group:
    """A charged death of a worker on trial ends its roll; the first kill from outside in a slot is forgiven."""
    roll = group.roll
    if roll is None or worker.ending is not None or not on_trial(group, worker):
        return group
    if end.cause == Cause.OUTSIDE and worker.slot not in roll.kills:
        return replace(group, roll=replace(roll, kills=(*roll.kills, worker.slot)))
    if end.cause in CHARGED or end.cause == Cause.OUTSIDE:
        return faulty(group, _how(worker, end), slot=worker.slot)
    return group


def with_hang(group: Group, worker: Worker, cause: Cause) -> Group:
    """A worker on trial hangs, or does not come up in time."""
    reason = f": {worker.boot_error}" if worker.boot_error else ""
    what = "was not ready in time" if cause == Cause.BOOT else "hung"
    return faulty(group, f"{worker.slot} {what}{reason}", slot=worker.slot)


def without_loader(group: Group, release: int, why: str, trace: str = "") -> Group:
    """A zygote is gone or never came up: without it, its release is not to be had."""
    roll = group.roll
    return faulty(group, why, trace=trace) if roll is not None and roll.new == release else group


# -- releases that cannot be loaded again


def is_edited(group: Group, release: Release, prints: str) -> bool:
    """Whether a loader that has come up again has imported other files than the release was made of. What has not
    served yet is made of what is there."""
    served = release.number <= max(group.current, group.roll.old if group.roll is not None else 0)
    return served and bool(release.prints and prints) and prints != release.prints


def lost(cluster: Cluster, event: events.LoaderReady, now: float) -> Cluster:
    """This release cannot be had again: its loader goes, and what it has imported becomes a release of its own."""
    group = cluster.groups[event.group]
    release, why = group.releases[event.release], event.edits or "its files were edited since"
    gone = replace(release, loader=Loader.FAILED, why=why, lost=why, since=now, next_try=now)
    group = replace(group, releases={**group.releases, gone.number: gone})
    serving = gone.number == group.current
    if serving and group.roll is None:
        heir = group.newest + 1
        releases = {**group.releases, heir: made(heir, origin_of(gone))}
        group = replace(group, releases=releases, newest=heir, heir=heir)
    cluster = with_group(cluster, group)
    if release.lost:
        return cluster
    return told(cluster, ReleaseLost(group=group.name, release=gone.number, why=why, serving=serving))


def _patient(group: Group, now: float) -> Group:
    """After a roll that was taken back, a release that is lost is looked at again, less and less often."""
    release = group.release
    if not release.lost:
        return group
    failures = release.failures + 1
    release = replace(release, failures=failures, next_try=now + backoff.delay(failures + 1, 1.0))
    return replace(group, releases={**group.releases, release.number: release})


def _how(worker: Worker, end: Exit) -> str:
    when = f"{span(end.uptime)} after it was ready" if worker.ready_at else "before it was ready"
    if end.cause == Cause.OUTSIDE:
        return f"{worker.slot} was killed from outside twice"
    status = "" if end.code is None else f"exit code {end.code}" if end.code >= 0 else signal_name(-end.code)
    code = f" ({status})" if status else ""
    reason = f": {end.reason}" if end.reason else ""
    verb = "ran out of memory" if end.cause == Cause.OOM else "ended"
    return f"{worker.slot} {verb}{code} {when}{reason}"
