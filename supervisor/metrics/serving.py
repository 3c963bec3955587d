"""Serves at the configured address, and tries again when it cannot. Everything else runs without it."""

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable

from loguru import logger

from ..config.schema import ControlSection
from ..tasks import Tasks
from .listener import BindError, Listener
from .scrape import Scrape

AGAIN = 30.0  # seconds


class Serving:
    """At most one server, which gives `page` (see `Scrape`)."""

    def __init__(self, page: Callable[[bool], Awaitable[bytes]], answers: Counter[int], run_dir: str) -> None:
        self._page, self._answers, self._run_dir = page, answers, run_dir
        self._wanted: tuple[str, ControlSection] | None = None
        self._current: tuple[Listener, Scrape] | None = None
        self._tasks = Tasks()

    def at(self, bind: str, control: ControlSection) -> None:
        """Serve there and nowhere else from now on; "" is nowhere."""
        if (bind, control) != self._wanted:
            self.end()
            self._wanted = wanted = bind, control
            if bind:
                self._tasks.run(self._try(wanted))

    def missing(self) -> bool:
        """Whether the file at which it serves was removed."""
        return self._current is not None and self._current[0].is_lost

    def again(self) -> None:
        """Serve anew where it is wanted."""
        wanted = self._wanted
        self.end()
        if wanted is not None:
            self.at(*wanted)

    def end(self) -> None:
        """Serve nobody any more."""
        self._wanted = None
        if self._current is not None:
            listener, scrape = self._current
            self._current = None
            scrape.close()
            listener.close()

    async def _try(self, wanted: tuple[str, ControlSection]) -> None:
        """Until it works, or something else is wanted; the same reason is told once."""
        told, (bind, control) = "", wanted
        while self._wanted is wanted:
            try:
                listener = Listener(bind, self._run_dir, control)
            except BindError as error:
                if str(error) != told:
                    logger.warning('no metrics at [metrics] bind = "{}": {}; tried every {:g} s', bind, error, AGAIN)
                told = str(error)
                await asyncio.sleep(AGAIN)
            else:
                await self._serve(listener, bind, control)
                return

    async def _serve(self, listener: Listener, bind: str, control: ControlSection) -> None:
        scrape = Scrape(self._page, self._answers, control, os.getuid())
        self._current = listener, scrape
        await scrape.listen(listener)
        if listener.is_open_to_others:
            logger.warning("metrics at {}: who reaches it can read names and numbers; 127.0.0.1 keeps them here", bind)
