"""Groups that get more or fewer slots, or go altogether. Pure."""

from msgspec.structs import replace

from . import dispatcher
from .cluster import Cluster, Group, Slot, slot_names
from .facts import GroupRemoved
from .rollouts import ended_by_stop
from .rows import told, with_group

UNUSED = "no group runs messages any more; what is stored waits for one"


def resized(group: Group, count: int) -> Group:
    """The group with so many slots; those that are too many are retired, and gone with their last worker."""
    wanted = slot_names(group.name, count)
    kept = {name: slot for name, slot in group.slots.items() if name in wanted or slot.workers}
    slots = {name: replace(slot, retired=name not in wanted) for name, slot in kept.items()}
    slots |= {name: Slot(name) for name in wanted if name not in slots}
    return replace(group, count=count, slots=slots)


def left(cluster: Cluster, group: Group, now: float) -> Cluster:
    """The group is drained; when nothing is left of it, it is forgotten."""
    if group.leaving:
        return cluster
    group = ended_by_stop(group, "the group was removed from the configuration", now)
    cluster = with_group(cluster, replace(resized(group, 0), leaving=True, makes_way=()))
    return told(cluster, GroupRemoved(group=group.name, why=UNUSED if group.settings.kind == dispatcher.KIND else ""))
