"""The end of a worker: its cause, what it is charged, when the slot may try again. Pure; the rules behind `apply`."""

from msgspec.structs import replace

from ..ipc.quantity import counted
from . import backoff, breaker, death, events, rollouts, rolls
from .cluster import (
    Cause,
    Closing,
    Cluster,
    Exit,
    Group,
    Observation,
    Phase,
    Slot,
    Step,
    Sweeping,
    Trouble,
    Verdict,
    Worker,
)
from .facts import CrashLoop, SlotDone, SlotFailed, WorkerExited
from .rows import Place, find, told, with_group, without_worker

OUTSIDE_FREE = 30
OUTSIDE_WINDOW = 60.0
CHARGED_WINDOW = 600.0
UNPROVEN_BOOTS = 3
LOOP_DEATHS = 5
LOOP_CALM = 150.0
LATE = 0.5


def exited(cluster: Cluster, event: events.Exited, now: float) -> Cluster:
    """The worker's process is gone: free its place, charge the slot, look for leftovers. What is told late happened
    when it did: delays count from there."""
    place = find(cluster, event.worker)
    if place is None:
        return cluster
    worker = place.worker
    cause = _final_cause(place, event)
    at = now if event.at is None else min(event.at, now)
    end = _exit(worker, cause, event.code, at)
    slot = replace(place.slot, last_exit=end, restarts=place.slot.restarts + _is_restart(place, cause))
    place = Place(rollouts.with_death(place.group, worker, end), place.slot, worker)
    slot = _judged(place.group, slot, worker, end, event.chance)
    fact = WorkerExited(
        slot=worker.slot,
        pid=worker.pid,
        release=worker.release,
        cause=str(cause),
        code=event.code if event.code is not None and event.code >= 0 else None,
        signal=-event.code if event.code is not None and event.code < 0 else None,
        uptime=round(end.uptime, 3),
        delay=_wait(place, slot, now),
        reason=end.reason,
        ago=round(now - at, 3) if now - at > LATE else 0.0,
    )
    if cluster.closing is not None:
        cluster = replace(cluster, closing=_noted(cluster.closing, place, end))
    cluster = told(replace(cluster, sweeps=(*cluster.sweeps, Sweeping(worker.id, worker.slot))), fact)
    return _settled(cluster, place, slot, cause, at)


def _noted(closing: Closing, place: Place, end: Exit) -> Closing:
    """With the one that ended now, if it did not do so in peace."""
    name = f"{place.worker.slot} (pid {place.worker.pid})"
    if end.killed:
        return replace(closing, killed=(*closing.killed, name))
    return replace(closing, interrupted=(*closing.interrupted, name)) if _is_cut_short(place) else closing


def _is_cut_short(place: Place) -> bool:
    """Whether it had messages at work until SIGTERM: one that has none leaves when it is asked."""
    end = place.worker.ending
    return place.group.settings.kind == "messages" and end is not None and end.step == Step.TERMED


def spawn_failed(cluster: Cluster, event: events.SpawnFailed, now: float) -> Cluster:
    """The process could not even be made: charged like a failed boot, if it was the slot's fault."""
    place = find(cluster, event.worker)
    if place is None:
        return cluster
    if event.blameless:
        return without_worker(cluster, place, place.slot)
    end = replace(_exit(place.worker, Cause.BOOT, None, now), reason=event.reason)
    place = Place(rollouts.with_death(place.group, place.worker, end), place.slot, place.worker)
    slot = _judged(place.group, replace(place.slot, last_exit=end), place.worker, end, event.chance)
    fact = WorkerExited(
        slot=slot.name,
        pid=0,
        release=place.worker.release,
        cause=str(Cause.BOOT),
        code=None,
        signal=None,
        uptime=0.0,
        delay=_wait(place, slot, now),
        reason=event.reason,
    )
    return _settled(told(cluster, fact), place, slot, Cause.BOOT, now)


def charged(cluster: Cluster, place: Place, cause: Cause, now: float) -> Cluster:
    """A hang is charged when it is judged, not when its process ends: the replacement starts before that."""
    if rolls.on_trial(place.group, place.worker):
        return with_group(cluster, rollouts.with_hang(place.group, place.worker, cause))
    if place.worker.release != place.group.current:
        return cluster
    slot = _charge(place.group, place.slot, place.worker, now, 0.5)
    if place.group.settings.restart == "never":
        slot = replace(slot, failed=f'{cause}, and restart = "never"')
    group = replace(place.group, breaker=breaker.with_death(place.group.breaker, slot.name, now))
    return _named(with_group(cluster, replace(group, slots={**group.slots, slot.name: slot})), place.slot, slot)


def loader_delay(failures: int, chance: float) -> float:
    """Seconds until a release that could not be loaded is tried again: never quite at once."""
    return 0.5 * backoff.delay(failures + 1, 1.0) + 0.5 * backoff.delay(failures + 1, chance)


def seen(worker: Worker, observation: Observation) -> Worker:
    """The first observation of a trouble stays, for the later ones to be compared with."""
    trouble = worker.trouble
    first = trouble.first if trouble else observation
    reported = trouble.reported if trouble else False
    verdict = trouble.verdict if trouble else Verdict.OK
    return replace(worker, trouble=Trouble(first, observation, verdict, reported))


