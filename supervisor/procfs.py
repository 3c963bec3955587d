"""Facts about processes, read from /proc.

A pid is a number that comes back; pid and start time together are one process. Nothing is cached: each call reads what
is there now, and a process that vanished meanwhile, or that /proc hides, gives None or an empty answer.
"""

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
HIDDEN = (FileNotFoundError, ProcessLookupError, PermissionError)
ENVIRON_BYTES = 1 << 20
MAX_DEPTH = 256

NETLINK_SOCK_DIAG = 4
NETLINK_SECONDS = 0.1
NETLINK_HEADER = struct.Struct("=IHHII")
NETLINK_ERROR = struct.Struct("=i")
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
SOCK_DIAG_BY_FAMILY = 20
SOCKET_ID_BYTES = 48
INODE, INODE_OFFSET = struct.Struct("=I"), 68
TCP_LISTEN = 10
UNIX_REQUEST = struct.Struct("=BBHIIIII")
UNIX_ATTRIBUTES_OFFSET, UNIX_DIAG_PEER, UDIAG_SHOW_PEER, NO_COOKIE = 16, 2, 0x4, 0xFFFFFFFF
ATTRIBUTE = struct.Struct("=HH")


class ProcessFacts(NamedTuple):
    """One line of /proc/PID/stat. `cpu`: user and system seconds of all threads; `start`: clock ticks since boot;
    `rss`: bytes, as the kernel estimates them; `state`: the letter that `ps` shows."""

    pid: int
    state: str
    ppid: int
    pgrp: int
    session: int
    cpu: float
    start: int
    threads: int
    rss: int


def read(pid: int) -> ProcessFacts | None:
    """What `pid` is doing now. A zombie has facts too (state Z)."""
    line = _first_bytes(f"/proc/{pid}/stat")
    return parse_stat(line) if line else None


def parse_stat(line: bytes) -> ProcessFacts:
    """The name stands in parentheses and may hold spaces and parentheses itself: the last one ends it."""
    fields = line[line.rindex(b")") + 2 :].split(b" ", 22)
    return ProcessFacts(
        int(line[: line.index(b" ")]),
        fields[0].decode(),
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND,
        int(fields[19]),
        int(fields[17]),
        int(fields[21]) * PAGE_BYTES,
    )


def run_delay(pid: int) -> float | None:
    """Seconds the main thread (not the whole process) has waited for a CPU while it could run; None: not measured."""
    line = _first_bytes(f"/proc/{pid}/schedstat")
    return parse_run_delay(line) if line else None


def parse_run_delay(line: bytes) -> float | None:
    """A kernel that does not measure prints three zeros."""
    ran, waited, slices = (int(field) for field in line.split())
    return waited / 1e9 if ran or waited or slices else None


def wchan(pid: int) -> str:
    """The kernel function in which the main thread sleeps; "" when it runs or the kernel does not tell."""
    name = (_first_bytes(f"/proc/{pid}/wchan") or b"").decode()
    return "" if name == "0" else name


def threads(pid: int) -> list[int]:
    """The kernel's numbers of its threads, the main one first."""
    return sorted(_numbers(f"/proc/{pid}/task"), key=lambda tid: (tid != pid, tid))


def text(path: str, limit: int = 4096) -> str:
    """The first `limit` bytes of a file below /proc, "" when it is gone or hidden."""
    return (_content(path, limit) or b"").decode(errors="replace")


def opened(pid: int, descriptor: int) -> str:
    """What a descriptor of `pid` leads to, such as `/tmp/x`, `socket:[123]` or `pipe:[45]`; "" when it cannot be known.

    Asks no file system, so one that hangs does not matter.
    """
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except HIDDEN:
        return ""


def owner(pid: int) -> int:
    """The real uid of a process, -1 when it is gone. Who owns its files in /proc can be somebody else."""
    uids = text(f"/proc/{pid}/status").partition("\nUid:")[2].split(maxsplit=1)
    return int(uids[0]) if uids else -1


def traced(pid: int) -> bool:
    """Whether a debugger or tracer is attached."""
    tracer = _labelled(_content(f"/proc/{pid}/status"), b"TracerPid:")
    return tracer is not None and int(tracer) != 0


def catches(pid: int, signal: int) -> bool:
    """Whether `pid` has a handler for this signal now: after an exec it has none, and dies of it."""
    caught = _labelled(_content(f"/proc/{pid}/status"), b"SigCgt:")
    return caught is not None and bool(int(caught, 16) >> (signal - 1) & 1)


def pss(pid: int) -> int | None:
    """Proportional set size in bytes. The kernel walks the page tables: about 1 ms for each 100 MB.

    None as well in state D, where the read could wait for the lock that the process sleeps with.
    """
    facts = read(pid)
    if facts is None or facts.state == "D":
        return None
    size = _labelled(_content(f"/proc/{pid}/smaps_rollup"), b"Pss:")
    return None if size is None else int(size.split()[0]) * 1024


def environ(pid: int, name: bytes) -> bytes | None:
    """The value `name` had when the program was executed; None when it had none or the environment is not readable.

    What a program sets later in itself is not seen. Not to be called in state D, for the reason given at `pss`.
    """
    for entry in _environ_entries(pid):
        key, _, value = entry.partition(b"=")
        if key == name:
            return value
    return None


def environ_has(pid: int, entry: bytes) -> bool:
    """Whether the environment at execution held exactly `entry` (`NAME=value`); see `environ`."""
    return entry in _environ_entries(pid)


def executing(pid: int) -> bool:
    """Whether `pid` is in the middle of an exec: its environment is then empty for a moment, and so are its arguments.

    The same is seen when the main thread has ended (state Z). Not to be called in state D either.
    """
    return _content(f"/proc/{pid}/cmdline", 1) == b""


