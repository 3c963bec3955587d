"""One message to 64 workers over Redis, until all have handled and acknowledged it."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import hosts
from case import Case, Figures
from figures import Rounds, pooled, shown
from place import APPS, HOST, program
from redis_server import redis_server

LIMIT = 300.0
METRIC = "all have answered, ms"


def measure(name: str, *, masters: int = 8, each: int = 8, rounds: int = 200, pause: float = 0.3) -> Figures:
    if name == "bkd":
        return of_fleet(masters, each, rounds, pause)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, redis_server(Path(folder)) as port:
        return (
            of_celery(Path(folder), port, masters, rounds)
            if name == "celery"
            else of_redis(port, masters * each, rounds)
        )


def of_fleet(masters: int, each: int, rounds: int, pause: float) -> Figures:
    jobs = f'[workers.jobs]\nkind = "python"\ntarget = "broadcast_app:work"\ncount = {each}\n'
    env = f'env = {{ BENCH_ROUNDS = "{rounds}", BENCH_WORKERS = "{masters * each}" }}'
    ask = (
        f'[workers.ask]\nkind = "python"\ntarget = "broadcast_app:ask"\n{env}\n[when.host.h1.workers.ask]\ncount = 1\n'
    )
    names = [f"h{number}" for number in range(1, masters + 1)]
    with hosts.running(names, jobs + ask.replace(env, f"count = 0\n{env}"), redis=True, pause=pause) as fleet:
        return fleet[0].told(LIMIT)


def of_redis(port: int, workers: int, rounds: int) -> Figures:
    argv = [program("python"), str(APPS / "broadcast_redis.py"), str(port)]
    with children([[*argv, "work"]] * workers):
        return asked([*argv, str(rounds), str(workers)])


def of_celery(folder: Path, port: int, workers: int, rounds: int) -> Figures:
    env = {"BENCH_REDIS": f"redis://{HOST}:{port}/0", "C_FORCE_ROOT": "1", "PYTHONPATH": str(APPS)}
    options = ["--pool", "solo", "--without-gossip", "--without-mingle", "-l", "error"]
    argv = [program("celery"), "-A", "broadcast_celery", "worker", *options]
    with children([[*argv, "-n", f"w{number}@bench"] for number in range(workers)], env):
        return asked([program("python"), str(APPS / "broadcast_celery.py"), str(rounds), str(workers)], env)


def asked(argv: list[str], env: dict[str, str] | None = None) -> Figures:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=LIMIT, env=os.environ | (env or {})
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-600:])
    return dict(json.loads(done.stdout))


@contextmanager
def children(commands: list[list[str]], env: dict[str, str] | None = None) -> Iterator[None]:
    """These programs at work, and killed afterwards."""
    with ExitStack() as stack:
        for argv in commands:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | (env or {}),
            )
            stack.callback(child.wait, 10)
            stack.callback(child.kill)
        yield


def report(results: dict[str, Rounds]) -> str:
    """The slow ones count here, so the table has p95 as well."""
    lines = ["| peer | n | p50, ms | p95, ms | slowest, ms |", "|---|--:|--:|--:|--:|"]
    for peer, rounds in results.items():
        if values := sorted(pooled(rounds, METRIC)):
            p95 = values[int(0.95 * (len(values) - 1))]
            cells = [peer, str(len(values)), *map(shown, (median(values), p95, values[-1]))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


CASE = Case(
    title="one message to 64 workers of 8 masters until all have acknowledged it (Celery: 8 workers)",
    measure=measure,
    peers=("redis-py", "celery", "bkd"),
    rounds=1,
    report=report,
)
