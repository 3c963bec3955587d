"""A blocking connection to the master: the side of workers, zygotes and the command line."""

import os
import select
from collections import deque
from socket import AF_UNIX, SOCK_STREAM, recv_fds
from socket import socket as Socket  # bound before an application can patch it
from time import monotonic

from .errors import DeadlineError, NotConnected, RefusedError
from .frames import FrameReader, frame
from .message import Envelope, Hello, Message, Refused, Welcome, body, decode, encode

MOST_DESCRIPTORS = 253  # SCM_MAX_FD


class Link:
    """Frames in both directions over one unix socket; descriptors that come along wait in `descriptors`."""

    def __init__(self, sock: Socket) -> None:
        self.sock = sock
        self.descriptors: deque[int] = deque()
        self._reader = FrameReader()
        self._inbox: deque[Envelope] = deque()

    @classmethod
    def connect(cls, path: str, hello: Hello, *, timeout: float, epoch: int = 0) -> tuple["Link", Welcome]:
        """Connect and say hello. Raises NotConnected (also for a master before `epoch`: it has been replaced),
        RefusedError, DeadlineError."""
        sock = Socket(AF_UNIX, SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(path)
        except TimeoutError as error:
            sock.close()
            raise DeadlineError(f"{path} did not take the connection in {timeout:g} s") from error
        except OSError as error:
            sock.close()
            raise NotConnected(f"{path}: {error.strerror}") from error
        link = cls(sock)
        try:
            link.send(hello)
            welcome = link._welcomed(monotonic() + timeout)
            if welcome.epoch < epoch:
                raise NotConnected(f"{path}: master {welcome.epoch} has been replaced by master {epoch}")
            return link, welcome
        except BaseException:
            link.close()
            raise

    def _welcomed(self, deadline: float) -> Welcome:
        envelope = self.receive(deadline)
        if envelope.op == Refused.op:
            raise RefusedError(body(envelope, Refused).reason)
        return body(envelope, Welcome)

    def send(self, message: Message, *, id: int = 0, re: int = 0) -> None:
        """Raises NotConnected when the master is gone or takes nothing for the socket's timeout."""
        try:
            self.sock.sendall(frame(encode(message, id=id, re=re)))
        except OSError as error:
            raise NotConnected(str(error)) from error

    def receive(self, deadline: float | None) -> Envelope:
        """The next message; raises DeadlineError past `deadline` (monotonic; None waits), NotConnected at the end."""
        while not self._inbox:
            self._wait(deadline)
            self._fill()
        return self._inbox.popleft()

    def pending(self) -> list[Envelope]:
        """What can be had without waiting, after the caller found the socket readable."""
        self._fill()
        return self.waiting()

    def waiting(self) -> list[Envelope]:
        """What came along with earlier messages: the socket will not be readable for it."""
        messages = list(self._inbox)
        self._inbox.clear()
        return messages

    def close(self) -> None:
        """Close the socket and descriptors nobody took."""
        self.sock.close()
        while self.descriptors:
            os.close(self.descriptors.popleft())

    def _wait(self, deadline: float | None) -> None:
        left = None if deadline is None else max(0.0, deadline - monotonic())
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(None if left is None else left * 1000 + 1):
            raise DeadlineError("no answer in time")

    def _fill(self) -> None:
        try:
            data, descriptors, _flags, _address = recv_fds(self.sock, 1 << 16, MOST_DESCRIPTORS)
        except OSError as error:
            raise NotConnected(str(error)) from error
        self.descriptors.extend(descriptors)
        if not data:
            raise NotConnected("the master closed the connection")
        self._inbox.extend(decode(payload) for payload in self._reader.feed(data))
