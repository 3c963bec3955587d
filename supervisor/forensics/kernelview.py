"""What the kernel tells of the threads of one process: their states, what they sleep in and what they wait for.

Nothing here reads what a process that sleeps in state D could keep locked, and nothing asks a file system. It takes
about 2 ms, and 10 more where a thread waits for a connection.
"""

import re

from .. import procfs
from . import peers, syscalls
from .evidence import KernelThread

MOST_THREADS = 20
MOST_TABLE = 2 << 20  # bytes of a table of sockets, about 13,000 connections
MOST_PATH = 200

STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "in an uninterruptible sleep in the kernel",
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
    "Z": "ended and not yet reaped",
    "X": "gone",
    "I": "idle in the kernel",
    "P": "parked in the kernel",
}

_SOCKET = re.compile(r"socket:\[([0-9]{1,10})\]")


def state_words(letter: str) -> str:
    """A state of proc(5) for people."""
    return STATES.get(letter, f"in state {letter}" if letter else "in a state nobody knows")


def look(pid: int, start: int) -> list[KernelThread]:
    """The main thread first, at most MOST_THREADS; none when the process is gone or its pid is another's by now.

    Where this process may not trace the other one, calls are guessed from `wchan` and name no file; "" for a thread
    that runs.
    """
    if not _is(pid, start):
        return []
    files = Files(pid)
    found = [_thread(pid, tid, files) for tid in procfs.threads(pid)[:MOST_THREADS]]
    return [thread for thread in found if thread is not None] if _is(pid, start) else []


class Files:
    """What the descriptors of one process lead to, at one moment: each table of sockets is read once, or twice when a
    socket is in none."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._tables: dict[str, str] = {}
        self._is_second_look = False

    def named(self, descriptor: int) -> str:
        """Such as `127.0.0.1:5432`, `/var/lib/x`, `a pipe` or `unix socket /run/x`; "" when it cannot be known."""
        target = procfs.opened(self._pid, descriptor)
        match = _SOCKET.fullmatch(target)
        if match is not None:
            return self._socket(int(match[1]))
        if target.startswith("pipe:["):
            return "a pipe"
        if target.startswith("anon_inode:"):
            return _plain(target.removeprefix("anon_inode:").strip("[]"))
        return _plain(target)

    def _socket(self, inode: int) -> str:
        path = peers.unix(self._table(peers.UNIX_TABLE), inode)
        if path is not None:
            path = path or self._unix_peer(inode)
            return _plain(f"unix socket {path}") if path else "a unix socket"
        return self._address(inode) or (self._looks_again() and self._address(inode)) or "a socket"

    def _address(self, inode: int) -> str:
        addresses = (peers.inet(self._table(name), inode) for name in peers.INET_TABLES)
        return next(filter(None, addresses), "")

    def _looks_again(self) -> bool:
        """Once: where sockets come and go the kernel passes over some in a table that is read in pieces."""
        first, self._is_second_look = not self._is_second_look, True
        if first:
            self._tables.clear()
        return first

    def _unix_peer(self, inode: int) -> str:
        """The path that a client has connected to is known of the other end alone."""
        try:
            peer = procfs.unix_peer(inode)
        except OSError:
            return ""  # a kernel without this question: the path stays unknown
        return (peers.unix(self._table(peers.UNIX_TABLE), peer) or "") if peer is not None else ""

    def _table(self, name: str) -> str:
        if name not in self._tables:
            self._tables[name] = procfs.text(f"/proc/{self._pid}/net/{name}", MOST_TABLE)
        return self._tables[name]


def _is(pid: int, start: int) -> bool:
    facts = procfs.read(pid)
    return facts is not None and facts.start == start


def _thread(pid: int, tid: int, files: Files) -> KernelThread | None:
    folder = f"/proc/{pid}/task/{tid}"
    stat = procfs.text(f"{folder}/stat")
    if not stat:
        return None
    facts = procfs.parse_stat(stat.encode())
    call = syscalls.parse(procfs.text(f"{folder}/syscall"))
    wchan = procfs.text(f"{folder}/wchan")
    wchan = "" if wchan == "0" else wchan
    return KernelThread(
        tid,
        name=_plain(procfs.text(f"{folder}/comm").removesuffix("\n")),
        state=facts.state,
        wchan=wchan,
        call=_waits(call, files) if call is not None else syscalls.in_words_of(wchan),
        cpu=facts.cpu,
    )


def _waits(call: syscalls.Call, files: Files) -> str:
    return syscalls.in_words(call, files.named(call.descriptor) if call.descriptor is not None else "")


def _plain(name: str) -> str:
    """Names come from the process: what could disturb a terminal is taken out."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:MOST_PATH]
