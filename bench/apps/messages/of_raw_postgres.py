"""The floor over PostgreSQL: psycopg, batches claimed with SKIP LOCKED and a lease, a DELETE for each batch.

Run as a program it is a worker. Nothing is retried, recorded, ordered by priority.
"""

import os
import signal
import time
from collections.abc import Iterable

import psycopg
from record import handle
from settings import CONCURRENCY, URL

LEASE = 2.0
POLL = 0.1
CLAIM = """UPDATE task SET due = now() + make_interval(secs => %s), worker = %s WHERE id IN (
SELECT id FROM task WHERE due <= now() ORDER BY due, id FOR UPDATE SKIP LOCKED LIMIT %s) RETURNING id, what, number"""
SEND = "WITH x AS (INSERT INTO task (what, number) VALUES (%s, %s)) SELECT pg_notify('task', '')"
LATER = "INSERT INTO task (what, number, due) VALUES (%s, %s, now() + make_interval(secs => %s))"
BULK = "INSERT INTO task (what, number) SELECT 'noop', unnest(%s::bigint[])"


def connected() -> psycopg.Connection:
    return psycopg.connect(URL, autocommit=True)


def prepare() -> None:
    with connected() as connection:
        connection.execute(
            "CREATE TABLE task (id bigserial PRIMARY KEY, what text, number bigint,"
            " due timestamptz NOT NULL DEFAULT now(), worker int)"
        )
        connection.execute("CREATE INDEX ON task (due, id)")


class Producer:
    """Its connection, from `open` on."""

    connection: psycopg.Connection


def open() -> None:
    Producer.connection = connected()


def close() -> None:
    Producer.connection.close()


def send(what: str, number: int, due: float) -> None:
    if due:
        Producer.connection.execute(LATER, (what, number, due - time.monotonic()))
    else:
        Producer.connection.execute(SEND, (what, number))


def bulk(numbers: Iterable[int]) -> None:
    Producer.connection.execute(BULK, (list(numbers),))


def work() -> None:
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    with connected() as connection:
        connection.execute("LISTEN task")
        while not stop:
            batch = connection.execute(CLAIM, (LEASE, os.getpid(), CONCURRENCY)).fetchall()
            for _, what, number in batch:
                handle(what, number)
            if batch:
                connection.execute("DELETE FROM task WHERE id = ANY(%s)", ([key for key, _, _ in batch],))
            else:
                list(connection.notifies(timeout=POLL, stop_after=1))


if __name__ == "__main__":
    work()
