"""What a program says of itself, as state: it needs more time, or it is stuck. Pure."""

from msgspec.structs import replace

from . import events
from .cluster import Cluster, Phase
from .rows import find, with_worker

LONGEST = 3600.0  # seconds that a start or an ending may last because the program asks for it


def extended(cluster: Cluster, event: events.Extended, now: float) -> Cluster:
    """More time for its start or its ending, whichever goes on."""
    place = find(cluster, event.worker)
    if place is None:
        return cluster
    worker = place.worker
    if worker.ending is not None:
        until = min(now + event.seconds, worker.ending.since + LONGEST)
        worker = replace(worker, ending=replace(worker.ending, until=max(worker.ending.until, until)))
    elif worker.phase == Phase.STARTING:
        until = min(now + event.seconds, worker.ordered + LONGEST)
        worker = replace(worker, until=max(worker.until, until))
    return with_worker(cluster, place, worker)


def tripped(cluster: Cluster, event: events.Tripped, now: float) -> Cluster:
    """It is to be replaced, as a worker that hangs is."""
    place = find(cluster, event.worker)
    if place is None or place.worker.ending is not None:
        return cluster
    return with_worker(cluster, place, replace(place.worker, tripped=event.silent, overdue=event.why))
