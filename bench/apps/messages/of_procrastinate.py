"""Procrastinate over psycopg; run as a program it is a worker."""

import asyncio
from collections.abc import Iterable
from time import monotonic

from procrastinate import App, PsycopgConnector
from record import handle, handle_async
from settings import CONCURRENCY, URL

app = App(connector=PsycopgConnector(conninfo=URL))


@app.task(name="work")
async def work(what: str, number: int) -> None:
    await handle_async(what, number)


@app.task(name="blocking")
def blocking(what: str, number: int) -> None:
    handle(what, number)


async def prepare() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def open() -> None:
    await app.open_async()


async def close() -> None:
    await app.close_async()


async def send(what: str, number: int, due: float) -> None:
    task = blocking if what in ("sleep", "spin") else work
    if due:
        await task.configure(schedule_in={"microseconds": int((due - monotonic()) * 1e6)}).defer_async(
            what=what, number=number
        )
    else:
        await task.defer_async(what=what, number=number)


async def bulk(numbers: Iterable[int]) -> None:
    await work.batch_defer_async(*({"what": "noop", "number": number} for number in numbers))


async def main() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=CONCURRENCY, delete_jobs="successful")


if __name__ == "__main__":
    asyncio.run(main())
