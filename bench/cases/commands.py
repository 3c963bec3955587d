"""Foreign programs: how long until they all run, each with a log of its own."""

import time

import proc
from case import Case, Figures
from peers import Peer, Task, running


def sleepers(peer: Peer) -> set[int]:
    return {pid for pid in proc.children(peer.pid) if proc.command(pid) == "sleep"}


def measure(name: str, *, count: int = 200, settle: float = 3.0) -> Figures:
    since = time.monotonic()
    with running(name, Task(workers=count, sleepers=True)) as peer:
        proc.wait_for(lambda: len(sleepers(peer)) >= count or peer.process.poll() is not None, 60, step=0.005)
        took = time.monotonic() - since
        started = sleepers(peer)
        time.sleep(settle)
        check(peer, started, count)
        return {"all run, s": [took]}


def check(peer: Peer, started: set[int], count: int) -> None:
    """RuntimeError when one was not started, has died or was started again, or has no log."""
    if len(started) != count or sleepers(peer) != started:
        raise RuntimeError(f"{len(started)} of {count} programs started, {len(sleepers(peer) & started)} stayed")
    logs = len(list(peer.sleep_logs().glob("*.log")))
    if logs < count:
        raise RuntimeError(f"{logs} logs for {count} programs")


CASE = Case(
    title="200 foreign programs until all run",
    measure=measure,
    peers=("supervisord", "circus", "bkd"),
)
