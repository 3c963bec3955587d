"""The master's end of one blank process and of the workers it becomes or forks: a socket, orders, what is said."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

from bkd.ipc.frames import FrameReader, frame
from bkd.ipc.message import Fork, Forked, Hello, Load, Loaded, Welcome, body, decode, encode
from bkd.supervisor.keeper import BLANK, BLANK_ENV

from .group import DEADLINE


class Peer:
    """One connection to the master."""

    def __init__(self, sock):
        sock.settimeout(DEADLINE)
        self.sock, self._reader, self._waiting = sock, FrameReader(), []
        self.hello = self.hear(Hello)

    def send(self, message, listeners=()):
        socket.send_fds(self.sock, [frame(encode(message))], [listener.fileno() for listener in listeners])

    def hear(self, *kinds):
        """The next message of one of these kinds; others are passed over."""
        named, deadline = {kind.op: kind for kind in kinds}, time.monotonic() + DEADLINE
        while True:
            while self._waiting:
                envelope = self._waiting.pop(0)
                if envelope.op in named:
                    return body(envelope, named[envelope.op])
            assert time.monotonic() < deadline, f"waited in vain for {list(named)}"
            data = self.sock.recv(1 << 16)
            assert data, f"the connection ended before {list(named)}"
            self._waiting += map(decode, self._reader.feed(data))


class Master:
    """`load` gives the zygote its release, `fork` a worker of it. Leaves nothing running."""

    def __init__(self, folder, *arguments, env=None, python=sys.executable):
        self.folder, self.log = folder, folder / "worker.log"
        self.path = str(folder / "control.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(DEADLINE)
        self.listener.bind(self.path)
        self.listener.listen()
        self.process = subprocess.Popen(
            [python, *arguments, "-P", "-c", BLANK],
            env={**os.environ, **BLANK_ENV, **(env or {})},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        birth = {"socket": self.path, "token": "zygote"}
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            os.write(self.process.stdin.fileno(), json.dumps(birth).encode() + b"\n")
        self._peers, self._early, self._workers = [], [], []

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker, signal.SIGKILL)
            os.close(worker)
        self.process.kill()
        said = self.process.communicate(timeout=DEADLINE)[1]
        for peer in self._peers:
            peer.sock.close()
        self.listener.close()
        print(f"--- zygote\n{said}--- workers\n{self.said()}")

    def admit(self, role):
        """The next connection of this role, welcomed; so are those of others, which are kept."""
        while not (found := [peer for peer in self._early if peer.hello.role == role]):
            peer = Peer(self.listener.accept()[0])
            self._peers.append(peer)
            self._early.append(peer)
            peer.send(Welcome())
        self._early.remove(found[0])
        return found[0]

    def load(self, work, listeners=(), **options):
        """Order the load; the zygote's connection, its answer not yet heard."""
        options = {"app": "shop", "group": "web", "release": 1, "cwd": str(self.folder), "ping": 0.1} | options
        zygote = self.admit("zygote")
        zygote.send(Load(work=work, log=str(self.log), keeper=os.getpid(), **options), listeners)
        return zygote

    def fork(self, zygote, **options):
        """A worker's connection, once the zygote is loaded."""
        zygote.hear(Loaded)
        zygote.send(Fork(1, "web.1", "worker", "0" * 16, str(self.log), **options))
        pid = zygote.hear(Forked).pid
        self._workers.append(os.pidfd_open(pid))
        return self.admit("worker")

    def said(self):
        """What the workers have printed so far."""
        return self.log.read_text() if self.log.exists() else ""

    def ended(self):
        """Exit code and last words of the blank process."""
        said = self.process.communicate(timeout=DEADLINE)[1]
        return self.process.returncode, said
