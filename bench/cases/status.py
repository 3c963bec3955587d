"""Wall time of the status command, each call beside an empty Python of the same interpreter."""

import time

from case import Case, Figures
from peers import Peer, Task, running
from place import program


def wall_ms(peer: Peer, argv: list[str]) -> float:
    since = time.monotonic()
    peer.call(argv)
    return 1000 * (time.monotonic() - since)


def measure(name: str, *, workers: int = 8, calls: int = 20) -> Figures:
    with running(name, Task(workers=workers)) as peer:
        peer.answering()
        time.sleep(2)
        status, nothing = peer.status_command(), [program("python"), "-c", "pass"]
        wall_ms(peer, status)
        pairs = [(wall_ms(peer, status), wall_ms(peer, nothing)) for _ in range(calls)]
    return {
        "status, ms": [ours for ours, _ in pairs],
        "empty Python, ms": [empty for _, empty in pairs],
        "more than empty, ms": [ours - empty for ours, empty in pairs],
    }


CASE = Case(
    title="status command",
    measure=measure,
    peers=("gunicorn", "supervisord", "circus", "bkd"),
    rounds=2,
)
