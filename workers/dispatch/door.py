"""The socket of messages: lets peers in by what they say first, and knows who is there."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from ...ipc.durable.wire import WIRE, AnyFrame, Enlist, Greet
from ...ipc.errors import FrameError
from .executors import ExecutorRole
from .executors import Hands as ExecutorHands
from .masters import Hands as MasterHands
from .masters import MasterRole
from .peer import READ, Peer, Role
from .producers import Hands as ProducerHands
from .producers import ProducerRole

MOST_PEERS = 1000
MOST_PRODUCERS = 800  # so that there is always room for executors and masters
MOST_OF_ONE = 100  # connections of one process
MOST_OF_USER = 400  # of one user who is not the cluster's own
BACKLOG = 512

logger = logging.getLogger("bkd.dispatch")


class Hands(ExecutorHands, ProducerHands, MasterHands, Protocol):
    """What all peers need of the dispatcher."""


class Door:
    """Listens on sockets that are given, and counts. `emptied` is called when a peer has left. Beside root and the user
    of this process `users` may enqueue, and `runners` may run messages as well; nobody else is heard, whatever socket
    he has found."""

    def __init__(
        self, hands: Hands, emptied: Callable[[], None], *, users: Iterable[int] = (), runners: Iterable[int] = ()
    ) -> None:
        self._hands, self._emptied = hands, emptied
        self._users, self._runners = frozenset(users), frozenset(runners)
        self._peers: set[Peer] = set()
        self._buffer = memoryview(bytearray(READ))
        self._servers: list[asyncio.Server] = []
        self._owner = os.getuid()

    async def listen(self, listener: socket.socket) -> None:
        """Serve whoever connects to it from now on."""
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        server = await loop.create_unix_server(
            lambda: Peer(self, self._buffer), sock=listener, backlog=BACKLOG, **options
        )
        self._servers.append(server)

    @property
    def is_busy(self) -> bool:
        """An executor is there, or a producer that waits for an answer. Without a master, who asks last for this end,
        any producer may be a worker that has requests to finish."""
        idle_too = not self.has_master
        return any(_is_busy(peer.role, idle_too) for peer in self._peers)

    @property
    def has_master(self) -> bool:
        """A master is there, which tells how processes end."""
        return any(isinstance(peer.role, MasterRole) for peer in self._peers)

    def shut(self) -> None:
        """Let nobody in any more; who is there stays. The socket itself is the keeper's, and stays."""
        for server in self._servers:
            server.close()

    def hush(self) -> None:
        """Hear nobody any more; what was said is still answered."""
        self.shut()
        for peer in self._peers:
            peer.hold()

    def close(self) -> None:
        """Everybody leaves, after what was said to them has left."""
        self.shut()
        for peer in list(self._peers):
            peer.close()

    # -- of peers

    def opened(self, peer: Peer) -> None:
        """There is a connection."""
        self._peers.add(peer)
        if len(self._peers) > MOST_PEERS:
            peer.refuse(f"there are {MOST_PEERS} connections already")
        elif not self._is_own(peer) and peer.credentials.uid not in self._users:
            peer.refuse(f"no group of this cluster runs as user {peer.credentials.uid}")
        elif not self._is_own(peer) and self._count_user(peer.credentials.uid) > MOST_OF_USER:
            peer.refuse(f"its user has {MOST_OF_USER} connections already")
        elif self._count(peer.credentials.pid) > MOST_OF_ONE:
            peer.refuse(f"it has {MOST_OF_ONE} connections already, and needs one")

    def introduced(self, peer: Peer, first: AnyFrame) -> Role:
        """What this peer is; raises FrameError when it may not be that."""
        if isinstance(first, Enlist):
            if not self._is_own(peer) and peer.credentials.uid not in self._runners:
                raise FrameError(f"no group of messages runs as user {peer.credentials.uid}")
            return ExecutorRole(self._hands, peer, first)
        if not isinstance(first, Greet):
            raise FrameError(f"it said {type(first).__name__} before who it is")
        if first.wire != WIRE:
            raise FrameError(f"it speaks version {first.wire} of the frames of messages, this dispatcher {WIRE}")
        if first.role == "producer":
            if sum(isinstance(other.role, ProducerRole) for other in self._peers) >= MOST_PRODUCERS:
                raise FrameError(f"there are {MOST_PRODUCERS} producers already")
            return ProducerRole(self._hands, peer)
        if first.role != "master":
            raise FrameError(f"there is no role {first.role[:40]!r}")
        if not self._is_own(peer):
            raise FrameError("only the cluster's own user and root may speak as its master")
        return MasterRole(self._hands, peer)

    def _is_own(self, peer: Peer) -> bool:
        return peer.credentials.uid in (0, self._owner)

    def _count_user(self, uid: int) -> int:
        return sum(other.credentials.uid == uid for other in self._peers)

    def _count(self, pid: int) -> int:
        """Processes of other pid namespaces have no number here, and are not told apart."""
        return sum(other.credentials.pid == pid for other in self._peers) if pid else 0

    def closed(self, peer: Peer) -> None:
        """It has left."""
        self._peers.discard(peer)
        self._emptied()


def _is_busy(role: Role | None, idle_too: bool) -> bool:
    return isinstance(role, ExecutorRole) or (isinstance(role, ProducerRole) and (idle_too or role.waits))


def bound(path: Path) -> socket.socket:
    """A listening socket at this path, for this user only, in place of what was there."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    old = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old)
    listener.listen(BACKLOG)
    return listener
