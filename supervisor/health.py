"""Judging workers that are ready: by the age of their progress, and only after a look at /proc. Pure."""

from collections.abc import Iterator

from . import actions, dispatcher
from .cluster import Cluster, Group, Slot, Verdict, Worker
from .config.schema import PingSection
from .verdict import verdict
from .watch import NEVER, Watch

AGAIN = 0.25


def judge(cluster: Cluster, group: Group, slot: Slot, worker: Worker, watch: Watch) -> Iterator[actions.Action]:
    """Look, warn or condemn, as far as the limits have passed.

    A worker is looked at when half of `interval` has passed without progress, so that there is something to compare
    with when a limit passes. `held` and traced workers are only reported; starved ones have twice the time.
    """
    overdue = _overdue(group, worker, watch)
    if overdue and not slot.held:
        yield actions.Condemn(worker.id, Verdict.OVERDUE, overdue)
    elif worker.watched:
        yield from _silent(dispatcher.limits(group.settings, cluster.ping), cluster.judged_from, slot, worker, watch)


def _silent(
    ping: PingSection, judged_from: float, slot: Slot, worker: Worker, watch: Watch
) -> Iterator[actions.Action]:
    since = max(worker.progress, judged_from)
    quiet, warn = since + ping.interval / 2, since + ping.interval
    if not watch.due(quiet):
        return
    if worker.looked_at < quiet or (watch.due(warn) and worker.looked_at < warn):
        yield actions.Observe(worker.id)
    elif watch.due(warn):
        yield from _late(ping, slot, worker, since, watch)


def _late(ping: PingSection, slot: Slot, worker: Worker, since: float, watch: Watch) -> Iterator[actions.Action]:
    trouble = worker.trouble
    found = verdict(trouble.first, trouble.last) if trouble else Verdict.STUCK
    kill = since + (ping.kill or NEVER) * (2 if found == Verdict.STARVED else 1)
    if trouble is None or not trouble.reported:
        yield actions.Warn(worker.id, found, watch.now - since)
    elif not watch.due(kill) or slot.held:
        return
    elif worker.looked_at < kill or (trouble.last.traced and watch.due(worker.looked_at + ping.interval)):
        yield actions.Observe(worker.id)
    elif not trouble.last.traced:
        yield actions.Condemn(worker.id, found, watch.now - since)


def _overdue(group: Group, worker: Worker, watch: Watch) -> float:
    """Age of the oldest request if it is over `request_timeout`, else 0.

    Only a heartbeat that says so itself counts: since the last one the request may have ended. So the policy looks
    again where one might say so soon.
    """
    limit, pulse = group.settings.request_timeout, worker.pulse
    if not limit:
        return 0.0
    if pulse is None or pulse.in_flight == 0:
        watch.due((pulse.at if pulse else worker.progress) + limit)
        return 0.0
    if pulse.oldest >= limit:
        return pulse.oldest + watch.now - pulse.at
    if watch.due(pulse.at - pulse.oldest + limit):
        watch.due(watch.now + AGAIN)
    return 0.0
