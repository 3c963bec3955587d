"""Metrics of the cluster: counts what happens, and shows it with the status to who scrapes or asks.

Nothing is made, and prometheus_client not imported, before somebody asks. Runs in the master's loop, but for the text,
which a thread makes of what the loop has taken a picture of.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from .. import procfs
from ..config.schema import Config
from .census import Census, Tallies
from .counters import Counters
from .picture import Itself, Picture
from .serving import Serving

FRESH = 0.25  # seconds for which a page is given to whoever asks
BREATH = 0.0005  # seconds for which the thread lets the loop get on, some sixty times a text

Snapshot = Callable[[], dict[str, Any]]


class _Page(NamedTuple):
    """A text of this moment, there or being made."""

    at: float
    text: asyncio.Future[bytes]


class Metrics:
    """`snapshot` gives what any thread can make the document of the status of, as of the moment it was called; `lost`:
    how many events the journal could not take; `stats`: see `Census`."""

    def __init__(
        self,
        config: Config,
        run_dir: str,
        snapshot: Callable[[], Snapshot],
        stats: Callable[[], Awaitable[str | None]],
        *,
        epoch: int,
        lost: Callable[[], int],
    ) -> None:
        self.config = config
        self._snapshot, self._epoch, self._lost = snapshot, epoch, lost
        self.census = Census(stats)
        self._began = time.monotonic()
        self._counters = Counters()
        self.told = self._counters.told
        self._answers: Counter[int] = Counter()
        self._serving = Serving(self._page, self._answers, run_dir)
        self._pool = ThreadPoolExecutor(1, "bkd-metrics")  # its thread begins with the first text
        self._pages: dict[bool, _Page] = {}
        self._took: float | None = None

    def begin(self) -> None:
        """Let it be scraped."""
        self._serving.at(self.config.metrics.bind, self.config.control)

    def configure(self, config: Config) -> None:
        """This configuration is in force from now on."""
        self.config = config
        self.begin()

    def missing(self) -> bool:
        """Whether the file at which it can be scraped was removed."""
        return self._serving.missing()

    async def restore(self) -> None:
        """Let it be scraped there again."""
        self._serving.again()

    def end(self) -> None:
        """The cluster is over: nobody scrapes it any more."""
        self._serving.end()

    async def text(self) -> str:
        """What a scrape would get now, as OpenMetrics."""
        return (await self._page(True)).decode()

    async def _page(self, is_openmetrics: bool) -> bytes:
        """One text for all who ask within `FRESH` seconds or while it is made: many cost no more than one."""
        now, page = time.monotonic(), self._pages.get(is_openmetrics)
        if page is None or (page.text.done() and now - page.at > FRESH):
            page = self._pages[is_openmetrics] = _Page(now, asyncio.ensure_future(self._make(is_openmetrics)))
        return await asyncio.shield(page.text)

    async def _make(self, is_openmetrics: bool) -> bytes:
        take, loop = self._taker(await self.census.latest()), asyncio.get_running_loop()
        text, self._took = await loop.run_in_executor(self._pool, _timed, take, is_openmetrics)
        return text

    def _taker(self, messages: Tallies | None) -> Callable[[], Picture]:
        """What of a picture has to be taken in the loop; the call makes the rest."""
        status, counts, answers = self._snapshot(), Counter(self._counters.counts), Counter(self._answers)
        groups, lost, overslept, took = self.config.workers, self._lost(), self._counters.overslept, self._took

        def take() -> Picture:
            facts = procfs.read(os.getpid())
            resident, uptime = facts.rss if facts else 0, time.monotonic() - self._began
            itself = Itself(self._epoch, uptime, time.process_time(), resident, lost, overslept, took)
            limits = {name: group.max_memory for name, group in groups.items() if group.max_memory}
            return Picture(status(), counts, limits, answers, itself, messages)

        return take


def _timed(take: Callable[[], Picture], is_openmetrics: bool) -> tuple[bytes, float]:
    """The text, and how many seconds it took. Runs in the thread."""
    began = time.monotonic()
    from .exposition import expose

    text = expose(take(), is_openmetrics, breath=BREATH)
    return text, time.monotonic() - began
