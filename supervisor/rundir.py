"""The run directory while the cluster lives: noticed when somebody has removed it, or something in it, and made again.

Workers lose nothing by that, since their connections live on; commands, and whoever connects anew, find the master
again as soon as it listens there.
"""

import asyncio
import os
import socket
from pathlib import Path
from typing import Protocol

from loguru import logger

from ..ipc.errors import BkdError
from .announcement import Announcement
from .banner import socket_option
from .commands import Commands
from .desk import Desk
from .doors import Doors
from .facts import RunDirRestored, RunDirUnfit
from .forgotten import Forgotten
from .keeperlink import KeeperError, KeeperLink
from .leftoverfacts import LeftoversEnded
from .leftovers import end_leftovers
from .listeners import CONTROL, Listeners
from .lostlog import LostLogs
from .metrics.metrics import Metrics
from .ownlog import OwnLog
from .places import objection
from .registry import Registry
from .roles import admit_groups
from .server import Server
from .setup import Options
from .terminal import Terminal

LOOK, LOOK_CAP = 0.5, 30.0


class Part(Protocol):
    """Files of the run directory that others rely on."""

    def missing(self) -> bool:
        """Whether one of them is gone; asked often."""

    async def restore(self) -> None:
        """Make anew what is gone. Raises OSError, BkdError."""


class Place(Desk, Protocol):
    """What it needs of the master."""

    run_dir: str
    options: Options
    keeper: KeeperLink
    listeners: Listeners
    server: Server
    doors: Doors
    metrics: Metrics
    registry: Registry
    announcement: Announcement
    adopting: bool
    commands: Commands
    forgotten: Forgotten | None


class Taken(BkdError):
    """The run directory is another cluster's; the text says whose."""


class RunDir:
    """Looks now and then for the control socket, and for what `parts` have there."""

    def __init__(self, master: Place) -> None:
        self.master, self.path = master, Path(master.run_dir)
        own = OwnLog(master.options, master.context, master.announcement)
        logs = LostLogs(master.context, master.registry, adopting=master.adopting)
        self._fault = ""
        messages = master.commands.postmaster
        self.parts: list[Part] = [master.doors, master.effects.programs, master.metrics, own, logs, messages]

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
        control, lock = self.path / "control.sock", self.path / "lock"
        is_gone = not os.path.lexists(control)
        is_torn = is_gone or not os.path.lexists(lock)
        missing = [part for part in self.parts if part.missing()]
        if is_torn or missing:
            provide(self.path)
        self._judge()
        if is_torn:
            await self.master.keeper.order("lock", path=str(lock))
        if is_gone:
            await self._listen(str(control))
        for part in missing:
            await part.restore()
        if is_torn:
            self.master.remember()
            self.master.tell(RunDirRestored(path=str(self.path)))

    def _judge(self) -> None:
        """Somebody may have given the folder away, or opened it."""
        fault = objection(os.stat(self.path), str(self.path))
        if fault and fault != self._fault:
            self.master.tell(RunDirUnfit(path=str(self.path), why=fault))
        self._fault = fault

    async def _listen(self, path: str) -> None:
        """A new socket in place of the one that nobody can find any more."""
        with self.master.listeners.renewing(CONTROL):
            await self.master.listeners.control(path)
        admit_groups(str(self.path), path, self.master.config.control)
        await self.master.server.listen(socket.socket(fileno=os.dup(self.master.listeners.found[CONTROL])))


async def claim(master: Place) -> LeftoversEnded | None:
    """Before anything is started: nobody else is here, and nothing of a cluster before. Whoever takes a living one over
    runs on whatever is in the way. Raises Taken, OSError."""
    provide(Path(master.run_dir), adopting=master.adopting)
    try:
        await master.keeper.order("lock", path=f"{master.run_dir}/lock")
    except KeeperError as error:
        if not master.adopting:
            raise _taken(master, error) from error
        logger.error("{}/lock: {}", master.run_dir, error)
    if master.adopting:
        return None
    if master.forgotten is not None:
        return await master.forgotten.end_others()
    ended = await end_leftovers(master.run_dir)
    if ended is not None and master.options.daemon:
        Terminal().write(f"bkd: {ended.describe()}\n")
    return ended


def admit(master: Place) -> None:
    """The groups of `[control]`; one that is gone by now must not keep a master from taking over what runs. Raises
    BkdError, OSError."""
    try:
        admit_groups(master.run_dir, master.context.socket, master.config.control)
    except (BkdError, OSError) as error:
        if not master.adopting:
            raise
        logger.error("{}", error)


def _taken(master: Place, error: KeeperError) -> Taken:
    holder = error.answer.get("holder")
    if holder is None:
        return Taken(f"{master.run_dir}/lock: {error}")
    how = f"bkd stop{socket_option(master.config, master.run_dir)}"
    return Taken(f"{master.config.app.name} is already running (pid {holder}); stop it with `{how}`")


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
