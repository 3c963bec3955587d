"""The one thread that drives the store: calls go in, results come back to the loop."""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Job(NamedTuple):
    work: Callable[[], Any]
    answer: asyncio.Future[Any]


class StoreThread:
    """A daemon thread, so that a store that hangs keeps no process from ending."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run it after what was given before; raises what it raises."""
        answer: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, answer))
        return answer

    def tell(self, callback: Callable[..., None], *what: Any) -> None:
        """Called in the thread, by what runs there: have this called in the loop."""
        self._loop.call_soon_threadsafe(callback, *what)

    def end(self, within: float) -> None:
        """Finish what was given, wait for it so many seconds at most, and take nothing more."""
        self._jobs.put(None)
        self._thread.join(within)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                result = job.work()
            except BaseException as error:  # noqa: BLE001 - whoever asked gets it
                self._answer(job.answer, None, error)
            else:
                self._answer(job.answer, result, None)

    def _answer(self, answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(_settle, answer, result, error)
        except RuntimeError:  # the loop is closed: the process is leaving, and nobody waits
            return


def _settle(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)
