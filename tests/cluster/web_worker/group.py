"""Web workers without a master: real processes on one listener, and a client that hides nothing."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

DEADLINE = 30.0  # seconds; for what should be there at once
HERE = Path(__file__).parent


def listen(family=socket.AF_INET, address=("127.0.0.1", 0)):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(512)
    return listener


def until(condition, what):
    """Wait for a condition, never for a time."""
    deadline = time.monotonic() + DEADLINE
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)
    return result


class Worker:
    """The master's end of one worker's socket."""

    def __init__(self, sock):
        sock.settimeout(DEADLINE)
        self.sock = sock
        self.lines = sock.makefile("r")
        self.pid = 0

    def hear(self):
        line = self.lines.readline()
        assert line, "the worker closed its socket"
        return json.loads(line)

    def await_ready(self):
        self.pid = self.hear()["ready"]

    def order(self, op, **options):
        self.sock.sendall(json.dumps({"op": op, **options}).encode() + b"\n")

    def drain(self, last=False):
        self.order("drain", last=last)

    def load(self):
        self.order("load")
        return self.hear()["load"]


class Group:
    """`count` workers forked from one prepared application; leaves nothing running."""

    def __init__(self, app, listeners, *, count=1, lame_duck=0.5, slots="", rlimit=None):
        pairs = [socket.socketpair() for _ in range(count)]
        options = {
            "app": app,
            "listeners": [listener.fileno() for listener in listeners],
            "controls": [theirs.fileno() for _, theirs in pairs],
            "lame_duck": lame_duck,
            "slots": slots,
        }
        limit = ["prlimit", f"--nofile={rlimit}"] if rlimit else []
        self.process = subprocess.Popen(
            [*limit, sys.executable, str(HERE / "zygote.py"), json.dumps(options)],
            cwd=HERE,
            pass_fds=options["listeners"] + options["controls"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.workers = []
        for ours, theirs in pairs:
            theirs.close()
            self.workers.append(Worker(ours))
        self.codes = {}
        self.listener = listeners[0]
        self.clients = []

    def client(self, listener=None):
        """A new connection, closed with the group."""
        self.clients.append(Client(listener or self.listener))
        return self.clients[-1]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for client in self.clients:
            client.close()
        for index, worker in enumerate(self.workers):
            if worker.pid and index not in self.codes and self.process.poll() is None:
                os.kill(worker.pid, 9)
            worker.lines.close()
            worker.sock.close()
        try:
            self.stderr = self.process.communicate(timeout=DEADLINE)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.stderr = "the zygote did not end"
        if error[0]:
            sys.stderr.write(self.stderr)

    def ready(self):
        for worker in self.workers:
            worker.await_ready()
        return self

    def code(self, index):
        """The exit code of a worker that is leaving."""
        while index not in self.codes:
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            ended, code = json.loads(line)
            self.codes[ended] = code
        return self.codes[index]


class Client:
    """One connection; what goes wrong on it is raised."""

    def __init__(self, listener):
        self.sock = socket.socket(listener.family, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(listener.getsockname())
        self.file = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self.file.close()
        self.sock.close()

    def send(self, path="/", *, method="GET", body=b"", headers=""):
        head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.sock.sendall(head.encode() + body)

    def receive(self):
        """Status, headers, body of one answer; raises ConnectionError when the connection ends before it."""
        status = self.file.readline()
        if not status:
            raise ConnectionError("closed without an answer")
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return int(status.split()[1]), headers, self.body(headers)

    def body(self, headers):
        if headers.get("transfer-encoding") != "chunked":
            return self.file.read(int(headers.get("content-length", 0)))
        body = b""
        while size := int(self.file.readline(), 16):
            body += self.file.read(size)
            self.file.readline()
        self.file.readline()
        return body

    def get(self, path="/", **options):
        self.send(path, **options)
        return self.receive()

    def closed(self):
        """Wait for the other side to close; raises when it sends something or resets."""
        assert self.file.read(1) == b""
