"""What supervision costs while nothing happens: everything that is not a worker."""

import time

import proc
from case import Case, Figures
from peers import Peer, Task, running


def roles(peer: Peer) -> dict[str, set[int]]:
    """Pids by role. A worker is what has answered; everything else supervises. The parts of that come after it."""
    serving = set(peer.answering())
    supervising = {peer.pid, *proc.tree(peer.pid)} - serving
    found = {"workers": serving, "supervision": supervising}
    if parts := peer.parts():
        found |= parts | {"other helpers": supervising.difference(*parts.values())}
    return found


def measure(name: str, *, workers: int = 8, settle: float = 5.0, seconds: float = 30.0) -> Figures:
    with running(name, Task(workers=workers)) as peer:
        by_role = roles(peer)
        time.sleep(settle)
        since = time.monotonic()
        before = {role: proc.cpu_seconds(pids) for role, pids in by_role.items()}
        time.sleep(seconds)
        minutes = (time.monotonic() - since) / 60
        used = {role: (proc.cpu_seconds(pids) - before[role]) / minutes for role, pids in by_role.items()}
        figures = {f"{role}, CPU s/min": [value] for role, value in used.items()}
        return figures | {f"{role}, PSS MiB": [proc.pss(pids)] for role, pids in by_role.items()}


CASE = Case(
    title="idle with 8 workers",
    measure=measure,
    peers=("gunicorn", "uvicorn", "granian", "supervisord", "circus", "bkd"),
    rounds=3,
)
