"""The first thing that another bkd does before it takes over: it reads a copy of the live state, and says what it makes
of it.

Runs in a process of its own, in the interpreter that is to run the next master. Touches nothing.
"""

import json
import os
import sys
import time
import traceback
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..ipc.errors import BkdError

if TYPE_CHECKING:
    from .cluster import Cluster

ROUNDS = 100
RESTART = "it needs a restart (bkd stop, then bkd start)"
NEEDED = (
    "supervisor.master",
    "supervisor.keeperstate",
    "supervisor.keeper",
    "supervisor.viewer",
    "supervisor.metrics.exposition",
    "workers.zygote",
)


class Misfit(BkdError):
    """The next bkd cannot take over from the one that runs; the text says why."""


def main() -> None:
    """Entry point. The argument is JSON: `state`, the path of the copy; `protocol` and `link`, the versions of what
    workers and the keeper speak. The last line printed is the report."""
    report: dict[str, Any] = {"version": __version__, "python": sys.executable, "ok": False}
    try:
        report |= {"ok": True, "actions": rehearse(json.loads(sys.argv[1]))}
    except Misfit as error:
        report["reason"] = str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, it would have ended the master
        traceback.print_exc()
        report["reason"] = f"{type(error).__name__}: {error}"
    sys.stderr.flush()
    print(json.dumps(report), flush=True)  # noqa: T201 - what this process is for
    os._exit(0 if report["ok"] else 1)  # threads of what was imported must not keep it


def rehearse(asked: dict[str, Any]) -> dict[str, int]:
    """How many actions of each kind the first turn would take. Raises Misfit, and whatever an import raises."""
    package = __name__.partition(".")[0]
    for name in NEEDED:
        import_module(f"{package}.{name}")
    check_versions(asked)
    with open(asked["state"], "rb") as file:
        return planned(read(file.read()), time.monotonic())


def check_versions(asked: dict[str, Any]) -> None:
    """Raises Misfit when workers or the keeper speak otherwise than this bkd."""
    from ..ipc.message_names import VERSION
    from .keeperupgrade import LINK

    for who, theirs, ours in (("workers", asked["protocol"], VERSION), ("the keeper", asked["link"], LINK)):
        if theirs != ours:
            raise Misfit(f"{who} speak version {theirs} of the protocol, bkd {__version__} speaks {ours}: {RESTART}")


def read(data: bytes) -> "Cluster":
    """The cluster of a state file, as a master would read it. Raises Misfit."""
    import msgspec

    from .memory import SCHEMA, State

    try:
        schema = msgspec.msgpack.decode(data).get("schema")
        if schema != SCHEMA:
            raise Misfit(f"the state has schema {schema}, bkd {__version__} reads {SCHEMA}: {RESTART}")
        return msgspec.msgpack.decode(data, type=State).cluster
    except msgspec.MsgspecError as error:
        raise Misfit(f"bkd {__version__} cannot read the state: {error}: {RESTART}") from error


def planned(cluster: "Cluster", now: float) -> dict[str, int]:
    """How many actions of each kind the policy gives for it at `now`; they are counted and not carried out."""
    from .apply import apply
    from .events import Adopted, Taken
    from .reconcile import reconcile

    counts: Counter[str] = Counter()
    cluster = apply(cluster, Adopted(0.0), now)
    for _ in range(ROUNDS):
        plan = reconcile(cluster, now)
        if not plan.actions:
            break
        for action in plan.actions:
            counts[type(action).__name__] += 1
            cluster = apply(cluster, Taken(action), now)
    return dict(counts)