def _is_restart(place: Place, cause: Cause) -> bool:
    """Whether it was a worker of its slot that died, and not one that a roll was trying."""
    return cause != Cause.PLANNED and not rolls.on_trial(place.group, place.worker)


def _wait(place: Place, slot: Slot, now: float) -> float | None:
    """Seconds until the slot's next try, None when there will be none or it is a roll's affair."""
    if rolls.on_trial(place.group, place.worker):
        return None
    stays_down = slot.failed or slot.done or slot.held or slot.retired
    return None if stays_down else round(max(0.0, slot.next_try - now), 3)


def _final_cause(place: Place, event: events.Exited) -> Cause:
    cause = death.cause(place.worker, event.code, oom=event.oom)
    unasked = place.worker.ending is None and place.group.settings.restart != "always"
    booting = place.group.settings.kind == "web" and place.worker.phase == Phase.STARTING
    leaves = unasked and event.code == 0 and not booting
    return Cause.FINISHED if leaves and cause in (Cause.CRASH, Cause.BOOT) else cause


def _exit(worker: Worker, cause: Cause, code: int | None, now: float) -> Exit:
    """What was ordered before a master died counts from the next one's coming: it may have ended before that."""
    end = worker.ending
    killed = end is not None and (end.step == Step.KILLED or end.killed) and code in (None, -9)
    since = worker.ready_at or worker.ordered
    outside = worker.termed and cause == Cause.OUTSIDE
    reason = ", ".join(filter(None, ["somebody sent it SIGTERM" if outside else "", worker.boot_error]))
    return Exit(now, cause, code, worker.pid, worker.release, max(0.0, now - since), killed, reason)


def _judged(group: Group, slot: Slot, worker: Worker, end: Exit, chance: float) -> Slot:
    """The slot after this end: done, failed, delayed, or free to go on at once."""
    restart = group.settings.restart
    trial = rolls.on_trial(group, worker)
    if worker.ending is not None or not (trial or worker.release == group.current):
        return slot
    if end.cause == Cause.FINISHED or (restart == "never" and end.cause != Cause.PLANNED and end.code == 0):
        has_successor = any(other.id > worker.id for other in slot.staying)
        return slot if has_successor else replace(slot, done=True, done_by=worker.release)
    if trial:
        return slot
    if end.code == death.EXIT_CONFIG:
        return replace(slot, failed="exit code 78: its configuration is wrong")
    if end.cause == Cause.OUTSIDE:
        slot = _from_outside(slot, end.at)
        if len(slot.outside) > OUTSIDE_FREE:
            slot = _charge(group, slot, worker, end.at, chance)
    elif end.cause in death.CHARGED:
        slot = _charge(group, slot, worker, end.at, chance)
    if restart == "never" and end.cause != Cause.PLANNED:
        return replace(slot, failed=f'{end.cause}, and restart = "never"')
    return slot


def _from_outside(slot: Slot, now: float) -> Slot:
    recent = tuple(at for at in slot.outside if now - at < OUTSIDE_WINDOW)
    return replace(slot, outside=(*recent, now))


def _charge(group: Group, slot: Slot, worker: Worker, now: float, chance: float) -> Slot:
    """One more charged death. The first after a healthy life costs no delay."""
    before = backoff.decayed(slot.score, slot.scored_at, now)
    healthy = worker.phase != Phase.STARTING and now - worker.ready_at >= group.settings.min_ready
    score = before + 1.0
    delay = 0.0 if healthy and before < 0.5 else backoff.delay(score, chance)
    deaths = (*(at for at in slot.charged if now - at < CHARGED_WINDOW), now)
    limit = group.settings.max_restarts
    too_many = 0 < limit <= len(deaths)
    failed = f"{counted(len(deaths), 'death')} in 10 minutes (max_restarts = {limit})" if too_many else ""
    return replace(
        slot,
        score=score,
        scored_at=now,
        next_try=now + delay,
        charged=deaths,
        failed=failed or slot.failed,
        looping=len(deaths) >= LOOP_DEATHS,
        boot_failures=slot.boot_failures + 1 if worker.phase == Phase.STARTING else 0,
    )


def _settled(cluster: Cluster, place: Place, slot: Slot, cause: Cause, now: float) -> Cluster:
    """Put the slot back without the worker, feed the breaker, and name what has changed for the worse."""
    group = place.group
    if slot.charged != place.slot.charged:
        group = replace(group, breaker=breaker.with_death(group.breaker, slot.name, now))
    cluster = without_worker(with_group(cluster, group), Place(group, place.slot, place.worker), slot)
    if slot.done and not place.slot.done:
        cluster = told(cluster, SlotDone(slot=slot.name))
    return _named(cluster, place.slot, slot)


def _named(cluster: Cluster, before: Slot, after: Slot) -> Cluster:
    if after.failed and not before.failed:
        cluster = told(cluster, SlotFailed(slot=after.name, why=after.failed))
    if after.looping and not before.looping:
        seconds = round(after.scored_at - after.charged[0], 1)
        cluster = told(cluster, CrashLoop(slot=after.name, deaths=len(after.charged), seconds=seconds))
    return cluster
