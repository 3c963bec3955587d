"""Finding a row of the cluster and putting a changed one in its place. Pure."""

from typing import NamedTuple

from msgspec.structs import replace

from . import dispatcher
from .cluster import Cluster, Group, Phase, Release, Slot, Worker
from .fact import Fact


class Place(NamedTuple):
    """Where a worker stands."""

    group: Group
    slot: Slot
    worker: Worker


def find(cluster: Cluster, worker: int) -> Place | None:
    """The place of the worker with this number, None when it is gone."""
    name = cluster.places.get(worker)
    if name is None:
        return None
    group = cluster.groups[name.rpartition(".")[0]]
    slot = group.slots[name]
    for row in slot.workers:
        if row.id == worker:
            return Place(group, slot, row)
    return None


def with_group(cluster: Cluster, group: Group) -> Cluster:
    """The cluster with this group in place of the one of its name."""
    return replace(cluster, groups={**cluster.groups, group.name: group})


def with_slot(cluster: Cluster, group: Group, slot: Slot) -> Cluster:
    """The cluster with this slot in place of the one of its name."""
    return with_group(cluster, replace(group, slots={**group.slots, slot.name: slot}))


def with_worker(cluster: Cluster, place: Place, worker: Worker) -> Cluster:
    """The cluster with this worker in place of the one of its number."""
    workers = tuple(worker if row.id == worker.id else row for row in place.slot.workers)
    return with_slot(cluster, place.group, replace(place.slot, workers=workers))


def without_worker(cluster: Cluster, place: Place, slot: Slot) -> Cluster:
    """The cluster without this worker; `slot` is what its slot otherwise becomes. A retired slot ends with its last."""
    workers = tuple(row for row in place.slot.workers if row.id != place.worker.id)
    places = {number: name for number, name in cluster.places.items() if number != place.worker.id}
    cluster = replace(cluster, places=places)
    if slot.retired and not workers:
        slots = {name: row for name, row in place.group.slots.items() if name != slot.name}
        return with_group(cluster, replace(place.group, slots=slots))
    return with_slot(cluster, place.group, replace(slot, workers=workers))


def forgiven(slot: Slot) -> Slot:
    """The slot without its past."""
    return replace(
        slot, score=0.0, next_try=0.0, failed="", done=False, charged=(), outside=(), looping=False, boot_failures=0
    )


def told(cluster: Cluster, fact: Fact) -> Cluster:
    """One more fact for the journal."""
    return replace(cluster, news=(*cluster.news, fact))


def with_release(cluster: Cluster, group: str, release: Release) -> Cluster:
    """The cluster with this release in place of the one of its number."""
    row = cluster.groups[group]
    return with_group(cluster, replace(row, releases={**row.releases, release.number: release}))


def has_siblings(place: Place) -> bool:
    """Whether another worker serves where this one does and is to stay, or will: there is one dispatcher at a time."""
    if place.group.settings.kind == dispatcher.KIND:
        return not place.group.leaving
    group, here = place.group, place.group.releases[place.worker.release].settings.bind
    return any(
        worker.phase == Phase.READY
        and worker.id != place.worker.id
        and not worker.quiet
        and _listens(group, worker, here)
        for slot in group.slots.values()
        for worker in slot.staying
    )


def _listens(group: Group, worker: Worker, bind: list[str]) -> bool:
    return group.releases[worker.release].settings.bind == bind


def addresses(cluster: Cluster) -> set[str]:
    """Every address that a release of some group serves, or will, and the name of the dispatcher's socket."""
    releases = [release for group in cluster.groups.values() for release in group.releases.values()]
    inner = {dispatcher.LISTENER for release in releases if release.settings.kind == dispatcher.KIND}
    return inner.union(text for release in releases for text in release.settings.bind)
