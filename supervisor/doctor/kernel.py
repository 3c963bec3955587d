"""Whether the kernel does what bkd is built on. What can be tried is tried; runs in a child process (see `attempt`)."""

import ctypes
import faulthandler
import os
import re
import select
import signal

from ...ipc.stacks import DUMP_SIGNAL
from ..config.processors import read_file
from .attempt import Probe
from .finding import Finding

OLDEST = (5, 10)
BROUGHT = {
    (5, 14): "cgroup.kill and tcp_migrate_req",
    (6, 5): "SO_PEERPIDFD",
    (6, 15): "how adopted processes ended",
}
FILTERED = "bkd needs it; a container's seccomp profile may forbid it, gVisor has none"
PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 2.0


def probes() -> dict[str, Probe]:
    """Of the kernel itself."""
    return {
        "kernel": lambda: version(os.uname().release),
        "pidfd": pidfd,
        "subreaper": subreaper,
        "memfd": memfd,
        "stacks": stacks,
        "run delay": lambda: run_delay(read_file("/proc/self/schedstat")),
        "pressure": lambda: pressure({name: read_file(f"/proc/pressure/{name}") for name in ("cpu", "memory", "io")}),
    }


def version(release: str) -> Finding:
    """From `uname -r`."""
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is None:
        return Finding("kernel", "degraded", release, "no version number; bkd needs Linux 5.10")
    here = int(numbers[1]), int(numbers[2])
    if here < OLDEST:
        return Finding("kernel", "missing", release, "bkd needs Linux 5.10 or newer")
    newer = [f"{major}.{minor} brings {what}" for (major, minor), what in BROUGHT.items() if here < (major, minor)]
    return Finding("kernel", "ok", release, "; ".join(newer))


def pidfd() -> Finding:
    """Opens one of a child and ends it through that."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        descriptor = os.pidfd_open(pid)
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError as error:
        return Finding("pidfd", "missing", error.strerror or str(error), FILTERED)
    if not select.select([descriptor], [], [], PATIENCE)[0]:
        return Finding("pidfd", "missing", "does not tell that a process has ended", FILTERED)
    return Finding("pidfd", "ok", "opens, signals, tells of the end")


def subreaper() -> Finding:
    """Adopts a grandchild whose parent has ended."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        return Finding("subreaper", "missing", os.strerror(ctypes.get_errno()), FILTERED)
    go_read, go_write = os.pipe()
    told_read, told_write = os.pipe()
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            os.read(go_read, 1)
            os.write(told_write, b"%d" % os.getppid())
        os._exit(0)
    os.waitpid(middle, 0)
    os.write(go_write, b"!")
    parent = int(os.read(told_read, 20)) if select.select([told_read], [], [], PATIENCE)[0] else 0
    if parent != os.getpid():
        return Finding("subreaper", "missing", f"an orphan went to process {parent}", FILTERED)
    return Finding("subreaper", "ok", "adopts orphans")


def memfd() -> Finding:
    """Files in memory take the stacks of workers."""
    try:
        os.write(os.memfd_create("doctor"), b"!")
    except OSError as error:
        return Finding("memfd", "degraded", error.strerror or str(error), "no stacks of workers that do not answer")
    return Finding("memfd", "ok", "works")


def stacks() -> Finding:
    """Sends the signal to a child that waits in C, and reads what it says then."""
    out, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        faulthandler.register(DUMP_SIGNAL, file=end, all_threads=True, chain=False)
        os.write(end, b"!")
        while True:
            signal.pause()
    os.read(out, 1)
    os.kill(pid, DUMP_SIGNAL)
    if not select.select([out], [], [], PATIENCE)[0]:
        return Finding("stacks", "degraded", "faulthandler wrote none", "hung workers are ended without their stacks")
    return Finding("stacks", "ok", f"faulthandler writes them at signal {int(DUMP_SIGNAL)}")


def run_delay(text: str | None) -> Finding:
    """From /proc/PID/schedstat: a kernel that does not measure prints zeros."""
    if text is None or not any(int(field) for field in text.split()):
        means = "workers that wait for a CPU count as hung: ping.kill needs more room"
        return Finding("run delay", "degraded", "not measured (CONFIG_SCHED_INFO)", means)
    return Finding("run delay", "ok", "measured: waiting for a CPU is told from hanging")


def pressure(texts: dict[str, str | None]) -> Finding:
    """From /proc/pressure/*: the share of the last ten seconds in which somebody waited."""
    shares = {name: re.search(r"some avg10=([\d.]+)", text or "") for name, text in texts.items()}
    known = [f"{name} {share[1]} %" for name, share in shares.items() if share]
    if not known:
        return Finding(
            "pressure", "degraded", "not told", "bkd does not see what the machine is short of: psi=1 at boot"
        )
    return Finding("pressure", "ok", f"{', '.join(known)} of the last 10 s")
