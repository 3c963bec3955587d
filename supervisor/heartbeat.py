"""What a heartbeat changes: pulse, progress of the main loop, trend of the memory, and who is worn. Pure."""

from msgspec.structs import replace

from . import dispatcher, events, recycling
from .cluster import Cluster, Pulse
from .facts import WorkerWorn
from .rows import find, told, with_worker

SLEEPY = 0.05
BLOCKING = "messages"  # what runs may hold up its loop for as long as it has, by limits of its own


def pinged(cluster: Cluster, event: events.Pinged, now: float) -> Cluster:
    """The cluster after a heartbeat."""
    place = find(cluster, event.worker)
    if place is None:
        return cluster
    worker, before = place.worker, place.worker.pulse
    load = (event.cpu - before.cpu) / max(now - before.at, 0.001) if before else 0.0
    used = event.rss, event.cpu, round(load, 3), event.served, event.pss, event.late
    pulse = Pulse(now, event.lag, event.in_flight, event.oldest, *used)
    settings = place.group.settings
    behind = event.behind if settings.kind != BLOCKING and event.behind > SLEEPY else 0.0
    progress = max(worker.progress, now - behind)
    trouble = worker.trouble if behind > dispatcher.limits(settings, cluster.ping).interval / 2 else None
    trend = recycling.measured(worker, pulse)
    limited = settings.max_memory > 0
    if trend is not None and trend.fresh and (limited or trend is not worker.trend):
        cluster = recycling.judged(cluster, place.group, worker.release, trend.fresh, now)
        place = place._replace(group=cluster.groups[place.group.name])
    worker = replace(worker, pulse=pulse, progress=progress, trouble=trouble, trend=trend)
    why = "" if worker.stale or worker.ending is not None else event.worn or recycling.worn(place.group, worker, pulse)
    if not why:
        return with_worker(cluster, place, worker)
    cluster = with_worker(cluster, place, replace(worker, stale=why))
    return told(cluster, WorkerWorn(slot=worker.slot, pid=worker.pid, why=why, alarming=bool(event.worn)))
