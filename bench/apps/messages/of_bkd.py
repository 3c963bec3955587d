"""bkd: the producer joins the cluster of this folder, as a script would."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from time import monotonic

from record import handle, handle_async
from settings import DEADLINE

from bkd.ipc import ipc
from bkd.workers import enqueue, enqueue_many, handler

TIMEOUT = DEADLINE or 300.0


@handler("work", timeout=TIMEOUT)
async def work(what: str, number: int) -> None:
    await handle_async(what, number)


@handler("blocking", timeout=TIMEOUT, max_attempts=1, mode="exclusive")
def blocking(what: str, number: int) -> None:
    handle(what, number)


def open() -> None:
    ipc.connect("bkd.toml")


def close() -> None:
    ipc.disconnect()


async def send(what: str, number: int, due: float) -> None:
    kind, args = ("blocking" if what in ("sleep", "spin") else "work"), {"what": what, "number": number}
    if due:
        await enqueue(kind, args, due=datetime.now(UTC) + timedelta(seconds=due - monotonic()))
    else:
        await enqueue(kind, args)


async def bulk(numbers: Iterable[int]) -> None:
    await enqueue_many("work", [{"what": "noop", "number": number} for number in numbers])
