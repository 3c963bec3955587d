"""Judging workers that are ready: by the age of their progress, and only after a look at /proc. Pure."""

from collections.abc import Iterator

from . import actions
from .cluster import Cluster, Group, Slot, Trouble, Verdict, Worker
from .verdict import verdict
from .watch import NEVER, Watch

__all__ = ["Verdict", "judge"]


def judge(cluster: Cluster, group: Group, slot: Slot, worker: Worker, watch: Watch) -> Iterator[actions.Action]:
    """Look, warn or condemn, as far as the limits have passed.

    A worker is looked at when half of `interval` has passed without progress, so that there is something to compare
    with when a limit passes. `held` and traced workers are only reported; starved ones have twice the time.
    """
    overdue = _overdue(group, worker, watch)
    if overdue:
        yield actions.Condemn(worker.id, Verdict.OVERDUE, overdue)
        return
    if not worker.watched:
        return
    since = max(worker.progress, cluster.judged_from)
    warn, kill = since + cluster.ping.interval, since + (cluster.ping.kill or NEVER)
    if worker.trouble is None:
        if watch.due(since + cluster.ping.interval / 2):
            yield actions.Observe(worker.id)
        return
    yield from _limits(slot, worker, worker.trouble, (since, warn, kill), watch)


def _limits(
    slot: Slot, worker: Worker, trouble: Trouble, limits: tuple[float, float, float], watch: Watch
) -> Iterator[actions.Action]:
    since, warn, kill = limits
    if not watch.due(warn):
        return
    found = verdict(trouble.first, trouble.last)
    last_chance = kill + (kill - since) if found == Verdict.STARVED else kill
    if trouble.last.at < warn or (watch.due(last_chance) and trouble.last.at < last_chance):
        yield actions.Observe(worker.id)
    elif not trouble.reported:
        yield actions.Warn(worker.id, found, watch.now - since)
    elif watch.due(last_chance) and not slot.held and not trouble.last.traced:
        yield actions.Condemn(worker.id, found, watch.now - since)


def _overdue(group: Group, worker: Worker, watch: Watch) -> float:
    """Age of the oldest request if it is over `request_timeout`, else 0."""
    limit = group.settings.request_timeout
    if not limit or worker.pulse is None or worker.pulse.in_flight == 0:
        return 0.0
    begun = worker.pulse.at - worker.pulse.oldest
    return watch.now - begun if watch.due(begun + limit) else 0.0
