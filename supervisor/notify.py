"""The server's side of sd_notify: a datagram socket for each slot, read in the master's loop.

The path says which slot is meant; the kernel says who sent (SO_PASSCRED), and `allowed` whether that process may speak
for the slot. Processes of one uid are one trust domain: this keeps out mistakes, not attackers.

A sender may have ended before its datagram is read. Its pid is then right, but nothing can be asked about it any more
(`procfs.descends` gives None); whoever decides in `allowed` may go by the path alone, or refuse.
"""

import asyncio
import os
import socket
import struct
from array import array
from collections.abc import Callable

DATAGRAM_BYTES = 8192
DATAGRAMS_PER_TURN = 64
CREDENTIALS = struct.Struct("=iII")
MOST_DESCRIPTORS = 253
ANCILLARY_BYTES = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(4 * MOST_DESCRIPTORS)
IGNORED = frozenset({"MAINPIDFDID", "FDSTORE", "FDSTOREREMOVE", "FDNAME", "FDPOLL", "BARRIER"})

OnMessage = Callable[[int, dict[str, str]], None]
"""Gets the sender's pid and what it said (`READY`, `STATUS`, `MAINPID`, `WATCHDOG`, `EXTEND_TIMEOUT_USEC`, …)."""


class NotifySocket:
    """What NOTIFY_SOCKET names in one slot's environment, as `datagrams.bound` made it; more than one after its file
    was removed. To be made and closed in the loop that reads it; nothing is read before `hear`.

    What is for others (stored descriptors) is left out of the messages. Descriptors that come along are closed after
    the message was handled, which is what ends a sender's `BARRIER=1`. `refused` counts datagrams of senders that are
    not allowed, `malformed` those too long or without a sender.
    """

    def __init__(self, *bound: socket.socket, allowed: Callable[[int], bool], on_message: OnMessage) -> None:
        self.refused = 0
        self.malformed = 0
        self._allowed = allowed
        self._on_message = on_message
        self._sockets = [*bound]
        self._loop = asyncio.get_running_loop()

    def hear(self) -> None:
        """Read from now on, and what was said before."""
        for bound in self._sockets:
            self._loop.add_reader(bound, self._read, bound)

    def hear_at(self, bound: list[socket.socket]) -> None:
        """The same with these, among them those that were heard so far: the path leads to another one now."""
        self.hear_rest()
        self.close()
        self._sockets = bound
        self.hear()

    def hear_rest(self) -> None:
        """Read what has been said so far: its sender may have ended."""
        for bound in self._sockets:
            self._read(bound)

    def close(self) -> None:
        """Stop reading. May be called twice."""
        for bound in self._sockets:
            if bound.fileno() >= 0:
                self._loop.remove_reader(bound)
                bound.close()

    def _read(self, bound: socket.socket) -> None:
        for _ in range(DATAGRAMS_PER_TURN):
            if bound.fileno() < 0:
                return  # closed by whoever was told of the datagram before
            try:
                self._receive(bound)
            except BlockingIOError:
                return

    def _receive(self, bound: socket.socket) -> None:
        data, ancillary, flags, _address = bound.recvmsg(DATAGRAM_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
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
