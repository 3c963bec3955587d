"""`reconcile(cluster, now) -> Plan`: what is wanted against what is. Pure; desired state, never nested procedures.

The shell takes the actions, tells `apply` so, and asks again until there are none; then it sleeps until `Plan.wake`.
"""

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from . import actions, breaker, dispatcher, endings, health, recycling, rolls
from .cluster import Closing, Cluster, Group, Loader, Phase, Release, Slot, Stage, Verdict, Worker
from .exits import UNPROVEN_BOOTS
from .moves import Moves, in_turn
from .watch import Watch

ORDER_LIMIT = 5.0


class Plan(NamedTuple):
    """What to do now, and when to look again at the latest (monotonic, infinity: never)."""

    actions: list[actions.Action]
    wake: float


def reconcile(cluster: Cluster, now: float) -> Plan:
    """What is to be done at `now`."""
    watch = Watch(now)
    planned: list[actions.Action] = []
    numbers = count(cluster.next_worker)
    for group in cluster.groups.values():
        planned.extend(_group(cluster, group, Moves(group, numbers, watch), watch))
    planned.extend(_sweeps(cluster))
    planned.extend(_closing(cluster) if cluster.closing else _given_up(cluster))
    return Plan(planned, watch.wake)


def _group(cluster: Cluster, group: Group, moves: Moves, watch: Watch) -> Iterator[actions.Action]:
    if not cluster.closing:
        if not group.leaving and breaker.should_open(group.breaker, group.count, watch.now):
            yield actions.OpenBreaker(group.name)
            return
        if _makes_way(cluster, group, watch):
            yield actions.MakeWay(group.name)
            return
        ahead = [*rolls.progress(group, watch)]
        if ahead:
            yield from ahead
            return
        yield from _loaders(group, watch)
        yield from _breaker(group, watch)
    quiet = dispatcher.limits(group.settings, cluster.ping).interval / 2
    lasting = not group.settings.request_timeout and not group.settings.max_lifetime
    busy: list[Slot] = []
    for slot in group.slots.values():
        workers = slot.workers
        if len(workers) == 1 and not slot.retired and not slot.held and not cluster.closing:
            worker = workers[0]
            if (
                worker.watched
                and worker.ending is None
                and worker.trouble is None
                and worker.tripped is None
                and lasting
                and moves.is_settled(worker)
                and not watch.due(max(worker.progress, cluster.judged_from) + quiet)
            ):
                continue
        busy.append(slot)
    for slot in in_turn(busy) if group.roll is None else busy:
        yield from _slot(cluster, group, slot, moves, watch)


def _makes_way(cluster: Cluster, group: Group, watch: Watch) -> bool:
    """Whether a group that is to go has nothing left that it is waited with for."""
    if dispatcher.is_superfluous(cluster, group):
        return True
    return bool(group.makes_way) and all(rolls.has_come(cluster.groups.get(name), watch) for name in group.makes_way)


def _slot(cluster: Cluster, group: Group, slot: Slot, moves: Moves, watch: Watch) -> Iterator[actions.Action]:
    """One thing at a time: who is given up or begins to serve in this pass is not moved in it."""
    planned = [action for worker in slot.workers for action in _worker(cluster, group, slot, worker, moves, watch)]
    yield from planned
    changed = any(isinstance(action, actions.Condemn | actions.Admit) for action in planned)
    if not slot.retired and not changed and (cluster.closing is None or _is_refilled(cluster, group, slot)):
        yield from moves.slot(slot)


def _is_refilled(cluster: Cluster, group: Group, slot: Slot) -> bool:
    """Whether the slot gets a worker although the cluster stops: without a dispatcher, what the others still come to
    would be lost. One that is there is left as it is."""
    hasty = cluster.closing is not None and cluster.closing.hasty
    return not slot.staying and not hasty and dispatcher.is_last(cluster, group)


def _worker(
    cluster: Cluster, group: Group, slot: Slot, worker: Worker, moves: Moves, watch: Watch
) -> Iterator[actions.Action]:
    if worker.ending is not None:
        yield from endings.ending(cluster, group, worker, watch)
    elif cluster.closing is not None and not dispatcher.is_last(cluster, group):
        yield actions.Retire(worker.id, cluster.closing.why)
    elif slot.retired:
        yield actions.Retire(worker.id, "the group was removed" if group.leaving else "the group was scaled down")
    elif worker.tripped is not None and not slot.held:
        verdict = Verdict.OVERDUE if worker.overdue else Verdict.STUCK
        yield actions.Condemn(worker.id, verdict, worker.tripped, worker.overdue)
    elif worker.phase == Phase.STARTING:
        yield from _booting(group, slot, worker, moves, watch)
    else:
        yield from _ready(cluster, group, slot, worker, watch)


