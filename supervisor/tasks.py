"""Work that goes on beside the turns: kept until it ends, and its fault is logged."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from loguru import logger


class Tasks:
    """The tasks of one part of the master."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin it; nobody waits for its end."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.opt(exception=task.exception()).error("a task of the master failed")
