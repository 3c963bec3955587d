"""Whoever waits for rolls, for fresh workers in single slots, or for groups to come and go; and for how long. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .cluster import Cluster, Group, Outcome
from .exits import UNPROVEN_BOOTS
from .fact import Fact
from .rolls import has_come
from .watch import Watch

BEYOND = 30.0  # seconds that a fresh worker may take beyond its own limits


@dataclass(eq=False)
class Waiting:
    """The tickets of groups, the workers that are to be gone from single slots, and the groups that come or go.
    `outcomes` and `missed` fill up with time: the rolls that are over, and what is not waited for any more, and why."""

    tickets: dict[str, int] = field(default_factory=dict)
    slots: dict[str, set[int]] = field(default_factory=dict)
    changing: set[str] = field(default_factory=set)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    missed: dict[str, str] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda text: None
    _since: float | None = None

    @classmethod
    def resumed(cls, told: dict[str, Any]) -> "Waiting":
        """What another master has been asked; raises TypeError, ValueError or AttributeError when it is nonsense."""
        return cls(
            {str(name): int(ticket) for name, ticket in told["tickets"].items()},
            {str(name): {int(worker) for worker in old} for name, old in told["slots"].items()},
            {str(name) for name in told["changing"]},
        )

    def resume(self) -> dict[str, Any]:
        """What the next master is to be asked, should this one die."""
        slots = {name: sorted(old) for name, old in self.slots.items()}
        return {"tickets": self.tickets, "slots": slots, "changing": sorted(self.changing)}

    def concerns(self, fact: Fact) -> bool:
        """Whether it is about one of the groups or slots that are waited for."""
        return any(fact.about(name) for name in (*self.tickets, *self.slots, *self.changing))

    def left(self, cluster: Cluster, now: float) -> bool:
        """Whether there is still something to wait for at `now`; takes the outcomes that are there."""
        self._since = now if self._since is None else self._since
        rolls = [name for name in self.tickets if not self._is_answered(cluster, name)]
        slots = [name for name in self.slots if not self._is_settled(cluster, name, now)]
        changing = [name for name in self.changing if is_changing(cluster, name, now)]
        if cluster.closing is not None:
            self.missed |= dict.fromkeys([*rolls, *slots], "the cluster stops")
            return False
        return bool(rolls or slots or changing)

    def _is_answered(self, cluster: Cluster, name: str) -> bool:
        if name in self.outcomes or name in self.missed:
            return True
        group, ticket = cluster.groups.get(name), self.tickets[name]
        if group is None:
            self.missed[name] = "it is no longer in the configuration"
        elif group.outcome is not None and group.outcome.ticket >= ticket:
            self.outcomes[name] = group.outcome
        elif ticket > group.asked:
            self.missed[name] = "bkd's state was lost meanwhile; see bkd status"
        else:
            return False
        return True

    def _is_settled(self, cluster: Cluster, name: str, now: float) -> bool:
        """Whether a slot has its fresh worker, or has had time enough."""
        if name in self.missed or is_fresh(cluster, name, self.slots[name]):
            return True
        settings = cluster.groups[name.rpartition(".")[0]].settings
        limit = settings.start_timeout + settings.drain + settings.term + BEYOND
        if now - (self._since or now) > limit:
            self.missed[name] = "it has no fresh worker; see bkd events"
        return name in self.missed


def is_fresh(cluster: Cluster, name: str, old: set[int]) -> bool:
    """Whether nothing of `old` is left in this slot and its work is done by somebody else, or done."""
    group = cluster.groups.get(name.rpartition(".")[0])
    slot = group.slots.get(name) if group else None
    return slot is None or (slot.is_up and not any(worker.id in old for worker in slot.workers))


def is_changing(cluster: Cluster, name: str, now: float) -> bool:
    """Whether a group that comes has not shown yet whether it can stay, or one that goes is still there; one that makes
    way for another that fails stays."""
    group = cluster.groups.get(name)
    if group is None:
        return False
    if group.makes_way:
        return not any(failing(cluster.groups[other]) for other in group.makes_way if other in cluster.groups)
    return group.leaving or not (failing(group) or has_come(group, Watch(now)))


def failing(group: Group) -> str:
    """The slots of a group that will not come up without help, and why; "" when there are none."""
    if group.release.why and group.release.failures:
        return group.release.why
    bad = [slot for slot in group.slots.values() if slot.failed or slot.boot_failures >= UNPROVEN_BOOTS]
    reasons = [slot.failed or (slot.last_exit.reason if slot.last_exit else "") for slot in bad]
    return "; ".join(f"{slot.name} does not come up: {why}" for slot, why in zip(bad, reasons, strict=True))
