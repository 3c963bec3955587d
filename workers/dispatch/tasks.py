"""Small asynchronous errands of the dispatcher: held until they end, and a fault in one ends the process."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """All that runs beside the main task."""

    def __init__(self) -> None:
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run it beside everything else."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def failed(self) -> None:
        """Until one of them has raised something."""
        await self._failed.wait()

    def check(self) -> None:
        """Raises what the first failed one has raised."""
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Cancel what still runs, and wait until it has ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self._failed.set()
