"""`reconcile(cluster, now) -> Plan`: what is wanted against what is. Pure; desired state, never nested procedures.

The shell takes the actions, tells `apply` so, and asks again until there are none; then it sleeps until `Plan.wake`.
"""

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from . import actions, breaker, endings, health
from .cluster import Closing, Cluster, Group, Loader, Phase, Release, Slot, Verdict, Worker
from .exits import UNPROVEN_BOOTS
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
        planned.extend(_group(cluster, group, _Spawner(group, numbers, watch), watch))
    planned.extend(_sweeps(cluster))
    planned.extend(_closing(cluster) if cluster.closing else _given_up(cluster))
    return Plan(planned, watch.wake)


def _group(cluster: Cluster, group: Group, spawner: "_Spawner", watch: Watch) -> Iterator[actions.Action]:
    if not cluster.closing:
        if breaker.should_open(group.breaker, group.count, watch.now):
            yield actions.OpenBreaker(group.name)
            return
        yield from _loader(group, group.releases[group.current], watch)
        yield from _breaker(group, watch)
    quiet = cluster.ping.interval / 2
    for slot in group.slots.values():
        workers = slot.workers
        if len(workers) == 1 and not slot.retired and not slot.held and not cluster.closing:
            worker = workers[0]
            if (
                worker.watched
                and worker.ending is None
                and worker.trouble is None
                and not group.settings.request_timeout
                and not watch.due(max(worker.progress, cluster.judged_from) + quiet)
            ):
                continue
        yield from _slot(cluster, group, slot, spawner, watch)


def _slot(cluster: Cluster, group: Group, slot: Slot, spawner: "_Spawner", watch: Watch) -> Iterator[actions.Action]:
    for worker in slot.workers:
        if worker.ending is not None:
            yield from endings.ending(cluster, group, worker, watch)
        elif cluster.closing is not None:
            yield actions.Retire(worker.id, cluster.closing.why)
        elif slot.retired:
            yield actions.Retire(worker.id, "the group was scaled down")
        elif worker.phase == Phase.STARTING:
            yield from _booting(group, slot, worker, spawner, watch)
        else:
            yield from health.judge(cluster, group, slot, worker, watch)
    if cluster.closing is None and not slot.retired and slot.active is None:
        yield from spawner.spawn(slot)


def _booting(group: Group, slot: Slot, worker: Worker, spawner: "_Spawner", watch: Watch) -> Iterator[actions.Action]:
    """Booting has a limit of its own: heartbeats do not judge it. A fork that is not answered is the zygote's fault."""
    if worker.pid == 0 and spawner.may_blame_loader(worker) and watch.due(worker.ordered + ORDER_LIMIT):
        spawner.loader_blamed = True
        yield actions.DropLoader(group.name, worker.release, f"it did not answer an order for {ORDER_LIMIT:g} s")
    elif not slot.held and watch.due(worker.ordered + group.settings.start_timeout):
        yield actions.Condemn(worker.id, Verdict.SLOW_BOOT, watch.now - worker.ordered)


class _Spawner:
    """Starts what is missing in one group during one pass."""

    def __init__(self, group: Group, numbers: Iterator[int], watch: Watch) -> None:
        self.group, self.watch = group, watch
        self.numbers = numbers
        self.loader_blamed = False
        self.probing = group.breaker.open_since is not None and _is_probing(group, watch.now)

    def may_blame_loader(self, worker: Worker) -> bool:
        """Whether the loader that is there now is the one that was given this order; once a pass is enough."""
        release = self.group.releases.get(worker.release)
        known = release is not None and release.loader == Loader.READY and worker.ordered >= release.since
        return known and not self.loader_blamed

    def spawn(self, slot: Slot) -> Iterator[actions.Action]:
        """A process for this slot, if it may have one now."""
        group = self.group
        if slot.held or slot.failed or slot.done or not self.watch.due(slot.next_try):
            return
        release = group.releases[group.current]
        if group.forks and release.loader != Loader.READY:
            return
        if group.breaker.open_since is not None:
            if self.probing:
                return
            self.probing = True
        yield actions.Spawn(next(self.numbers), group.name, slot.name, group.current, group.forks)


def _is_probing(group: Group, now: float) -> bool:
    """Whether some slot tries already: it is starting, or ready but not yet for long enough."""
    for slot in group.slots.values():
        worker = slot.active
        if worker is not None and (worker.phase == Phase.STARTING or _probation(group, worker, now)):
            return True
    return False


def _probation(group: Group, worker: Worker, now: float) -> bool:
    opened = group.breaker.open_since or 0.0
    return worker.ordered >= opened and now - worker.ready_at < group.settings.min_ready


def _breaker(group: Group, watch: Watch) -> Iterator[actions.Action]:
    if group.breaker.open_since is None:
        return
    for slot in group.slots.values():
        worker = slot.active
        if worker is None or worker.phase != Phase.READY or worker.ordered < group.breaker.open_since:
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
        if not away and (slot.active is None or slot.active.phase != Phase.READY):
            return False
    return True


def _loader(group: Group, release: Release, watch: Watch) -> Iterator[actions.Action]:
    if release.alive and release.loader in _DEAD_WEIGHT:
        yield actions.DropLoader(group.name, release.number, release.why)
    if not group.forks or not group.count:
        return
    if release.loader in (Loader.ABSENT, Loader.FAILED):
        if watch.due(release.next_try):
            yield actions.LoadRelease(group.name, release.number)
    elif release.loader == Loader.LOADING and watch.due(release.since + group.settings.start_timeout):
        yield actions.DropLoader(group.name, release.number, "its import took longer than start_timeout")


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


_DEAD_WEIGHT = frozenset({Loader.UNSAFE, Loader.FAILED})


def exit_code(closing: Closing) -> int:
    """0 all drained, 3 something had to be killed, 1 something survived or the stop was a failure's."""
    if closing.survived or closing.code:
        return closing.code or 1
    return 3 if closing.killed else 0


def _given_up(cluster: Cluster) -> Iterator[actions.Action]:
    if cluster.exit_when_failed:
        for group in cluster.groups.values():
            why = hopeless(group)
            if why:
                yield actions.Stop(f"{group.name} has failed: {why}", 1)
                return


def hopeless(group: Group) -> str:
    """Why this group will not come up without help, "" while there is hope."""
    slots = group.slots.values()
    if slots and all(slot.failed for slot in slots):
        return next(iter(slots)).failed
    if group.proven:
        return ""
    release = group.releases[group.current]
    if release.loader == Loader.FAILED:
        return release.why
    for slot in slots:
        if slot.boot_failures >= UNPROVEN_BOOTS:
            reason = f": {slot.last_exit.reason}" if slot.last_exit and slot.last_exit.reason else ""
            return f"{slot.name} could not start {slot.boot_failures} times in a row{reason}"
    return ""
