"""Threads for plain handlers. They are daemons: one that does not end does not keep a worker that was told to."""

import contextvars
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

_log = logging.getLogger("bkd")


class Threads:
    """No more than were ever busy at once. `submit` is called in one thread only."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._count = 0

    def submit(self, work: Callable[[], object], busy: int) -> None:
        """Call it in a thread, with a copy of the present context variables; `busy`: how many are at work already.
        When the kernel gives no more threads, it waits for one that is there."""
        if busy >= self._count:
            self._start()
        context = contextvars.copy_context()
        self._queue.put(lambda: context.run(work))

    def _start(self) -> None:
        try:
            threading.Thread(target=self._work, name=f"handler-{self._count + 1}", daemon=True).start()
        except RuntimeError as error:
            _log.error("a message has to wait for a thread: %s", error)
        else:
            self._count += 1

    def _work(self) -> None:
        while True:
            self._queue.get()()
