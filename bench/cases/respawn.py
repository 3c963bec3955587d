"""kill -9 of the only worker: how long until a client is answered by its replacement."""

import os
import random
import signal
import time

from case import Case, Figures
from client import ask_pid, replaced_after
from peers import Task, running


def measure(name: str, *, kills: int = 10, heavy: bool = False) -> Figures:
    taken: list[float] = []
    with running(name, Task(heavy=heavy)) as peer:
        for _ in range(kills):
            peer.answering()
            time.sleep(random.uniform(*peer.pause))
            victim = ask_pid(peer.port, timeout=5)
            since = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            taken.append(1000 * replaced_after(peer.port, victim, since, limit=30, patience=5))
    return {"kill to answer, ms": taken}


CASE = Case(
    title="kill -9 of the only worker until another answers",
    measure=measure,
    peers=("gunicorn", "gunicorn-preload", "gunicorn-sync", "uvicorn", "granian", "supervisord", "circus", "bkd"),
    rounds=2,
    variants={"light": {"heavy": False}, "heavy": {"heavy": True}},
)
