"""The supervisor that runs bkd, such as systemd: the master tells it how the cluster is, in the words of `systemd`.

The keeper sends each datagram, as it is the process that the other one knows. What was not taken is told again, as it
is by then; a new master tells everything anew.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any, Protocol

from loguru import logger

from . import events, systemd
from .announcement import Announcement, failure, is_up
from .desk import Desk
from .keeperlink import KeeperError, KeeperLink
from .setup import Options

LOOK = 0.05  # seconds in which several turns become one look
RETRY_LEAST, RETRY_MOST = 0.2, 10.0


class Owner(Desk, Protocol):
    """What it needs of the master beside what commands need."""

    announcement: Announcement
    keeper: KeeperLink
    options: Options


class Outer:
    """Nothing depends on it: told or not, the cluster goes on. `above` is what the keeper knows of it."""

    def __init__(self, master: Owner, above: dict[str, Any]) -> None:
        self.master = master
        self.listens = bool(above.get("notify"))
        self.watchdog = float(above.get("watchdog", 0.0))
        self._news = asyncio.Event()
        self._said = systemd.Said()
        self._begun: list[str] = []
        self._reloads = 0
        self._short = self._fault = ""

    def begin(self) -> None:
        """Tell from now on, if there is somebody to tell."""
        if self.listens:
            self.master.tasks.run(self._run())

    def changed(self) -> None:
        """Something may be different since the last time."""
        self._news.set()

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """While this lasts, with the rolls that belong to it, the cluster is said to be reloading."""
        if self._said.ready:
            self._begun.append(systemd.reloading(time.monotonic()))
        self._reloads += 1
        self.changed()
        try:
            yield
        finally:
            self._reloads -= 1
            self.changed()

    async def _run(self) -> None:
        retry = RETRY_LEAST
        while True:
            self._news.clear()
            self._conclude_start()
            if await self._tell():
                retry = RETRY_LEAST
                await self._wait()
            else:
                await asyncio.sleep(retry)
                retry = min(RETRY_MOST, 2 * retry)

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), systemd.pause(self._said, self._view(), time.monotonic()))
            if self._said.stopping or self.master.turns.cluster.closing is None:
                await asyncio.sleep(LOOK)

    def _conclude_start(self) -> None:
        """As `start -d` does, which looks for itself: ready once all are; without hope for one, everything ends."""
        master, cluster = self.master, self.master.turns.cluster
        if master.announcement.made or master.options.daemon or cluster.closing is not None:
            return
        why = failure(cluster)
        if why:
            logger.error("the start has failed: {}", why)
            master.turns.post(events.StopAsked(why, code=1))
            master.turns.now()
        elif is_up(cluster):
            master.announcement.made = True
            master.remember()

    async def _tell(self) -> bool:
        """Say what there is to say; False when it was not taken."""
        while self._begun:
            if not await self._send(self._begun[0]):
                return False
            self._begun.pop(0)
            self._said = self._said._replace(ready=False)
        lines, said = systemd.speech(self._said, self._view(), time.monotonic())
        if lines and not await self._send("\n".join(lines)):
            return False
        self._said = said
        return True

    async def _send(self, text: str) -> bool:
        try:
            await self.master.keeper.order("notify", text=text)
        except KeeperError as error:
            if str(error) != self._fault:
                self._fault = str(error)
                logger.warning("whoever started bkd cannot be told how it is: {}", error)
            return False
        self._fault = ""
        return True

    def _view(self) -> systemd.View:
        cluster, started = self.master.turns.cluster, self.master.announcement.made
        return systemd.View(cluster, started, self._reloads > 0, self.watchdog, self._is_well())

    def _is_well(self) -> bool:
        """Whether the watchdog may be fed; why not is told once."""
        cluster = self.master.turns.cluster
        if not self.watchdog or cluster.closing is not None or not self.master.announcement.made:
            return cluster.closing is not None
        short = systemd.shortage(cluster)
        if short != self._short:
            self._short = short
            logger.warning("the watchdog above bkd is {}", f"not fed: {short}" if short else "fed again")
        return not short