def _ready(cluster: Cluster, group: Group, slot: Slot, worker: Worker, watch: Watch) -> Iterator[actions.Action]:
    yield from health.judge(cluster, group, slot, worker, watch)
    if worker.quiet and rolls.may_serve(group, slot, worker, watch):
        yield actions.Admit(worker.id)
    why = "" if worker.stale or slot.held else recycling.outlived(group, worker, watch)
    if why:
        yield actions.Wear(worker.id, why)


def _booting(group: Group, slot: Slot, worker: Worker, moves: Moves, watch: Watch) -> Iterator[actions.Action]:
    """Booting has a limit of its own: heartbeats do not judge it. A fork that is not answered is the zygote's fault."""
    if worker.pid == 0 and moves.may_blame_loader(worker) and watch.due(worker.ordered + ORDER_LIMIT):
        moves.blamed.add(worker.release)
        yield actions.DropLoader(
            group.name, worker.release, f"it did not answer an order for {ORDER_LIMIT:g} s", hung=True
        )
    elif not slot.held and watch.due(max(worker.ordered + group.settings.start_timeout, worker.until)):
        yield actions.Condemn(worker.id, Verdict.SLOW_BOOT, watch.now - worker.ordered)


def _breaker(group: Group, watch: Watch) -> Iterator[actions.Action]:
    if group.breaker.open_since is None or group.leaving:
        return
    for worker in (worker for slot in group.slots.values() for worker in slot.staying):
        if worker.phase != Phase.READY or worker.ordered < group.breaker.open_since:
            continue
        if watch.due(worker.ready_at + group.settings.min_ready):
            yield actions.CloseBreaker(group.name)
            return
    if _complete(group) and watch.due(group.breaker.open_since + group.settings.min_ready):
        yield actions.CloseBreaker(group.name)


def _complete(group: Group) -> bool:
    """Whether no slot is left that has yet to try; what was dying may have been held, scaled away or have failed."""
    for slot in group.slots.values():
        away = slot.retired or slot.held or slot.failed or slot.done
        if not away and not slot.serves:
            return False
    return True


def _loaders(group: Group, watch: Watch) -> Iterator[actions.Action]:
    """The zygotes of the current release, of one that a roll waits for, and of those in reserve; what nobody needs is
    dropped."""
    yield from rolls.leftovers(group)
    roll = group.roll
    yield from _loader(group, group.release, watch)
    if roll is not None and roll.stage == Stage.LOADING and not roll.fault:
        yield from _loader(group, group.releases[roll.new], watch)
    elif roll is None:
        for release in rolls.in_reserve(group):
            yield from _loader(group, release, watch)


def _loader(group: Group, release: Release, watch: Watch) -> Iterator[actions.Action]:
    if not release.forks or not group.count or rolls.is_given_up(group, release):
        return
    if release.loader in (Loader.ABSENT, Loader.FAILED):
        if watch.due(release.next_try):
            yield actions.LoadRelease(group.name, release.number)
    elif release.loader == Loader.LOADING and watch.due(release.since + group.settings.start_timeout):
        limit = f"start_timeout ({group.settings.start_timeout:g} s)"
        why = f"its import took longer than {limit}, see `bkd why {group.name}.zygote`"
        yield actions.DropLoader(group.name, release.number, why, hung=True)


def _sweeps(cluster: Cluster) -> Iterator[actions.Action]:
    hasty = cluster.closing is not None and cluster.closing.hasty
    for sweep in cluster.sweeps:
        if not sweep.taken:
            yield actions.Sweep(sweep.worker, hasty)


def _closing(cluster: Cluster) -> Iterator[actions.Action]:
    closing = cluster.closing
    if closing is None or closing.left or cluster.sweeps or cluster.places:
        return
    loaders = [(g.name, r.number) for g in cluster.groups.values() for r in g.releases.values() if r.alive]
    if loaders:
        yield from (actions.DropLoader(name, number, "the cluster stops") for name, number in loaders)
    else:
        yield actions.Leave(exit_code(closing))


def exit_code(closing: Closing) -> int:
    """0 all drained, 3 something had to be killed or messages were interrupted, 1 something survived or the stop was a
    failure's."""
    if closing.survived or closing.code:
        return closing.code or 1
    return 3 if closing.killed or closing.interrupted else 0


def _given_up(cluster: Cluster) -> Iterator[actions.Action]:
    if cluster.exit_when_failed:
        for group in cluster.groups.values():
            why = "" if group.late and not group.proven else hopeless(group)
            if why:
                yield actions.Stop(f"{group.name} has failed: {why}", 1)
                return


def hopeless(group: Group) -> str:
    """Why this group will not come up without help, "" while there is hope."""
    slots = group.slots.values()
    if slots and all(slot.failed and not slot.staying for slot in slots):
        return next(iter(slots)).failed
    if group.proven:
        return ""
    release = group.release
    if release.loader == Loader.FAILED:
        return release.why
    for slot in slots:
        if slot.boot_failures >= UNPROVEN_BOOTS:
            reason = f": {slot.last_exit.reason}" if slot.last_exit and slot.last_exit.reason else ""
            return f"{slot.name} could not start {slot.boot_failures} times in a row{reason}"
    return ""
