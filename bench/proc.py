"""Facts about processes from /proc, and the ending of those a benchmark started."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

PR_SET_CHILD_SUBREAPER = 36
T = TypeVar("T")


def become_subreaper() -> None:
    """Orphans of a peer become children of the benchmark, which can then find and end them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_for(check: Callable[[], T], seconds: float, step: float = 0.01) -> T:
    """The first true value of `check()`, or its last one when the time is over."""
    deadline = time.monotonic() + seconds
    while not (value := check()) and time.monotonic() < deadline:
        time.sleep(step)
    return value


def children(pid: int) -> list[int]:
    """Direct children, zombies among them."""
    return [int(child) for text in _of_tasks(pid, "children") for child in text.split()]


def _of_tasks(pid: int, name: str) -> Iterator[str]:
    """What this file says of each thread; the process, or a thread of it, may end meanwhile."""
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{pid}/task").glob(f"*/{name}"):
            with contextlib.suppress(OSError):
                yield file.read_text()


def tree(pid: int) -> list[int]:
    """All living descendants, without `pid` itself."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        offspring = children(waiting.pop())
        waiting += offspring
        found += filter(alive, offspring)
    return found


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b") ")[2][:1] not in b"ZX"


def command(pid: int) -> str:
    """The kernel's short name of the program; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time used by the living threads of these processes, to the nanosecond (stat counts in 10 ms)."""
    return sum(int(text.split()[0]) for pid in pids for text in _of_tasks(pid, "schedstat")) / 1e9


def reaped_seconds(pids: Iterable[int]) -> float:
    """CPU time of those children of these processes that have ended and were waited for, in steps of 10 ms."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
        except OSError:  # the process ended meanwhile
            continue
        total += int(fields[13]) + int(fields[14])
    return total / os.sysconf("SC_CLK_TCK")


def pss(pids: Iterable[int]) -> float:
    """Proportional set size in MiB: pages shared by n processes count 1/n for each."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # the process ended meanwhile
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def rss(pid: int) -> float:
    """Resident set size in MiB; 0 when the process is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0.0
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def end_everything(grace: float) -> None:
    """End all processes below this one, by pid: they have `grace` seconds to leave, then SIGKILL.

    RuntimeError when some are still there 10 s later.
    """
    wait_for(lambda: not _remaining(), grace)
    if not wait_for(lambda: not _kill_remaining(), 10):
        raise RuntimeError(f"processes that do not end: {_remaining()}")


def _remaining() -> list[int]:
    here = os.getpid()
    for child in children(here):
        if not alive(child):
            try:
                os.waitpid(child, os.WNOHANG)
            except ChildProcessError:  # Popen was first
                continue
    return tree(here)


def _kill_remaining() -> list[int]:
    remaining = _remaining()
    for pid in remaining:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return remaining
