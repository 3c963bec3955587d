"""Where this runs: under which init, in which container, with which rights, under which name."""

import os
import re
import socket
import sys

from ..config.processors import read_file
from .attempt import Probe
from .finding import Finding
from .subject import Subject

RIGHTS = {"KILL": 5, "SETUID": 7, "SYS_PTRACE": 19, "SYS_RESOURCE": 24, "SYSLOG": 34}
SECCOMP = {"0": "no seccomp", "1": "seccomp strict", "2": "a seccomp filter"}
CONTAINER_SIGNS = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")
MADE_UP = re.compile(r"[0-9a-f]{12}")


def probes(subject: Subject) -> dict[str, Probe]:
    """Of the surroundings."""
    return {
        "init": lambda: init(
            (read_file("/proc/1/comm") or "").strip(),
            systemd=os.path.isdir("/run/systemd/system"),
            container=any(map(os.path.exists, CONTAINER_SIGNS)) or "container" in os.environ,
        ),
        "systemd": lambda: notified(os.environ.get("NOTIFY_SOCKET")),
        "journal": lambda: journal(there=os.path.exists("/run/systemd/journal/socket")),
        "rights": lambda: rights(os.geteuid(), read_file("/proc/self/status") or ""),
        "host name": lambda: host_name(subject.host, bus=subject.has_bus),
        "names": names,
        "text": lambda: text(sys.stdout.encoding),
    }


def init(first: str, *, systemd: bool, container: bool) -> Finding:
    """By the name of process 1."""
    if systemd:
        return Finding("init", "ok", "systemd", "it starts bkd again should the keeper be killed: Restart=always")
    if container:
        return Finding("init", "ok", f"a container, {first} is process 1", "as process 1 bkd reaps orphans itself")
    return Finding(
        "init", "ok", f"{first or 'unknown'}, no systemd", "something else has to start bkd with the machine"
    )


def notified(path: str | None) -> Finding:
    """By $NOTIFY_SOCKET."""
    if path:
        return Finding("systemd", "ok", "is told how bkd is", "Type=notify; bkd init --systemd prints a unit")
    return Finding("systemd", "ok", "waits for no notification")


def journal(*, there: bool) -> Finding:
    """Whether systemd-journald takes lines."""
    if there:
        return Finding("journal", "ok", "journald", 'what a unit prints goes there, unless [log] mode = "files"')
    return Finding("journal", "ok", "none", "lines of workers go to files in the run directory")


def rights(user: int, status: str) -> Finding:
    """From /proc/self/status."""
    fields = dict(re.findall(r"^(\w+):\s+(\S+)", status, re.MULTILINE))
    held = int(fields.get("CapEff", "0"), 16)
    named = [name for name, bit in RIGHTS.items() if held >> bit & 1]
    bits = [
        "root" if user == 0 else f"user {user}",
        "all capabilities that matter" if len(named) == len(RIGHTS) else f"capabilities: {', '.join(named) or 'none'}",
        SECCOMP.get(fields.get("Seccomp", "0"), "seccomp"),
        *(["no new privileges"] if fields.get("NoNewPrivs") == "1" else []),
    ]
    return Finding("rights", "ok", ", ".join(bits))


def host_name(name: str, *, bus: bool) -> Finding:
    """What other hosts call this one."""
    bad = name.partition(".")[0] == "localhost" or not name
    changing = MADE_UP.fullmatch(name) is not None
    if bus and (bad or changing):
        means = "every host needs one of its own that stays: host in [app]"
        return Finding("host name", "degraded", name or "none", means)
    return Finding("host name", "ok", name or "none")


def names() -> Finding:
    """Whether `localhost` leads to this machine, as addresses to listen on may say it."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}
    except OSError as error:
        why = error.strerror or str(error)
        return Finding("names", "degraded", f"localhost: {why}", "write addresses as numbers: 127.0.0.1:8000")
    return Finding("names", "ok", f"localhost is {', '.join(sorted(found))}")


def text(encoding: str) -> Finding:
    """Of what bkd prints."""
    if encoding.lower().replace("-", "") != "utf8":
        means = "what it cannot hold is written as ? or \\u2026: PYTHONUTF8=1, or a UTF-8 locale"
        return Finding("text", "degraded", encoding, means)
    return Finding("text", "ok", "UTF-8")
