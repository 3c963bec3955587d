"""Files of others, logs and sources, read in threads of their own: a disk that hangs takes these and no more."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from loguru import logger

THREADS, MOST_WAITING = 2, 200

T = TypeVar("T")


class ForeignFiles:
    """One per master."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "bkd-files")
        self._waiting = 0

    def begin(self, work: Callable[[], T], otherwise: T) -> "asyncio.Future[T] | None":
        """Have it done some time; gives `otherwise` when it fails, which is logged. None when MOST_WAITING wait
        already, since nothing is done any more."""
        if self._waiting >= MOST_WAITING:
            return None
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, _tried, work, otherwise)
        future.add_done_callback(self._done)
        return future

    async def within(self, limit: float, work: Callable[[], T], otherwise: T) -> T:
        """What it gives, `otherwise` when that takes longer than `limit` seconds."""
        future = self.begin(work, otherwise)
        if future is None:
            return otherwise
        await asyncio.wait([future], timeout=limit)
        return future.result() if future.done() else otherwise

    def _done(self, future: "asyncio.Future[T]") -> None:
        self._waiting -= 1


def _tried(work: Callable[[], T], otherwise: T) -> T:
    try:
        return work()
    except Exception:  # noqa: BLE001 - what is read is anybody's, and what is known already must not be lost over it
        logger.exception("files of a process could not be looked at")
        return otherwise
