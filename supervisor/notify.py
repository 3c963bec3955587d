"""The server's side of sd_notify: a datagram socket for each slot, read in the master's loop.

The path says which slot is meant; the kernel says who sent (SO_PASSCRED), and `allowed` whether that process may speak
for the slot. Processes of one uid are one trust domain: this keeps out mistakes, not attackers.

A sender may have ended before its datagram is read. Its pid is then right, but nothing can be asked about it any more
(`procfs.descends` gives None); whoever decides in `allowed` may go by the path alone, or refuse.
"""

import asyncio
import os
import socket
import stat
import struct
from array import array
from collections.abc import Callable
from pathlib import Path

from ..ipc.errors import BkdError

DATAGRAM_BYTES = 8192
DATAGRAMS_PER_TURN = 64
PATH_BYTES = 107
CREDENTIALS = struct.Struct("=iII")
MOST_DESCRIPTORS = 253
ANCILLARY_BYTES = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(4 * MOST_DESCRIPTORS)
IGNORED = frozenset({"MAINPID", "MAINPIDFDID", "FDSTORE", "FDSTOREREMOVE", "FDNAME", "FDPOLL", "BARRIER"})

OnMessage = Callable[[int, dict[str, str]], None]
"""Gets the sender's pid and what it said (`READY`, `STATUS`, `STOPPING`, `WATCHDOG`, `EXTEND_TIMEOUT_USEC`, …)."""


class NotifySocket:
    """The socket that NOTIFY_SOCKET names in one slot's environment. To be made and closed in the loop that reads it.

    What concerns other supervisors (`MAINPID`, stored descriptors) is left out of the messages. Descriptors that come
    along are closed after the message was handled, which is what ends a sender's `BARRIER=1`.
    `refused` counts datagrams of senders that are not allowed, `malformed` those too long or without a sender.
    """

    def __init__(self, path: str, *, allowed: Callable[[int], bool], on_message: OnMessage) -> None:
        """Take the place of a stale socket at `path`. Raises BkdError when it cannot be bound."""
        self.path = path
        self.refused = 0
        self.malformed = 0
        self._allowed = allowed
        self._on_message = on_message
        self._socket = _bound(path)
        self._inode = Path(path).stat().st_ino
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    def close(self) -> None:
        """Stop reading and remove the path, unless another socket has taken its place. May be called twice."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._socket.close()
        path = Path(self.path)
        if path.exists() and path.stat().st_ino == self._inode:
            path.unlink()

    def _read(self) -> None:
        for _ in range(DATAGRAMS_PER_TURN):
            if self._socket.fileno() < 0:
                return  # closed by whoever was told of the datagram before
            try:
                self._receive()
            except BlockingIOError:
                return

    def _receive(self) -> None:
        data, ancillary, flags, _address = self._socket.recvmsg(
            DATAGRAM_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        try:
            self._handle(data, _sender(ancillary), truncated=bool(flags & socket.MSG_TRUNC))
        finally:
            for descriptor in _descriptors(ancillary):
                os.close(descriptor)

    def _handle(self, data: bytes, sender: int, *, truncated: bool) -> None:
        if truncated or sender <= 0:
            self.malformed += 1
        elif not self._allowed(sender):
            self.refused += 1
        elif message := parse(data):
            self._on_message(sender, message)


def parse(data: bytes) -> dict[str, str]:
    """The assignments of one datagram, one a line; the last of a name counts, lines without `=` and IGNORED do not."""
    lines = data.decode("utf-8", "replace").split("\n")
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, equals, value in pairs if name and equals and name not in IGNORED}


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int:
    """0 when the sender is in a pid namespace that is not seen from here."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return int(CREDENTIALS.unpack(data)[0])
    return 0


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> "array[int]":
    found = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found


def _bound(path: str) -> socket.socket:
    if len(os.fsencode(path)) > PATH_BYTES:
        raise BkdError(f"{path} is too long for a socket (at most {PATH_BYTES} bytes): set a shorter run_dir")
    _clear(Path(path))
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        receiver.bind(path)
        Path(path).chmod(0o666)  # a worker may run as another user; who may speak is decided by its credentials
    except OSError as error:
        receiver.close()
        raise BkdError(f"cannot listen at {path}: {error.strerror}") from error
    return receiver


def _clear(path: Path) -> None:
    """Remove what an earlier master left there; nothing but a socket."""
    if not path.parent.is_dir():
        raise BkdError(f"{path.parent} is no directory: create it, or set run_dir to one that bkd may write to")
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BkdError(f"{path} is in the way and no socket: remove it")
        path.unlink()
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise BkdError(f"cannot replace {path}: {error.strerror}") from error
