"""The test's side: an executor's process, and the dispatcher it speaks to."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from bkd.ipc.durable.model import Counters, Task
from bkd.ipc.durable.wire import Began, Enlist, Enlisted, Outcomes, Run, Stored, packed, unpacked
from bkd.ipc.frames import FrameReader

DEADLINE = 30.0  # seconds; for what should be there at once
HERE = Path(__file__).parent


def until(condition, what):
    """Wait for a condition, never for a time."""
    deadline = time.monotonic() + DEADLINE
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)
    return result


def task(id, kind, args=None, **rest):
    """A message in its first run."""
    body = msgspec.json.encode(args or {})
    return Task(id, rest.pop("fence", 1), kind, body, rest.pop("counters", Counters(1, 1)), f"guid-{id}", **rest)


class Connection:
    """One connection of an executor. `heard` is everything that came on it."""

    def __init__(self, sock):
        sock.settimeout(DEADLINE)
        self.sock, self.reader = sock, FrameReader()
        self.heard, self.waiting = [], []

    def hear(self, kind=None):
        """The next frame, of this kind; None at the end."""
        while True:
            for frame in self.waiting:
                if kind is None or isinstance(frame, kind):
                    self.waiting.remove(frame)
                    return frame
            data = self._received()
            if not data:
                return None
            frames = [unpacked(payload) for payload in self.reader.feed(data)]
            self.heard += frames
            self.waiting += frames

    def _received(self):
        """Nothing at the end; one that dies with something unread in its socket resets it."""
        with contextlib.suppress(ConnectionResetError):
            return self.sock.recv(1 << 18)

    def say(self, *frames):
        self.sock.sendall(b"".join(packed(frame) for frame in frames))

    def run(self, *tasks):
        self.say(Run(list(tasks)))

    def outcomes(self, count=1, *, store=True):
        """So many outcomes, by message."""
        found = {}
        while len(found) < count:
            said = self.hear(Outcomes)
            assert said is not None, "the executor closed its connection"
            found |= {outcome.id: outcome for outcome in said.outcomes}
            if store:
                self.say(Stored(said.number))
        return found

    def outcome(self, task, *, store=True):
        """That of this one message, to be run now."""
        self.run(task)
        return self.outcomes(store=store)[task.id]

    def began(self, id):
        """Wait until this message is said to have begun."""
        while not any(held.id == id for held in self.hear(Began).holds):
            pass

    def close(self):
        self.sock.close()


class Dispatcher:
    """Listens where executors look for one."""

    def __init__(self, path):
        self.path = str(path)
        self.connections = []
        self.sock = None
        self.open()

    def open(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.bind(self.path)
        self.sock.listen()

    def accept(self, lost=()):
        """The next executor: its connection, and what it said first."""
        connection = Connection(self.sock.accept()[0])
        self.connections.append(connection)
        enlist = connection.hear(Enlist)
        connection.say(Enlisted(7, list(lost)))
        return connection, enlist

    def die(self):
        """Go, with everything that was open."""
        self.close()
        os.unlink(self.path)

    def close(self):
        for connection in self.connections:
            connection.close()
        self.sock.close()


class Zygote:
    """Forks executors; used by all tests of a module."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "process.py")],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.codes = {}

    def fork(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def code(self, pid):
        """How that process has ended."""
        while pid not in self.codes:
            ended, code = json.loads(self.process.stdout.readline())
            self.codes[ended] = code
        return self.codes[pid]

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(DEADLINE)


class Executor:
    """One process; leaves nothing running."""

    def __init__(self, zygote, path, *, mode="shared", concurrency=10, quiet=False, handlers=("tasks",), level="INFO"):
        self.zygote, self.log = zygote, Path(f"{path}.log")
        control = f"{path}.control"
        work = {"handlers": list(handlers), "mode": mode, "concurrency": concurrency, "socket": str(path)}
        env = {"BKD_SLOT": "jobs.1", "LOGURU_LEVEL": level}
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(control)
            listener.listen()
            listener.settimeout(DEADLINE)
            zygote.fork(control=control, log=str(self.log), work=work, quiet=quiet, env=env)
            self.sock = listener.accept()[0]
        self.sock.settimeout(DEADLINE)
        self.lines = self.sock.makefile("r")
        credentials = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid = int.from_bytes(credentials[:4], sys.byteorder)

    def hear(self):
        line = self.lines.readline()
        assert line, self.log.read_text()
        return json.loads(line)

    def ready(self):
        assert self.hear() == {"ready": self.pid}

    def order(self, op, **options):
        self.sock.sendall(json.dumps({"op": op, **options}).encode() + b"\n")

    def drain(self, last=False):
        self.order("drain", last=last)

    def load(self):
        self.order("load")
        return self.hear()

    def terminate(self):
        os.kill(self.pid, signal.SIGTERM)

    def code(self):
        """Its exit code, once it has ended."""
        return self.zygote.code(self.pid)

    def said(self):
        """Its log, once it has ended."""
        self.code()
        return self.log.read_text()

    def close(self):
        if self.pid not in self.zygote.codes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.code()
        self.lines.close()
        self.sock.close()
