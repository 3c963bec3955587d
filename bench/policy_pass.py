"""Times the policy in this process, over slots that all have a ready worker: SLOTS PASSES. Prints figures as JSON.

The cluster is made as the master makes it: by passes whose actions are answered with events.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from bkd.supervisor import actions, events
from bkd.supervisor.apply import apply
from bkd.supervisor.cluster import Cluster
from bkd.supervisor.config.schema import GroupSection, PingSection
from bkd.supervisor.founding import founded
from bkd.supervisor.reconcile import reconcile

START = 1000.0


def outcome(action: actions.Action) -> list[events.Event]:
    """What a world in which everything works answers."""
    if isinstance(action, actions.LoadRelease):
        loaded = events.LoaderReady(action.group, action.release, 0.1)
        return [events.LoaderSpawned(action.group, action.release, 2), loaded]
    if isinstance(action, actions.Spawn):
        pid = 10_000 + action.worker
        return [events.Spawned(action.worker, pid, pid), events.BecameReady(action.worker)]
    raise ValueError(f"unexpected while starting: {action}")


def started(slots: int) -> Cluster:
    cluster = founded({"web": GroupSection(name="web", kind="web", count=slots)}, PingSection())
    while planned := reconcile(cluster, START).actions:
        for action in planned:
            for event in [events.Taken(action), *outcome(action)]:
                cluster = replace(apply(cluster, event, START), news=())
    return cluster


def timed(call: Callable[[], Any], times: int) -> list[float]:
    """Seconds of each call."""
    taken = []
    for _ in range(times):
        since = time.perf_counter()
        call()
        taken.append(time.perf_counter() - since)
    return taken


def main() -> None:
    slots, passes = int(sys.argv[1]), int(sys.argv[2])
    cluster = started(slots)
    workers = [worker.id for _, _, worker in cluster.workers()]
    if len(workers) != slots:
        sys.exit(f"{len(workers)} workers for {slots} slots")
    calm = START + 1
    silent = START + cluster.ping.interval + 1
    if reconcile(cluster, calm).actions or len(reconcile(cluster, silent).actions) != slots:
        sys.exit("the policy does not do what is to be timed")
    ping = events.Pinged(workers[slots // 2], lag=0.001, rss=30_000_000, cpu=1.0)
    figures = {
        "pass, all well, ms": timed(lambda: reconcile(cluster, calm), passes),
        "pass, all silent, ms": timed(lambda: reconcile(cluster, silent), passes),
        "one heartbeat applied, ms": timed(lambda: apply(cluster, ping, calm), passes),
    }
    print(json.dumps({metric: [1000 * value for value in values] for metric, values in figures.items()}))


if __name__ == "__main__":
    main()
