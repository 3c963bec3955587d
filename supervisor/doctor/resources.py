"""Limits of this process, and how the machine treats memory."""

import os
import re
import resource
from pathlib import Path

from ..config.processors import read_file
from ..fact import volume
from ..listeners import BACKLOG
from . import controlgroup
from .attempt import Probe
from .finding import Finding
from .subject import Subject

FEW_FILES = 1024
SWAPPED = 0.1
UNLIMITED = resource.RLIM_INFINITY
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


def probes(subject: Subject) -> dict[str, Probe]:
    """Against what the configuration asks for."""
    return {
        "open files": lambda: files(subject.files, *resource.getrlimit(resource.RLIMIT_NOFILE)),
        "processes": lambda: processes(
            subject.processes, resource.getrlimit(resource.RLIMIT_NPROC)[0], _most_pids(), privileged=os.geteuid() == 0
        ),
        "backlog": lambda: backlog(read_file("/proc/sys/net/core/somaxconn")),
        "migration": lambda: migration(read_file("/proc/sys/net/ipv4/tcp_migrate_req")),
        "huge pages": lambda: huge_pages(read_file(HUGE_PAGES)),
        "overcommit": lambda: overcommit(read_file("/proc/sys/vm/overcommit_memory")),
        "swap": lambda: swap(read_file("/proc/meminfo")),
    }


def files(needed: int, soft: int, hard: int) -> Finding:
    """The master raises its own limit to the hard one; workers keep the soft one."""
    found = f"{_number(soft)} for a worker, {_number(hard)} for bkd, which needs {needed}"
    if hard != UNLIMITED and hard < needed:
        return Finding("open files", "missing", found, "raise the hard limit: ulimit -Hn, systemd: LimitNOFILE=")
    if soft != UNLIMITED and soft <= FEW_FILES:
        means = f"a worker has room for fewer than {soft} connections: ulimit -n, systemd: LimitNOFILE="
        return Finding("open files", "degraded", found, means)
    return Finding("open files", "ok", found)


def processes(needed: int, limit: int, group_limit: int | None, *, privileged: bool) -> Finding:
    """RLIMIT_NPROC, which counts everything of this user and does not bind root, and pids.max of the control group."""
    limits = [] if limit == UNLIMITED or privileged else [limit]
    most = min([*limits, *([] if group_limit is None else [group_limit])], default=None)
    if most is None:
        return Finding("processes", "ok", f"no limit, a roll of everything needs {needed}")
    found = f"{most}, a roll of everything needs {needed}"
    if most < needed:
        return Finding("processes", "missing", found, "raise it: ulimit -u, systemd: TasksMax=, Docker: --pids-limit")
    return Finding("processes", "ok", found)


def backlog(text: str | None) -> Finding:
    """From net.core.somaxconn."""
    if text is None:
        return Finding("backlog", "ok", "not told", f"bkd asks for {BACKLOG}")
    if int(text) < BACKLOG:
        means = f"so many connections wait at most, bkd asks for {BACKLOG}: sysctl net.core.somaxconn={BACKLOG}"
        return Finding("backlog", "degraded", text.strip(), means)
    return Finding("backlog", "ok", f"{text.strip()} connections may wait, bkd asks for {BACKLOG}")


def migration(text: str | None) -> Finding:
    """From net.ipv4.tcp_migrate_req, which servers need whose workers listen each for itself."""
    return Finding("migration", "ok", f"tcp_migrate_req {(text or 'none').strip()}: not needed, listeners are shared")


def huge_pages(text: str | None) -> Finding:
    """From transparent_hugepage/enabled: the word in brackets counts."""
    chosen = re.search(r"\[(\w+)\]", text or "")
    if chosen and chosen[1] == "always":
        means = f"memory comes in pieces of 2 MB, so workers take more: echo madvise > {HUGE_PAGES}"
        return Finding("huge pages", "degraded", "always", means)
    return Finding("huge pages", "ok", chosen[1] if chosen else "none")


def overcommit(text: str | None) -> Finding:
    """From vm.overcommit_memory."""
    if (text or "").strip() == "2":
        means = "each fork must fit into memory as if it shared nothing: sysctl vm.overcommit_memory=0"
        return Finding("overcommit", "degraded", "strict", means)
    return Finding("overcommit", "ok", "a fork costs what it changes")


def swap(text: str | None) -> Finding:
    """From /proc/meminfo."""
    sizes = {name: int(size) << 10 for name, size in re.findall(r"(Swap\w+):\s+(\d+) kB", text or "")}
    total, free = sizes.get("SwapTotal", 0), sizes.get("SwapFree", 0)
    if not total:
        return Finding("swap", "ok", "none")
    found = f"{volume(total - free)} of {volume(total)} in use"
    if total - free > SWAPPED * total:
        return Finding(
            "swap", "degraded", found, "workers that are swapped out answer and ping late: more memory, fewer workers"
        )
    return Finding("swap", "ok", found)


def _number(limit: int) -> str:
    return "unlimited" if limit == UNLIMITED else str(limit)


def _most_pids() -> int | None:
    """The group that counts memory is the one to look in, and where version 1 counts processes on their own."""
    folder = controlgroup.folder()
    places = [folder, Path(str(folder).replace("/memory/", "/pids/", 1))] if folder else []
    texts = [(read_file(f"{place}/pids.max") or "").strip() for place in places]
    return min((int(text) for text in texts if text.isdigit()), default=None)
