"""Celery: the app of its workers, and `ROUNDS WORKERS`, which measures and prints figures as JSON."""

import json
import os
import sys
import time

from celery import Celery

PAUSE, LIMIT = 0.05, 5

app = Celery("bench", broker=os.environ["BENCH_REDIS"])
app.conf.broker_connection_retry_on_startup = True


def ask(rounds: int, workers: int) -> None:
    deadline = time.monotonic() + 60
    while len(app.control.ping(timeout=1)) < workers:
        if time.monotonic() > deadline:
            raise RuntimeError("the workers did not start")
    print(json.dumps({"all have answered, ms": [one_round(workers) for _ in range(rounds)]}))


def one_round(workers: int) -> float:
    """It waits no longer than until so many have answered."""
    time.sleep(PAUSE)
    since = time.monotonic()
    answers = app.control.broadcast("ping", reply=True, timeout=LIMIT, limit=workers)
    if len(answers) != workers:
        raise RuntimeError(f"{len(answers)} of {workers} answered")
    return 1000 * (time.monotonic() - since)


if __name__ == "__main__":
    ask(*map(int, sys.argv[1:]))
