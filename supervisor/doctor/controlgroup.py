"""The control group this runs in: what it limits, what it counts, and whether it is ours."""

import os
from pathlib import Path

from .. import cgroup
from ..config.processors import processors, read_file
from ..fact import volume
from .attempt import Probe
from .finding import Finding

FULL = 0.9
NO_OOM = "a death for lack of memory looks like a SIGKILL from outside"


def probes() -> dict[str, Probe]:
    """Of the group this process is in now; the service may be put into another one."""
    return {
        "cgroup": lambda: hierarchy(read_file("/proc/self/cgroup"), folder()),
        "delegation": lambda: _delegated(folder()),
        "memory limit": lambda: _limited(folder()),
        "OOM kills": lambda: _counted(folder()),
        "CPUs": lambda: cpus(processors(), os.cpu_count() or 1),
    }


def hierarchy(text: str | None, folder: Path | None) -> Finding:
    """From /proc/self/cgroup and where the group with the memory counters was found."""
    lines = [line.split(":", 2) for line in (text or "").splitlines() if line.count(":") >= 2]
    path = next((path for _number, controllers, path in lines if "memory" in controllers.split(",")), None)
    if path is not None:
        found = f"version 1, {path}"
    else:
        path = next((path for number, _controllers, path in lines if number == "0"), None)
        found = f"version 2, {path}"
    if path is None or folder is None:
        return Finding("cgroup", "degraded", "not mounted" if path else "none", NO_OOM)
    return Finding("cgroup", "ok", found)


def delegation(*, writable: bool, kill: bool) -> Finding:
    """Whether groups could be made for workers."""
    means = "descendants are found in /proc and ended one by one"
    if not writable:
        return Finding("delegation", "degraded", "not delegated", f"{means}; systemd: Delegate=yes")
    if not kill:
        return Finding("delegation", "degraded", "no cgroup.kill (version 2, Linux 5.14)", means)
    return Finding("delegation", "ok", "delegated")


def memory(used: int | None, limit: int | None) -> Finding:
    """Of the tightest limit above this process."""
    if limit is None:
        return Finding("memory limit", "ok", "none but the machine's")
    found = volume(limit) if used is None else f"{volume(limit)}, {used / max(1, limit):.0%} in use"
    if used is not None and used > FULL * limit:
        means = "the kernel kills a worker when it is used up: a higher limit, fewer workers, or max_memory"
        return Finding("memory limit", "degraded", found, means)
    return Finding("memory limit", "ok", found)


def oom_kills(count: int | None) -> Finding:
    """From memory.events or memory.oom_control."""
    if count is None:
        return Finding("OOM kills", "degraded", "not counted here", NO_OOM)
    return Finding("OOM kills", "ok", f"counted, {count} so far")


def cpus(usable: int, machine: int) -> Finding:
    """What `count = "auto"` stands for."""
    of = "" if usable == machine else f" of the machine's {machine} (affinity and cpu.max)"
    return Finding("CPUs", "ok", f'{usable}{of}: count = "auto" is {usable}')


def folder() -> Path | None:
    """Of the own group; None where there is none to be found."""
    try:
        return cgroup.own_cgroup()
    except FileNotFoundError:  # no /proc, which is a finding of its own
        return None


def _delegated(group: Path | None) -> Finding:
    if group is None:
        return delegation(writable=False, kill=False)
    writable = all(os.access(path, os.W_OK) for path in (group, group / "cgroup.procs"))
    return delegation(writable=writable, kill=(group / "cgroup.kill").exists())


def _limited(group: Path | None) -> Finding:
    return memory(*(cgroup.memory_limit(group) if group else (None, None)))


def _counted(group: Path | None) -> Finding:
    return oom_kills(cgroup.oom_kills(group) if group else None)
