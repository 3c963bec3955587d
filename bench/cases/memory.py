"""Memory of everything, fresh, with 8 workers of a heavy application."""

import time

import proc
from case import Case, Figures
from peers import Task, running


def measure(name: str, *, workers: int = 8, settle: float = 2.0) -> Figures:
    with running(name, Task(workers=workers, heavy=True)) as peer:
        peer.answering()
        time.sleep(settle)
        return {"everything, PSS MiB": [proc.pss([peer.pid, *proc.tree(peer.pid)])]}


CASE = Case(
    title="memory of 8 heavy workers and their supervisor, fresh",
    measure=measure,
    peers=("gunicorn", "gunicorn-preload", "gunicorn-sync", "uvicorn", "granian", "supervisord", "circus", "bkd"),
    rounds=3,
)
