"""Requests lost and time taken while all workers are replaced under load by those of a new version.

Beside the busy visitors there are some whose kept connections lie idle for about as long as a draining worker of bkd
keeps such a connection open.
"""

import time

import proc
from case import Case, Figures
from deploy import Deployed, Site
from figures import Rounds, grid, metrics, summed, typical
from peers import Task, running
from place import pm2
from traffic import BUSY, CLOSED, LOST, QUICK, Record, flowing

PAUSES = (1.9, 2.0, 2.5)
LIMIT = 90.0
AFTERMATH = 2.0
"""What goes wrong so long after a roll still counts."""


def measure(name: str, *, rolls: int = 1, workers: int = 4, heavy: bool = True, calm: float = 5.0) -> Figures:
    figures: Figures = {}
    with running(name, Task(workers=workers, heavy=heavy)) as peer:
        site, pids = Site(peer), set(peer.answering())
        time.sleep(1)
        with flowing(peer.port, PAUSES) as traffic:
            time.sleep(2)
            windows = [(time.monotonic(), time.monotonic() + calm)]
            time.sleep(calm)
            for _ in range(rolls):
                since = time.monotonic()
                deployed, pids = roll(site, pids)
                figures.setdefault("all new, s", []).append(time.monotonic() - since)
                if peer.deploy_waits:
                    figures.setdefault("command, s", []).append(deployed.seconds)
                time.sleep(AFTERMATH)
                windows.append((since, time.monotonic()))
            record = traffic.record()
    quiet, *during = [record.between(*window) for window in windows]
    return {**figures, **losses(during), **latencies("before", [quiet]), **latencies("during", during)}


def roll(site: Site, old: set[int]) -> tuple[Deployed, set[int]]:
    """Bring in a new version; ends when no old process lives and all new ones have answered.

    RuntimeError when the command fails, old processes stay, or the old version still answers.
    """
    site.put_good()
    deployed = site.deploy(LIMIT).succeeded()
    if not proc.wait_for(lambda: not any(map(proc.alive, old)), LIMIT):
        raise RuntimeError(f"{len(list(filter(proc.alive, old)))} old processes live on")
    new = set(site.peer.answering())
    if not site.live():
        raise RuntimeError("the old version still answers")
    return deployed, new


def losses(rolls: list[Record]) -> Figures:
    busy = [record.of(*BUSY) for record in rolls]
    figures = {outcome: [float(record.count(outcome)) for record in busy] for outcome in (*LOST, CLOSED)}
    figures["requests"] = [float(len(record.requests)) for record in busy]
    figures["longest silence, ms"] = [1000 * record.longest_silence() for record in busy]
    for visitor in (f"pause {pause:g} s" for pause in PAUSES):
        idle = [record.of(visitor) for record in rolls]
        figures[f"{visitor}: requests"] = [float(len(record.requests)) for record in idle]
        figures[f"{visitor}: lost"] = [float(record.lost()) for record in idle]
        figures[f"{visitor}: {CLOSED}"] = [float(record.count(CLOSED)) for record in idle]
    return figures


def latencies(when: str, records: list[Record]) -> Figures:
    """Of answers that take no time of their own."""
    quick = [record.of(*QUICK) for record in records]
    return {f"p{p} {when}, ms": [record.milliseconds(p) for record in quick] for p in (50, 99)}


def report(results: dict[str, Rounds]) -> str:
    """Counts as sums of all rolls, times as medians; the range is that of single rolls."""

    def cell(rounds: Rounds, metric: str) -> str:
        return typical(rounds, metric) if metric.endswith((", s", ", ms")) else summed(rounds, metric)

    return grid(results, metrics(results), cell)


CASE = Case(
    title="rolls of 4 workers under load: sum of all rolls, or median (single rolls)",
    measure=measure,
    peers=("gunicorn", "uvicorn", "granian", "supervisord", *(["pm2"] if pm2() else []), "bkd"),
    variants={"heavy": {"heavy": True}},
    report=report,
)
