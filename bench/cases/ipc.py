"""Messages of 100 bytes between a worker and the master, each way and there and back, on one core."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import hosts
from case import Case, Figures
from place import APPS, program

LIMIT = 300.0


def measure(name: str, *, trips: int = 10_000, sends: int = 30_000, batches: int = 5, core: int = -1) -> Figures:
    core = sorted(os.sched_getaffinity(0))[core]
    if name == "bkd":
        return of_cluster(core, trips, sends, batches)
    return of_pair(name, core, [str(trips), str(sends), str(batches)])


def of_cluster(core: int, trips: int, sends: int, batches: int) -> Figures:
    env = f'env = {{ BENCH_TRIPS = "{trips}", BENCH_SENDS = "{sends}", BENCH_BATCHES = "{batches}" }}'
    groups = "".join(
        f'[workers.{group}]\nkind = "python"\ntarget = "ipc_app:{group}"\n{env}\n' for group in ("ask", "count")
    )
    with hosts.running(["h1"], groups, redis=False) as (host,):
        for pid in (host.status()["master_pid"], host.worker("ask.1")["pid"], host.worker("count.1")["pid"]):
            pin(pid, core)
        return host.told(LIMIT)


def pin(pid: int, core: int) -> None:
    """All threads of a process to one core; those that it begins later follow."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def of_pair(name: str, core: int, counts: list[str]) -> Figures:
    if name.startswith("node"):
        if shutil.which("node") is None:
            raise RuntimeError("there is no node")
        argv = ["taskset", "-c", str(core), "node", str(APPS / "ipc_node.js"), *counts]
    else:
        argv = [program("python"), str(APPS / "ipc_pair.py"), name, str(core), *counts]
    env = os.environ | {"BENCH_SERIALIZATION": "advanced" if name == "node-advanced" else "json"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=LIMIT, env=env)
    if done.returncode:
        raise RuntimeError(done.stderr[-600:])
    return dict(json.loads(done.stdout))


CASE = Case(
    title="messages between a worker and the master, on one core",
    measure=measure,
    peers=("pipe", "pipe-bytes", "node", "node-advanced", "codec", "bkd"),
    rounds=3,
)
