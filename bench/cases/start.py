"""Cold start: from the exec of the command until every worker has answered."""

import time

import proc
from case import Case, Figures
from peers import Task, running


def measure(name: str, *, workers: int = 4, heavy: bool = False) -> Figures:
    since = time.monotonic()
    with running(name, Task(workers=workers, heavy=heavy)) as peer:
        times = peer.answering().values()
        cpu = proc.cpu_seconds([peer.pid, *proc.tree(peer.pid)])
        return {"all answer, s": [max(times) - since], "first answers, s": [min(times) - since], "CPU, s": [cpu]}


CASE = Case(
    title="cold start until every worker answers",
    measure=measure,
    peers=("gunicorn", "gunicorn-preload", "gunicorn-sync", "uvicorn", "granian", "supervisord", "circus", "bkd"),
    variants={
        "4 light": {"workers": 4, "heavy": False},
        "4 heavy": {"workers": 4, "heavy": True},
        "16 heavy": {"workers": 16, "heavy": True},
    },
)