def children(pid: int) -> list[int]:
    """Direct children of all threads of `pid`, zombies included.

    The kernel may leave one out while others exit: whoever needs all of them asks again.
    """
    return _scanned_children(pid) if not LISTS_CHILDREN else _listed_children(pid)


def everybody() -> list[int]:
    """Pids of all processes that can be seen from here."""
    return _numbers("/proc")


def descendants(pid: int) -> list[int]:
    """Children of `pid` at any depth, parents before their children."""
    found = children(pid)
    seen = {pid, *found}
    for parent in found:
        fresh = [child for child in children(parent) if child not in seen]
        seen.update(fresh)
        found.extend(fresh)
    return found


def descends(pid: int, ancestor: int) -> bool | None:
    """Whether `pid` is `ancestor` or a descendant of it; None when the process is gone and cannot be asked."""
    for _ in range(MAX_DEPTH):
        if pid == ancestor:
            return True
        facts = read(pid)
        if facts is None:
            return None
        if facts.ppid <= 1:
            return facts.ppid == ancestor
        pid = facts.ppid
    return False


def boot_id() -> str:
    """Changes with each boot of the machine; raises OSError where there is no such file."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def listeners(port: int) -> set[int]:
    """Inodes of the sockets that listen on TCP `port`, at any address of this network namespace.

    Asked of the kernel by netlink (0.1 ms; /proc/net/tcp takes 10). Raises OSError where that is not allowed.
    """
    found: set[int] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(NETLINK_SECONDS)
        for family in (socket.AF_INET, socket.AF_INET6):
            netlink.send(_listeners_request(family, port))
            for answer in _netlink_answers(netlink):
                found.add(INODE.unpack_from(answer, INODE_OFFSET)[0])
    return found


def unix_peer(inode: int) -> int | None:
    """Inode of the other end of a unix socket of this network namespace; None when it has none or is not there.

    Raises OSError where the kernel does not tell.
    """
    body = UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, NO_COOKIE, inode, UDIAG_SHOW_PEER, NO_COOKIE, NO_COOKIE)
    header = NETLINK_HEADER.pack(NETLINK_HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(NETLINK_SECONDS)
        netlink.send(header + body)
        try:
            answer = next(_netlink_answers(netlink))
        except FileNotFoundError:
            return None
    return _peer_attribute(answer[UNIX_ATTRIBUTES_OFFSET:])


def holds_socket(pid: int, inodes: set[int]) -> bool | None:
    """Whether `pid` has one of these sockets open; None when it may not be asked (another user's process)."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(str(_target(entry)) in wanted for entry in entries)
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):
        return False


def _target(entry: os.DirEntry[str]) -> Path | None:
    try:
        return Path(entry.path).readlink()
    except FileNotFoundError:
        return None


def _listed_children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in _numbers(f"/proc/{pid}/task"):
        found.extend(int(child) for child in (_content(f"/proc/{pid}/task/{thread}/children") or b"").split())
    return found


def _scanned_children(pid: int) -> list[int]:
    everybody = (read(other) for other in _numbers("/proc"))
    return [facts.pid for facts in everybody if facts is not None and facts.ppid == pid]


def _numbers(folder: str) -> list[int]:
    try:
        with os.scandir(folder) as entries:
            return [int(entry.name) for entry in entries if entry.name.isdigit()]
    except HIDDEN:
        return []


def _environ_entries(pid: int) -> list[bytes]:
    return (_content(f"/proc/{pid}/environ", ENVIRON_BYTES) or b"").split(b"\0")


def _labelled(content: bytes | None, label: bytes) -> bytes | None:
    for line in (content or b"").splitlines():
        if line.startswith(label):
            return line[len(label) :].strip()
    return None


def _listeners_request(family: int, port: int) -> bytes:
    wanted = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 1 << TCP_LISTEN)
    address = struct.pack(">H", port).ljust(SOCKET_ID_BYTES, b"\0")
    length = NETLINK_HEADER.size + len(wanted) + len(address)
    return NETLINK_HEADER.pack(length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + wanted + address


def _peer_attribute(attributes: bytes) -> int | None:
    while len(attributes) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(attributes)
        if kind == UNIX_DIAG_PEER and length >= ATTRIBUTE.size + INODE.size:
            return int(INODE.unpack_from(attributes, ATTRIBUTE.size)[0])
        attributes = attributes[max(ATTRIBUTE.size, (length + 3) & ~3) :]
    return None


def _netlink_answers(netlink: socket.socket) -> Iterator[bytes]:
    while True:
        data = netlink.recv(1 << 16)
        while data:
            length, kind, _flags, _sequence, _sender = NETLINK_HEADER.unpack_from(data)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                raise OSError(-NETLINK_ERROR.unpack_from(data, NETLINK_HEADER.size)[0], "sock_diag was refused")
            yield data[NETLINK_HEADER.size : length]
            data = data[(length + 3) & ~3 :]


def _first_bytes(path: str) -> bytes | None:
    """For files that the kernel hands out in one piece: one read instead of two."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except HIDDEN:
        return None
    try:
        return os.read(descriptor, 4096)
    except HIDDEN:
        return None
    finally:
        os.close(descriptor)


def _content(path: str, limit: int = 1 << 24) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except HIDDEN:
        return None
    try:
        return b"".join(_pieces(descriptor, limit))
    except HIDDEN:
        return None
    finally:
        os.close(descriptor)


def _pieces(descriptor: int, limit: int) -> Iterator[bytes]:
    while limit > 0 and (piece := os.read(descriptor, min(limit, 1 << 16))):
        limit -= len(piece)
        yield piece


LISTS_CHILDREN = _first_bytes(f"/proc/self/task/{os.getpid()}/children") is not None
