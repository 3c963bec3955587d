"""The run directory while the cluster lives: noticed when somebody has removed it, and made again.

Workers lose nothing by that, since their connections live on; commands, and whoever connects anew, find the master
again as soon as it listens there.
"""

import asyncio
import os
import socket
from pathlib import Path

from loguru import logger

from ..ipc.errors import BkdError
from .desk import Desk
from .facts import RunDirRestored
from .keeperlink import KeeperError, KeeperLink
from .listeners import CONTROL, Listeners
from .roles import admit_groups
from .server import Server

LOOK, LOOK_CAP = 0.5, 30.0


class RunDir:
    """Looks for the control socket now and then."""

    def __init__(self, path: Path, master: Desk, keeper: KeeperLink, listeners: Listeners, server: Server) -> None:
        self.path, self.master, self.keeper = path, master, keeper
        self.listeners, self.server = listeners, server

    async def run(self) -> None:
        """Until the cluster stops. What cannot be made is tried again, less and less often."""
        delay = LOOK
        while self.master.turns.cluster.closing is None:
            await asyncio.sleep(delay)
            try:
                await self._look()
                delay = LOOK
            except (OSError, BkdError) as error:
                delay = min(LOOK_CAP, delay * 2)
                logger.error("{} was removed and cannot be made again: {}", self.path, error)

    async def _look(self) -> None:
        control = self.path / "control.sock"
        if os.path.lexists(control):
            return
        provide(self.path)
        await self.keeper.order("lock", path=str(self.path / "lock"))
        await self._listen(str(control))
        self.master.remember()
        self.master.tell(RunDirRestored(path=str(self.path)))

    async def _listen(self, path: str) -> None:
        """A new socket in place of the one that nobody can find any more."""
        old = self.listeners.found.pop(CONTROL, -1)
        try:
            found = await self.listeners.control(path)
        except KeeperError:
            self.listeners.found[CONTROL] = old
            raise
        if old >= 0:
            os.close(old)
        admit_groups(str(self.path), path, self.master.config.control)
        await self.server.listen(socket.socket(fileno=os.dup(found)))


def provide(path: Path, *, adopting: bool = False) -> None:
    """The run directory and the one for logs, where they are not there. Raises OSError, but not for whoever takes a
    living cluster over: that one runs without them, and tries again later."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path / "log").mkdir(mode=0o750, exist_ok=True)
    except OSError as error:
        if not adopting:
            raise
        logger.error("{} cannot be made: {}", path, error)
