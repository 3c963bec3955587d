"""What bkd may see of its workers and of the kernel; runs in a child process (see `attempt`)."""

import os
import resource
import time
from typing import NoReturn

from ..config.processors import read_file
from .attempt import Probe
from .finding import Finding

PATIENCE = 1.0
LOOK = 0.005

MOUNT = "bkd tells processes by it: mount -t proc proc /proc"
WITHOUT = {
    "wchan": "where in the kernel a worker sleeps is not told",
    "syscall": "which system call a worker hangs in is not told",
    "smaps_rollup": "max_memory ends nobody: how much a worker has of its own is not known",
    "environ": "what workers leave behind is found by process groups only",
    "fd": "no stacks of workers that do not answer",
}
SCOPES = {"1": "of its own descendants, which workers are not", "2": "with CAP_SYS_PTRACE", "3": "nothing at all"}


def probes() -> dict[str, Probe]:
    """Of what is told about other processes."""
    return {
        "/proc": proc,
        "workers in /proc": lambda: workers(looked(), read_file("/proc/sys/kernel/yama/ptrace_scope")),
        "kernel log": kernel_log,
        "core dumps": lambda: core_dumps(
            resource.getrlimit(resource.RLIMIT_CORE)[0], read_file("/proc/sys/kernel/core_pattern")
        ),
    }


def proc() -> Finding:
    """Whether it is mounted, and tells of the processes that this one sees."""
    try:
        me = os.readlink("/proc/self")
    except OSError as error:
        return Finding("/proc", "missing", error.strerror or str(error), MOUNT)
    if me != str(os.getpid()):
        return Finding("/proc", "missing", "is of another PID namespace", MOUNT)
    return Finding("/proc", "ok", "tells of this PID namespace")


def looked() -> dict[str, str]:
    """What cannot be read of a process that is as near to this one as a worker is to the master, and why.

    It is no descendant: its parent ends first.
    """
    told, tell = os.pipe()
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            _sleeper(tell)
        os._exit(0)
    os.waitpid(middle, 0)
    pid, descriptor = (int(number) for number in os.read(told, 100).split())
    _until_asleep(f"/proc/{pid}/wchan")
    return {name: why for name in WITHOUT if (why := _hidden(pid, name, descriptor))}


def workers(hidden: dict[str, str], scope: str | None) -> Finding:
    """From what could not be read, and yama's ptrace_scope."""
    name = "workers in /proc"
    if len(hidden) == len(WITHOUT):
        return Finding(name, "degraded", "cannot be read", "reports of hung workers have next to nothing in them")
    if not hidden:
        return Finding(name, "ok", f"can be read: {', '.join(WITHOUT)}")
    means = [WITHOUT[file] for file in hidden]
    allowed = SCOPES.get((scope or "").strip())
    if allowed and "syscall" in hidden:
        means.append(f"yama lets a process read that {allowed}: kernel.yama.ptrace_scope = 0, or CAP_SYS_PTRACE")
    return Finding(name, "degraded", ", ".join(f"{file}: {why}" for file, why in hidden.items()), "; ".join(means))


def kernel_log() -> Finding:
    """Opened as for the messages on processes killed for memory."""
    try:
        os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        means = "the kernel's words on a death are not shown; kernel.dmesg_restrict = 0, or CAP_SYSLOG"
        return Finding("kernel log", "degraded", error.strerror or str(error), means)
    return Finding("kernel log", "ok", "can be read")


def core_dumps(limit: int, pattern: str | None) -> Finding:
    """From the limit in bytes and core_pattern."""
    where = (pattern or "").strip() or "nowhere"
    where = f"to {where[1:].split()[0]}" if where.startswith("|") and len(where) > 1 else f"as {where}"
    if where.startswith("to ") or limit:
        return Finding("core dumps", "ok", f"written {where}")
    return Finding("core dumps", "ok", "none (ulimit -c 0)", "a crash in C leaves its Python stack all the same")


def _sleeper(tell: int) -> NoReturn:
    """Runs in the process that is looked at; ended with the group."""
    never, _end = os.pipe()
    os.write(tell, b"%d %d" % (os.getpid(), os.memfd_create("doctor")))
    os.read(never, 1)
    os._exit(0)


def _until_asleep(wchan: str) -> None:
    """Until the kernel says where it sleeps, if it ever does."""
    deadline = time.monotonic() + PATIENCE
    while read_file(wchan) == "0" and time.monotonic() < deadline:
        time.sleep(LOOK)


def _hidden(pid: int, name: str, descriptor: int) -> str:
    """Why it cannot be read, "" when it can."""
    path, mode = (f"/proc/{pid}/{name}", os.O_RDONLY)
    if name == "fd":
        path, mode = f"{path}/{descriptor}", os.O_RDWR
    try:
        opened = os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return error.strerror or str(error)
    try:
        content = os.read(opened, 4096)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(opened)
    return "hidden" if name == "wchan" and content == b"0" else ""
