"""PgQueuer over asyncpg; run as a program it is a worker, by the function that `pgq run` calls."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

import asyncpg
import pgqueuer
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from record import handle, handle_async
from settings import CONCURRENCY, URL


class Producer:
    """Its connection, from `open` on."""

    connection: Any
    queries: Queries


@asynccontextmanager
async def factory(*_: Any) -> AsyncIterator[PgQueuer]:
    connection = await asyncpg.connect(URL)
    queue = PgQueuer.from_asyncpg_connection(connection)

    @queue.entrypoint("work")
    async def work(job: Any) -> None:
        what, number = job.payload.decode().split()
        await handle_async(what, int(number))

    @queue.entrypoint("blocking")
    async def blocking(job: Any) -> None:
        what, number = job.payload.decode().split()
        await asyncio.to_thread(handle, what, int(number))  # plain functions are refused; this is what it advises

    try:
        yield queue
    finally:
        await connection.close()


async def prepare() -> None:
    connection = await asyncpg.connect(URL)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


async def open() -> None:
    Producer.connection = await asyncpg.connect(URL)
    Producer.queries = Queries(AsyncpgDriver(Producer.connection))


async def close() -> None:
    await Producer.connection.close()


async def send(what: str, number: int, due: float) -> None:
    entry = "blocking" if what in ("sleep", "spin") else "work"
    after = timedelta(seconds=due - monotonic()) if due else None
    await Producer.queries.enqueue(entry, f"{what} {number}".encode(), execute_after=after)


async def bulk(numbers: Sequence[int]) -> None:
    payloads: list[bytes | None] = [f"noop {number}".encode() for number in numbers]
    await Producer.queries.enqueue(["work"] * len(payloads), payloads, [0] * len(payloads))


if __name__ == "__main__":
    asyncio.run(pgqueuer.run(factory, batch_size=CONCURRENCY, max_concurrent_tasks=2 * CONCURRENCY))
