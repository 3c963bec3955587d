"""The sockets by which processes of other users reach the master: `run_dir/worker.UID.sock`, one for each user. Those
by which they reach the dispatcher, `messages.UID.sock`, are bound here and served there.

A door takes hellos of workers, zygotes and applications, no commands, and from its user alone: the file is the user's
(0600), and the kernel says whose the peer is. Each process is besides held to what was ordered: see `hall` for workers
and zygotes, `identity` for applications.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from loguru import logger

from ..ipc.message import Envelope
from . import dispatcher
from .config.schema import Config
from .connection import Connection
from .duties import Admitted
from .listeners import DOOR, Listeners
from .privileges import SPEAK, Credentials, PrivilegeError, attempt, changeable
from .server import Server

PASSABLE = 0o011


class Doors:
    """Made as they are needed; each stays until the cluster is over. `path`: the control socket's."""

    def __init__(
        self,
        listeners: Listeners,
        server: Server,
        run_dir: str,
        config: Config,
        admitted: Callable[[], dict[int, Admitted]],
    ) -> None:
        self.listeners, self.server, self.run_dir, self.config = listeners, server, run_dir, config
        self.admitted = admitted
        self._turn = asyncio.Lock()
        self._open: set[int] = set()

    async def again(self) -> None:
        """Serve at those that an earlier master has opened."""
        for name in [name for name in self.listeners.found if name.startswith(DOOR)]:
            await self._serve(int(name.removeprefix(DOOR)))

    async def path(self, credentials: Credentials) -> str:
        """Where a process with these credentials finds the master. Raises PrivilegeError, KeeperError."""
        if credentials.uid < 0:
            return f"{self.run_dir}/control.sock"
        async with self._turn:
            path = self._path(credentials.uid)
            if credentials.uid not in self._open:
                self._check(credentials)
                self._let_pass()
                await self.listeners.door(credentials.uid, path)
                self._check_reach(credentials, path)
                await self._serve(credentials.uid)
            return path

    async def letterboxes(self) -> None:
        """Have the dispatcher's sockets bound: for bkd's own user, and for each other whose processes may reach it.
        Raises KeeperError, OSError."""
        await self.listeners.messages(dispatcher.path(self.run_dir))
        for uid, user in self.admitted().items():
            try:
                self._check(user.credentials)
            except PrivilegeError as error:
                logger.error("{}", error)
                continue
            await self.listeners.messages(dispatcher.path(self.run_dir, uid), uid)

    def missing(self) -> bool:
        """Whether one of them cannot be found any more."""
        return any(not os.path.lexists(self._path(uid)) for uid in self._open)

    async def restore(self) -> None:
        """Those that cannot be found any more, at their places again. Raises KeeperError, OSError."""
        async with self._turn:
            for uid in [uid for uid in self._open if not os.path.lexists(self._path(uid))]:
                self._let_pass()
                with self.listeners.renewing(f"{DOOR}{uid}"):
                    await self.listeners.door(uid, self._path(uid))
                await self._serve(uid)

    def _path(self, uid: int) -> str:
        return f"{self.run_dir}/worker.{uid}.sock"

    async def _serve(self, uid: int) -> None:
        listener = socket.socket(fileno=os.dup(self.listeners.found[f"{DOOR}{uid}"]))
        await self.server.listen(listener, Door(self.server, uid))
        self._open.add(uid)

    def _check(self, credentials: Credentials) -> None:
        """What root writes must not lie where this user can put something else."""
        found = changeable(self.run_dir, credentials)
        if found:
            raise PrivilegeError(
                f"{credentials.name} can change {found}, and so what root writes to {self.run_dir}: "
                f"name another run_dir in [app]"
            )
        if self.config.path and changeable(self.config.path, credentials):
            logger.warning("{} can change {}, which is obeyed as root", credentials.name, self.config.path)

    def _let_pass(self) -> None:
        """Through, but not to see what is there: everything inside has owner and mode of its own. Before there is a
        door: one that is found is not looked after by the next master."""
        for folder in (Path(self.run_dir), Path(self.run_dir, "log")):
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | PASSABLE)

    def _check_reach(self, credentials: Credentials, path: str) -> None:
        why = attempt(credentials, [(path, SPEAK)])
        if why:
            raise PrivilegeError(f"{credentials.name} cannot reach the master: {why}; name another run_dir in [app]")


class Door:
    """Owns the connections of one user, as the server does those to the control socket."""

    def __init__(self, server: Server, uid: int) -> None:
        self._server, self._uid = server, uid

    def opened(self, connection: Connection) -> bool:
        """Only this user, not even root."""
        return self._server.let_in(connection, self._uid)

    def received(self, connection: Connection, envelope: Envelope) -> None:
        self._server.received(connection, envelope)

    def rejected(self, connection: Connection, why: str) -> None:
        self._server.rejected(connection, why)

    def closed(self, connection: Connection) -> None:
        self._server.closed(connection)
