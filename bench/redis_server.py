"""A Redis of the benchmark's own, on a free port of the loopback."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection

import proc
from client import free_port
from place import HOST


@contextmanager
def redis_server(folder: Path, *, durable: bool = False) -> Iterator[int]:
    """Its port; RuntimeError when there is no such program or it does not answer. It writes nothing to disk, unless it
    is `durable`: then as most people have it, a log synchronised every second."""
    program, port = shutil.which("redis-server"), free_port()
    if program is None:
        raise RuntimeError("there is no redis-server: apt-get install redis-server")
    options = {"port": port, "bind": HOST, "dir": folder, "save": "", "appendonly": "yes" if durable else "no"}
    argv = [program, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        if not proc.wait_for(lambda: _answers(port), 10):
            raise RuntimeError("redis-server does not answer")
        yield port
    finally:
        server.terminate()
        server.wait(10)


def _answers(port: int) -> bool:
    try:
        with create_connection((HOST, port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
