"""The floor over SQLite: the end of one batch and the claim of the next in a commit, synchronised fully, with a lease.

A waiting worker sleeps at a datagram socket that the producer rings. Nothing is retried, recorded, ordered by priority.
Run as a program it is a worker.
"""

import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from record import handle
from settings import CONCURRENCY, URL

LEASE = 2.0
POLL = 0.1
CLAIM = """UPDATE task SET due = ?, worker = ? WHERE id IN (SELECT id FROM task WHERE due <= ? ORDER BY due, id LIMIT ?)
RETURNING id, what, number"""
INSERT = "INSERT INTO task (what, number, due) VALUES (?, ?, ?)"


def connected() -> sqlite3.Connection:
    connection = sqlite3.connect(URL, isolation_level=None, timeout=30)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def prepare() -> None:
    connected().executescript(
        "CREATE TABLE task (id INTEGER PRIMARY KEY, what TEXT, number INTEGER, due REAL, worker INTEGER);"
        "CREATE INDEX due ON task (due, id);"
    )


class Producer:
    """Its connection, from `open` on, and the bells of the workers."""

    connection: sqlite3.Connection
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def open() -> None:
    Producer.connection = connected()
    Producer.bell.setblocking(False)


def send(what: str, number: int, due: float) -> None:
    Producer.connection.execute(INSERT, (what, number, due or time.monotonic()))
    for path in Path(URL).parent.glob("bell.*"):
        try:
            Producer.bell.sendto(b"1", str(path))
        except OSError:  # it has ended, or so many rings are waiting that one more tells nothing
            continue


def bulk(numbers: Iterable[int]) -> None:
    connection, now = Producer.connection, time.monotonic()
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(INSERT, [("noop", number, now) for number in numbers])
    connection.execute("COMMIT")


def work() -> None:
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bell.bind(str(Path(URL).parent / f"bell.{os.getpid()}"))
    bell.settimeout(POLL)
    connection = connected()
    done: list[tuple[int]] = []
    while not stop or done:
        batch = step(connection, done, 0 if stop else CONCURRENCY)
        done = []
        for key, what, number in batch:
            handle(what, number)
            done.append((key,))
        if not batch:
            ring(bell)


def step(connection: sqlite3.Connection, done: list[tuple[int]], most: int) -> list[tuple[int, str, int]]:
    now = time.monotonic()
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("DELETE FROM task WHERE id = ?", done)
    batch = connection.execute(CLAIM, (now + LEASE, os.getpid(), now, most)).fetchall()
    connection.execute("COMMIT" if done or batch else "ROLLBACK")
    return batch


def ring(bell: socket.socket) -> None:
    try:
        bell.recv(16)
    except TimeoutError:
        pass


if __name__ == "__main__":
    work()
