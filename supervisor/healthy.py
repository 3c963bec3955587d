"""Whether a cluster is healthy and ready: what `bkd status --healthy` answers to probes. Pure.

**Healthy** means that bkd can still help itself: its keeper lives, and no group has failed for good. A group that
loads, waits for its next try or stops is healthy: to end the container would not make it better. **Ready** means that
every group serves: it has a ready worker, or has finished its work, and the start it belongs to is over.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..ipc.message import Finished
from .desk import UsageError

Row = dict[str, Any]
MOST_NAMED = 3


class Health(NamedTuple):
    """Why it is not healthy, and why it is not ready; both empty when all is well."""

    ailing: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """For `--json`. What is not healthy is not ready either."""
        reasons = [*self.ailing, *self.waiting]
        return {"healthy": not self.ailing, "ready": not reasons, "reasons": reasons}


def answer(status: Row, arguments: dict[str, Any], render: str, *, orphaned: bool) -> Finished:
    """The answer to `bkd status --healthy [--ready] [GROUP…]`; raises UsageError for a group that is not there."""
    health = judge(status, arguments.get("names") or (), orphaned=orphaned)
    document = health.document()
    wanted = "ready" if arguments.get("ready") else "healthy"
    well = document[wanted]
    out = json.dumps(document) + "\n" if render == "json" else f"{wanted}\n" if well else ""
    why = "; ".join(document["reasons"] if wanted == "ready" else health.ailing)
    return Finished(0 if well else 1, out=out, err="" if well else f"bkd: not {wanted}: {why}\n")


def judge(status: Row, names: Sequence[str] = (), *, orphaned: bool = False) -> Health:
    """From the document of `bkd status --json`; of these groups alone if any are named. `orphaned`: the master's keeper
    is gone. Raises UsageError."""
    groups = _chosen(status["groups"], names)
    ailing = ["the keeper is gone"] if orphaned else []
    ailing += [why for group in groups if (why := _lost(group))]
    waiting = ["it is stopping"] if status["state"] == "stopping" else []
    waiting += [why for group in groups if not _lost(group) and (why := _missing(group))]
    return Health(tuple(ailing), tuple(waiting))


def _chosen(groups: list[Row], names: Sequence[str]) -> list[Row]:
    there = {group["name"]: group for group in groups}
    unknown = [str(name) for name in names if name not in there]
    if unknown:
        raise UsageError(f"no group {unknown[0][:40]}; there are {', '.join(there)}")
    return [there[name] for name in names] if names else groups


def _lost(group: Row) -> str:
    """Why it has failed for good, "" when it has not."""
    slots = group["workers"]
    if not slots or any(slot["state"] != "failed" for slot in slots):
        return ""
    end = next((slot["last_exit"] for slot in slots if slot["last_exit"]), None)
    why = _because(end["reason"] or end["cause"]) if end else ""
    return f"{group['name']} has failed{why}; bkd reset {group['name']} tries it again"


def _missing(group: Row) -> str:
    """What it still waits for, "" when it serves."""
    slots = group["workers"]
    if all(slot["state"] == "done" for slot in slots):
        return ""
    if not group["ready"]:
        return f"{group['name']} has no ready worker ({_states(slots)}){_because(group['reason'])}"
    pending = [slot for slot in slots if _is_pending(slot, slots)]
    return f"{group['name']} is still starting ({_states(pending)})" if pending else ""


def _is_pending(slot: Row, slots: Iterable[Row]) -> bool:
    """Whether it belongs to a start: nobody in the group was ready when this slot began. One more worker, or the
    successor of one, is waited for by nobody."""
    if slot["state"] != "starting" or slot["uptime"] is None:
        return False
    return all(other["uptime"] <= slot["uptime"] for other in slots if other["state"] == "ready")


def _states(slots: Sequence[Row]) -> str:
    named = [f"{slot['name']} {slot['state']}" for slot in slots[:MOST_NAMED]]
    more = [f"{len(slots) - MOST_NAMED} more"] if len(slots) > MOST_NAMED else []
    return ", ".join(named + more)


def _because(reason: str | None) -> str:
    """As the end of a line."""
    return f": {' '.join(reason.split())}" if reason else ""
