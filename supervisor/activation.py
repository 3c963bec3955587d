"""Listening sockets that cross an exec (sd_listen_fds(3)): what the keeper was started with, what it gives to programs.

Standard library only. A listener that came from outside has the name `fd:NUMBER:NAME` in the keeper and the master; a
configuration says `fd:NAME` or `fd:NUMBER`.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Mapping, MutableMapping, Sequence

FIRST = 3
MOST = 200
INHERITED = "fd:"
ASKED_FOR = "notify:"
UNNAMED = "unknown"
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def inherited(environ: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """The listening stream sockets that this process was given, by name; whatever else was given is left alone.

    Runs in the keeper, once. The variables leave the environment and nothing that was given crosses another exec, so
    that no worker takes it for its own.
    """
    pid, count, names, _ = (environ.pop(variable, "") for variable in VARIABLES)
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return {}
    given = range(FIRST, FIRST + min(int(count), MOST))
    known = dict(zip(given, names.split(":"), strict=False))
    found = {f"{INHERITED}{fd}:{known.get(fd) or UNNAMED}": _listening(fd) for fd in given}
    return {name: listener for name, listener in found.items() if listener is not None}


def _listening(fd: int) -> socket.socket | None:
    """None: nothing is open there, or it is no socket that connections can be accepted from."""
    try:
        os.set_inheritable(fd, False)
        candidate = socket.socket(fileno=fd)
    except OSError:
        return None
    if candidate.type == socket.SOCK_STREAM and candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return candidate
    candidate.detach()
    return None


def is_inherited(name: str) -> bool:
    """Whether this listener belongs to whoever started bkd: its socket file is not ours to remove."""
    return name.startswith(INHERITED)


def announced(names: Iterable[str]) -> list[str]:
    """The listeners that a new master is given at once: their descriptors fit into one message. For the sockets of
    programs, of which there may be many, it asks one by one."""
    return [name for name in names if not is_asked_for(name)]


def is_asked_for(name: str) -> bool:
    """Whether a new master has to ask for this one, by the order that has made it."""
    return name.startswith(ASKED_FOR)


def meant(names: Iterable[str], text: str) -> list[str]:
    """The listeners that an address such as `127.0.0.1:8000`, `fd:web` or `fd:3` may mean, by their names."""
    if not text.startswith(INHERITED):
        return [name for name in names if name == text]
    wanted = text.removeprefix(INHERITED)
    return [name for name in names if name.startswith(INHERITED) and wanted in name.split(":", 2)[1:]]


def chosen(listeners: Mapping[str, socket.socket], texts: Iterable[str]) -> list[tuple[str, int]]:
    """What a program is given for these addresses: what it knows each by, and the descriptor. Raises OSError."""
    found = []
    for text in texts:
        names = meant(listeners, text)
        if len(names) != 1:
            raise OSError(errno.ENOENT, "no such listener", text)
        found.append((label(names[0]), listeners[names[0]].fileno()))
    return found


def label(name: str) -> str:
    """The name of a listener in LISTEN_FDNAMES: the one it came with, its socket's file, or its port."""
    if name.startswith("unix:"):
        return name.rpartition("/")[2].replace(":", "-")
    return name.rpartition(":")[2]


def give(given: Sequence[tuple[str, int]], failed: int) -> tuple[int, dict[str, str]]:
    """Put these listeners where the protocol wants them, from descriptor 3 on; returns `failed`, which may have had to
    move, and the variables that say so. Runs in the child between fork and exec."""
    if not given:
        return failed, {}
    beyond = FIRST + len(given)
    failed = fcntl.fcntl(failed, fcntl.F_DUPFD_CLOEXEC, beyond)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, beyond) for _, fd in given]
    for number, fd in enumerate(moved, FIRST):
        os.dup2(fd, number)
    names = ":".join(name for name, _ in given)
    return failed, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": names}
