"""What a service manager is told of the cluster, word by word (sd_notify(3)). Pure texts.

`READY=1` means what the end of `bkd start -d` means. The watchdog is fed only while enough workers are ready, so that
a cluster that cannot help itself is started again as a whole.
"""

import math
from typing import NamedTuple

from ..ipc.quantity import counted
from .cluster import Cause, Cluster, Group, Phase, Slot
from .status import state

MOST_NAMED = 3
SPARE = 4  # one in so many slots may be missing
LONGEST_STATUS = 500
STATUS_PAUSE = 1.0
PATIENCE = 30.0
PARTS = 3  # of a time before whose end something has to be said again, from one time to the next
WELL = ("ready", "done")


class Said(NamedTuple):
    """What was told so far, and when (monotonic)."""

    ready: bool = False
    stopping: bool = False
    status: str = ""
    status_at: float = -math.inf
    patient_at: float = -math.inf
    fed_at: float = -math.inf


class View(NamedTuple):
    """What is to be told of. `started`: the start is over, with success; `reloading`: a reload goes on; `watchdog`:
    seconds until silence counts as a hang, 0.0 never; `fed`: it may be told that all is well."""

    cluster: Cluster
    started: bool
    reloading: bool = False
    watchdog: float = 0.0
    fed: bool = True

    @property
    def under_way(self) -> bool:
        """Whether a start or a stop goes on, which have deadlines of their own in bkd."""
        return self.cluster.closing is not None or not self.started


def speech(said: Said, view: View, now: float) -> tuple[list[str], Said]:
    """The assignments to be sent now, and what will have been said then."""
    lines, closing = [], view.cluster.closing is not None
    status = status_line(view.cluster, now)
    if closing and not said.stopping:
        lines.append("STOPPING=1")
        said = said._replace(stopping=True)
    elif view.started and not (closing or view.reloading or said.ready):
        lines.append("READY=1")
        said = said._replace(ready=True)
    if lines or (status != said.status and now >= said.status_at + STATUS_PAUSE):
        lines.append(f"STATUS={status}")
        said = said._replace(status=status, status_at=now)
    if view.under_way and now >= said.patient_at + PATIENCE / PARTS:
        lines.append(f"EXTEND_TIMEOUT_USEC={int(PATIENCE * 1e6)}")
        said = said._replace(patient_at=now)
    if view.watchdog and view.fed and now >= said.fed_at + view.watchdog / PARTS:
        lines.append("WATCHDOG=1")
        said = said._replace(fed_at=now)
    return lines, said


def pause(said: Said, view: View, now: float) -> float | None:
    """Seconds until there is more to say if nothing changes, None: never."""
    moments = []
    if status_line(view.cluster, now) != said.status:
        moments.append(said.status_at + STATUS_PAUSE)
    if view.under_way:
        moments.append(said.patient_at + PATIENCE / PARTS)
    if view.watchdog and view.fed:
        moments.append(said.fed_at + view.watchdog / PARTS)
    return max(0.0, min(moments) - now) if moments else None


def reloading(now: float) -> str:
    """A reload begins at this monotonic moment; the next `READY=1` ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={int(now * 1e6)}"


def status_line(cluster: Cluster, now: float) -> str:
    """`web 4/4, jobs 1/2 (jobs.2 backoff)`: what serves, and which slots do not."""
    shown = [_group(group, now) for group in cluster.groups.values() if not group.leaving]
    line = ", ".join(shown)
    if cluster.closing is not None:
        left = sum(1 for _ in cluster.workers())
        line = f"stopping: {cluster.closing.why}; {counted(left, 'process', 'processes')} left"
    return line if len(line) <= LONGEST_STATUS else f"{line[: LONGEST_STATUS - 1]}…"


def _group(group: Group, now: float) -> str:
    slots = [slot for slot in group.slots.values() if not slot.retired]
    ready = sum(1 for slot in slots if slot.serves)
    others = [f"{slot.name} {found}" for slot in slots if not slot.serves and (found := state(slot, now)) not in WELL]
    if len(others) > MOST_NAMED:
        others[MOST_NAMED:] = [f"{len(others) - MOST_NAMED} more"]
    if group.roll is not None:
        others.insert(0, f"release {group.roll.new} {group.roll.stage}")
    return f"{group.name} {ready}/{group.count}" + (f" ({', '.join(others)})" if others else "")


def shortage(cluster: Cluster) -> str:
    """Which group has too few workers for the watchdog to be fed, "" when all have enough.

    Each is to have `count - max_unavailable` ready less a quarter, and at least one. Nobody waits for slots that are
    held or done, or on their way for the first time or after an end that was planned; nor for groups that have never
    been up or are about to go.
    """
    for group in cluster.groups.values():
        judged = [slot for slot in group.slots.values() if not _is_excused(slot)]
        if group.leaving or not group.proven or not judged:
            continue
        needed = max(1, len(judged) - group.settings.max_unavailable - len(judged) // SPARE)
        ready = sum(1 for slot in judged if slot.serves)
        if ready < needed:
            wanted = counted(needed, "is needed", "are needed")
            return f"{group.name} has {ready} of {counted(len(judged), 'worker')} ready, and {wanted}"
    return ""


def _is_excused(slot: Slot) -> bool:
    if slot.retired or slot.held or slot.done:
        return True
    starting = any(worker.phase == Phase.STARTING for worker in slot.staying)
    planned = slot.last_exit is None or slot.last_exit.cause == Cause.PLANNED
    return starting and planned and not slot.serves and not slot.boot_failures
