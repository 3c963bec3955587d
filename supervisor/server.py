"""The control socket: everybody who talks to the master is a connection here. Finds out who it is, decides nothing."""

import asyncio
import os
import socket
from collections import Counter
from typing import Protocol

from ..ipc.errors import FrameError
from ..ipc.message import Command, Envelope, Hello, Message, Refused, Welcome, body
from ..ipc.message_names import VERSION
from ..ipc.processes import start_time
from .config.schema import ControlSection
from .connection import READ, Connection, Owner
from .facts import FrameRejected, PeerRefused
from .journal import Journal
from .roles import Role, role

CLIENTS = 256
BACKLOG = 512


class Hall(Protocol):
    """Where welcomed connections go."""

    def admit(self, connection: Connection, hello: Hello) -> str:
        """Take a worker or zygote; "" or the reason why not."""

    def heard(self, connection: Connection, envelope: Envelope) -> None:
        """A message of a worker or zygote; raises FrameError when it has no sense."""

    def lost(self, connection: Connection) -> None:
        """A worker's or zygote's connection is gone."""

    def join(self, connection: Connection, who: Role) -> str:
        """Take an application connection; "" or the reason why not."""

    def left(self, connection: Connection) -> None:
        """An application connection is gone."""

    def command(self, connection: Connection, envelope: Envelope, command: Command, who: Role) -> None:
        """A client gives a command."""


class Server:
    """Listens, checks credentials and hellos, and hands messages on."""

    def __init__(self, control: ControlSection, journal: Journal, hall: Hall, epoch: int) -> None:
        self.control, self.journal, self.hall, self.epoch = control, journal, hall, epoch
        self.owner = os.getuid()
        self.refusals: Counter[str] = Counter()
        self._roles: dict[Connection, Role] = {}
        self._told: dict[int, float] = {}
        self._newest: dict[str, Connection] = {}
        self._listening: dict[str, asyncio.Server] = {}  # by path; uvloop closes a server that nobody holds

    async def listen(self, listener: socket.socket, door: Owner | None = None) -> None:
        """Serve this listener from now on, in place of another one at its path; through a `door`, if it is not for
        everybody who has a role."""
        loop, buffer, owner = asyncio.get_running_loop(), memoryview(bytearray(READ)), door or self
        server = await loop.create_unix_server(lambda: Connection(owner, buffer), sock=listener, backlog=BACKLOG)
        old = self._listening.get(listener.getsockname())
        self._listening[listener.getsockname()] = server
        if old is not None:
            old.close()

    def opened(self, connection: Connection) -> bool:
        """Called for every connection: who has no role gets no answer."""
        who = role(connection.peer, self.control, self.owner)
        if who == Role.NOBODY:
            self._tell(connection, PeerRefused, "this user has no role here")
            return False
        self._make_room()
        self._roles[connection] = who
        return True

    def let_in(self, connection: Connection, uid: int) -> bool:
        """Called for every connection through the door of a user, who may say hello there and has no role."""
        if connection.peer.uid != uid:
            self._tell(connection, PeerRefused, f"this socket is for user {uid}")
            return False
        self._make_room()
        self._roles[connection] = Role.NOBODY
        return True

    def _make_room(self) -> None:
        """When there are too many clients, the oldest connection of whoever has most makes room: of the user, and of
        his process."""
        clients = [other for other in self._roles if other.role in ("", "client")]
        if len(clients) >= CLIENTS:
            user, _ = Counter(other.peer.uid for other in clients).most_common(1)[0]
            his = [other for other in clients if other.peer.uid == user]
            greediest, _ = Counter(other.peer.pid for other in his).most_common(1)[0]
            next(other for other in his if other.peer.pid == greediest).reject("it has too many connections")

    def received(self, connection: Connection, envelope: Envelope) -> None:
        """The hello first, then what the role may say."""
        if not connection.role:
            self._hello(connection, envelope)
        elif connection.role == "client":
            if envelope.op != Command.op:
                raise FrameError(f"a client may not say {envelope.op[:80]}")
            self.hall.command(connection, envelope, body(envelope, Command), self._roles[connection])
        else:
            self.hall.heard(connection, envelope)

    def rejected(self, connection: Connection, why: str) -> None:
        """Counted always, told at most once a second and user."""
        self._tell(connection, FrameRejected, why)

    def closed(self, connection: Connection) -> None:
        """Called once for every connection."""
        self._roles.pop(connection, None)
        if self._newest.get(connection.token) is connection:
            del self._newest[connection.token]
        if connection.role in ("worker", "zygote"):
            self.hall.lost(connection)
        elif connection.role == "application":
            self.hall.left(connection)

    def _hello(self, connection: Connection, envelope: Envelope) -> None:
        if envelope.op != Hello.op:
            raise FrameError("the first message must be a hello")
        hello = body(envelope, Hello)
        refusal = self._check(connection, hello)
        if hello.role == "application" and not refusal:
            refusal = self.hall.join(connection, self._roles[connection])
        answer: Message = Refused(refusal) if refusal else Welcome(VERSION, self.epoch, os.getpid())
        if refusal:
            self.refusals["hello"] += 1
            connection.send(answer, re=envelope.id)
            connection.close()
            return
        connection.welcomed(hello.role)
        connection.send(answer, re=envelope.id)
        if hello.role in ("worker", "zygote"):
            refusal = self.hall.admit(connection, hello)
            if refusal:
                connection.reject(refusal)
            else:
                self._supersede(connection, hello.token)

    def _supersede(self, connection: Connection, token: str) -> None:
        """A process has one connection, the newest: whoever says hello again and again has no more than that."""
        older = self._newest.get(token)
        self._newest[token] = connection
        connection.token = token
        if older is not None and older.transport is not None:
            older.transport.abort()

    def _check(self, connection: Connection, hello: Hello) -> str:
        if hello.version != VERSION:
            return f"this master speaks version {VERSION} of the protocol, you speak {hello.version}: use the same bkd"
        if hello.role == "client":
            return "" if self._roles[connection] > Role.NOBODY else "no commands are taken here"
        if hello.role == "application":
            said = hello.pid or hello.start
        elif hello.role in ("worker", "zygote") and hello.token:
            said = True
        else:
            return "unknown role"
        if said and (hello.pid != connection.peer.pid or start_time(hello.pid) != hello.start):
            return "the process is not the one it says it is"
        return ""

    def _tell(self, connection: Connection, fact: type[PeerRefused] | type[FrameRejected], why: str) -> None:
        self.refusals[fact.__name__] += 1
        peer, now = connection.peer, asyncio.get_running_loop().time()
        if now - self._told.get(peer.uid, -1.0) >= 1.0:
            self._told[peer.uid] = now
            self.journal.write(fact(uid=peer.uid, pid=peer.pid, why=why[:200], count=self.refusals[fact.__name__]))
