"""Visitors who use the applications all the time, on kept connections and on new ones, and notice what they lose."""

import contextlib
import random
import select
import socket
import threading
import time

from .ledger import Failure

PATIENCE = 40.0
STALE = 0.7
PAUSE = (0.01, 0.06)
AFTER_A_LOSS = 0.2
SLOWNESS = 1.0


class LostError(Exception):
    """A request without a good answer; the argument says how it was lost."""


class Connection:
    """One connection to 127.0.0.1; a request at a time."""

    def __init__(self, port, limit=PATIENCE):
        self.opened, self.asked, self.last, self._limit = time.monotonic(), 0, "", limit
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), timeout=limit)
        except OSError as error:
            raise LostError(f"no connection: {error!r}") from error
        self.client = self._socket.getsockname()[1]
        self.used = time.monotonic()

    def get(self, path):
        """The body of the answer, and whether there may be another request."""
        self.asked += 1
        try:
            self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: soak\r\n\r\n".encode())
            head, body = self._answer()
        except TimeoutError as error:
            raise LostError(f"no answer for {self._limit:g} s") from error
        except OSError as error:
            raise LostError(repr(error)) from error
        if not head.startswith(b"http/1.1 200"):
            raise LostError(head.partition(b"\r\n")[0].decode(errors="replace"))
        self.used, self.last = time.monotonic(), body.decode()
        return self.last, b"connection: close" not in head

    def is_over(self):
        """Whether the server has closed it meanwhile, or it was idle for so long that it may be about to."""
        return time.monotonic() - self.used > STALE or bool(select.select([self._socket], [], [], 0)[0])

    def close(self):
        self._socket.close()

    def _answer(self):
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more("in its head" if data else "before its head")
        head, _, body = data.partition(b"\r\n\r\n")
        head = head.lower()
        length = head.partition(b"content-length:")[2].split(b"\r\n")[0].strip()
        if not length.isdigit():
            raise LostError(f"an answer without a length: {head[:200]!r}")
        length = int(length)
        while len(body) < length:
            body += self._more("in its body")
        return head, body

    def _more(self, where):
        chunk = self._socket.recv(65536)
        if not chunk:
            raise LostError(f"the answer ended {where} (request {self.asked} of this connection)")
        return chunk


class Visitor(threading.Thread):
    """One after the other; `paths` are taken at random."""

    def __init__(self, load, port, paths, *, keeps, seed):
        super().__init__(name=f"visitor of {port}", daemon=True)
        self._load, self._port, self._paths, self._keeps = load, port, paths, keeps
        self._chance = random.Random(seed)
        self._connection = None
        self.served = 0

    def run(self):
        while not self._load.over.wait(self._chance.uniform(*PAUSE)):
            path = self._chance.choice(self._paths)
            began = time.monotonic()
            try:
                goes_on = self._visit(path)
            except LostError as error:
                self._lost(path, str(error))
                self._load.over.wait(AFTER_A_LOSS)
            else:
                self.served += 1
                self._load.answered(began, path)
                if not (goes_on and self._keeps):
                    self._leave()
        self._leave()

    def _visit(self, path):
        if self._connection is not None and self._connection.is_over():
            self._leave()
        if self._connection is None:
            self._connection = Connection(self._port)
        return self._connection.get(path)[1]

    def _lost(self, path, how):
        at, made = time.monotonic(), self._connection
        opened, client, last = (made.opened, made.client, made.last) if made else (at, 0, "")
        self._load.ledger.fail(Failure(at, opened, client, self._port, how, path, last))
        self._leave()

    def _leave(self):
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
        self._connection = None


class Load:
    """All visitors, while the `with` lasts."""

    def __init__(self, ledger, services, *, seed):
        """`services`: port and the paths that are asked for there."""
        self.ledger, self.over = ledger, threading.Event()
        self.slow = []
        self._visitors = [
            Visitor(self, port, paths, keeps=number % 2 == 0, seed=f"{seed} {port} {number}")
            for port, (paths, visitors) in services.items()
            for number in range(visitors)
        ]

    def __enter__(self):
        for visitor in self._visitors:
            visitor.start()
        return self

    def __exit__(self, *_error):
        self.over.set()
        for visitor in self._visitors:
            visitor.join(PATIENCE)

    @property
    def served(self):
        """How many answers were good."""
        return sum(visitor.served for visitor in self._visitors)

    @property
    def visiting(self):
        """Whether all visitors are at it."""
        return all(visitor.is_alive() for visitor in self._visitors)

    def answered(self, began, path):
        """An answer was good; one that took long is remembered."""
        if (took := time.monotonic() - began) > SLOWNESS:
            self.slow.append((began, took, path))


def ask(port, path, *, limit=PATIENCE):
    """The body of one answer on a connection of its own; raises LostError."""
    connection = Connection(port, limit)
    try:
        return connection.get(path)[0]
    finally:
        connection.close()
