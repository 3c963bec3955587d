"""A worker hangs, crashes or is killed in ten ways: what each supervisor tells of it, at most three lines a case."""

import socket

import explain
from case import Case, Figures
from client import free_port
from explain import TROUBLES
from figures import Rounds, grid, metrics
from peers import Task
from place import HOST

NOTHING = "(nothing)"


def measure(name: str, *, workers: int = 2, only: str = "") -> Figures:
    """The lines told of each trouble, as `trouble: line`. `only`: a single one of them."""
    figures: Figures = {}
    with socket.create_server((HOST, free_port())) as silent:
        for title in [only] if only else TROUBLES:
            for line in trial(name, title, workers, silent.getsockname()[1]) or [NOTHING]:
                figures[f"{title}: {line}"] = [1.0]
    return figures


def trial(name: str, title: str, workers: int, port: int) -> list[str]:
    """One start of the peer, one trouble."""
    trouble, task = TROUBLES[title], Task(workers=workers, hang_limit=explain.LIMIT)
    with explain.troubled(name, task, trouble, port) as site:
        logs = site.logs()
        explain.cause(site, trouble, port)
        explain.wait_until_told(trouble)
        return explain.told(site, logs)


def report(results: dict[str, Rounds]) -> str:
    met = [title for title in TROUBLES if any(words(rounds, title) != "–" for rounds in results.values())]
    return grid(results, met, words)


def words(rounds: Rounds, title: str) -> str:
    told = [metric.removeprefix(f"{title}: ") for metric in metrics({"": rounds}) if metric.startswith(f"{title}: ")]
    return "<br>".join(line if line == NOTHING else f"`{line}`" for line in told) or "–"


CASE = Case(
    title="what is told of a worker's end",
    measure=measure,
    peers=("gunicorn-sync", "gunicorn", "uvicorn", "supervisord", "bkd"),
    rounds=1,
    report=report,
)
