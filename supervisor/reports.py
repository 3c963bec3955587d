"""What whoever waited is told in the end: lines, a document, and the exit code. Pure."""

import json
from typing import Any

from ..ipc.message import Finished
from .cluster import Cluster, Outcome
from .desk import Request
from .facts import RollAborted, RollDone
from .waiting import Waiting, is_fresh

PARTLY = 3
UNKNOWN = dict.fromkeys(("stage", "release", "from", "reason", "trace", "took"))
Traces = dict[str, tuple[int, str]]


def verdict(request: Request, waiting: Waiting, cluster: Cluster, traces: Traces) -> Finished:
    """0 everything is done, 1 nothing is, 3 some of it. `traces`: of each group the release that was aborted last, and
    what it said."""
    done: list[str] = []
    failed: list[str] = []
    documents = []
    for name in waiting.tickets:
        outcome = waiting.outcomes.get(name)
        trace = _trace(name, outcome, traces)
        documents.append(document(name, outcome, trace, waiting.missed.get(name, "")))
        line = f"{trace}{_line(cluster, name, outcome)}" if outcome else f"bkd: {name}: {waiting.missed.get(name)}\n"
        (done if outcome and outcome.done else failed).append(line)
    for name, old in waiting.slots.items():
        fresh = name not in waiting.missed and is_fresh(cluster, name, old)
        why = "" if fresh else waiting.missed.get(name, "it has no fresh worker; see bkd events")
        documents.append({"name": name, "state": "aborted" if why else "done", **UNKNOWN, "reason": why or None})
        (failed if why else done).append(f"bkd: {name}: {why}\n" if why else f"{name} has a fresh worker\n")
    left = any(outcome.left for outcome in waiting.outcomes.values())
    code = (PARTLY if left else 0) if not failed else PARTLY if done else 1
    return finished(request, documents, code, "".join(done), "".join(failed))


def finished(request: Request, documents: list[dict[str, Any]], code: int, out: str, err: str) -> Finished:
    """In the form that was asked for; errors are lines in either."""
    if request.command.render == "json":
        return Finished(code, json.dumps({"groups": documents}) + "\n", err)
    return Finished(code, out, err)


def document(name: str, outcome: Outcome | None, trace: str = "", missed: str = "") -> dict[str, Any]:
    """One row of `--json`; what cannot be known is null."""
    if outcome is None:
        return {"name": name, "state": "aborted", **UNKNOWN, "reason": missed or None}
    return {
        "name": name,
        "state": "done" if outcome.done else "aborted",
        "stage": str(outcome.stage),
        "release": outcome.release,
        "from": outcome.old,
        "reason": outcome.reason or None,
        "trace": trace or None,
        "took": round(outcome.took, 3),
    }


def _trace(name: str, outcome: Outcome | None, traces: Traces) -> str:
    release, trace = traces.get(name, (0, ""))
    return trace if outcome is not None and not outcome.done and outcome.release == release else ""


def _line(cluster: Cluster, name: str, outcome: Outcome) -> str:
    release, old, took = outcome.release, outcome.old, outcome.took
    if not outcome.done:
        stage, reason, serving = str(outcome.stage), outcome.reason, outcome.serving
        said = RollAborted(group=name, release=release, old=old, stage=stage, reason=reason, serving=serving)
        return f"{said.describe()}\n"
    group, left = cluster.groups.get(name), list(outcome.left)
    workers = sum(1 for slot in group.eligible() if slot.serves) if group else 0
    live = RollDone(group=name, release=release, old=old, workers=workers, seconds=took, left=left)
    return f"{live.describe()}\n"
