"""Where welcomed connections go: which process a worker or zygote is, and what its messages mean."""

import os
import signal
from collections.abc import Callable

from ..ipc.errors import FrameError
from ..ipc.message import (
    BootFailed,
    Command,
    Dumped,
    Envelope,
    Hello,
    Imported,
    Late,
    Ping,
    Ready,
    ShellResult,
    Terminated,
    body,
)
from . import events, procfs
from .commands import Commands
from .connection import Connection
from .desk import Issuer, Request
from .exchange import Exchange
from .fact import clean_lines
from .forensics.autopsy import Autopsy
from .forensics.dumpfile import DumpFile
from .forgotten import Forgotten
from .loaders import Loaders
from .registry import LoaderProcess, Process, Registry
from .roles import Role
from .tree import Handle

LONGEST_WORN = 200


class Hall:
    """Turns what processes say into events; commands of clients go to the table. `forgotten`: workers that are no
    process of this master's and may stay for a while."""

    forgotten: Forgotten | None = None

    def __init__(
        self,
        registry: Registry,
        loaders: Loaders,
        commands: Commands,
        post: Callable[[events.Event], None],
        keeper_pid: int,
        welcome: Callable[[Process], None],
        exchange: Exchange,
        autopsy: Autopsy,
    ) -> None:
        self.registry, self.loaders, self.commands = registry, loaders, commands
        self.post, self.keeper_pid, self.welcome = post, keeper_pid, welcome
        self.exchange, self.autopsy = exchange, autopsy
        self.own = os.geteuid()

    def admit(self, connection: Connection, hello: Hello) -> str:
        """A worker or zygote says hello with the token of its spawn."""
        process = self.registry.by_token(hello.token)
        if process is None:
            if self.forgotten is not None and self.forgotten.keep(connection, hello):
                return ""
            self._end_leftover(hello)
            return "nobody ordered this process"
        if connection.peer.uid != (process.uid if process.uid >= 0 else self.own):
            return "this token belongs to another user"
        if process.pid and (process.pid, process.start) != (hello.pid, hello.start):
            return "another process has this token"
        if process.dumps is None and hello.dumps >= 0:
            process.dumps = DumpFile.open(hello.pid, hello.start, hello.dumps)
        if isinstance(process, LoaderProcess):
            self.loaders.admit(process, connection, loaded=hello.ready)
        elif hello.role == "zygote":
            connection.worker = process.worker
            self.loaders.admit_solo(process, connection)
        else:
            self._admit_worker(process, connection, hello)
        return ""

    def _end_leftover(self, hello: Hello) -> None:
        """A child of our keeper whom no master remembers, of a spawn that was under way as the last one died."""
        facts = procfs.read(hello.pid)
        handle = Handle.open(hello.pid, hello.start)
        if handle is not None and facts is not None and facts.ppid == self.keeper_pid:
            handle.signal(signal.SIGKILL)
            handle.close()

    def _admit_worker(self, process: Process, connection: Connection, hello: Hello) -> None:
        connection.worker = process.worker
        process.connection = connection
        self.loaders.spawned(process.worker, hello.pid, hello.start)
        self.welcome(process)
        if hello.ready:
            self.post(events.BecameReady(process.worker))

    def heard(self, connection: Connection, envelope: Envelope) -> None:
        """A message of a worker or zygote."""
        if connection.loader is not None:
            loader = self.registry.loaders.get(connection.loader)
            if loader is not None and loader.connection is connection:
                self.loaders.heard(loader, envelope)
            return
        process = self.registry.workers.get(connection.worker)
        if process is None:
            return
        if connection.role == "zygote":
            self.loaders.heard_solo(process, connection, envelope)
        else:
            self._heard_worker(process, connection, envelope)

    def _heard_worker(self, process: Process, connection: Connection, envelope: Envelope) -> None:
        match envelope.op:
            case Ping.op:
                ping = body(envelope, Ping)
                self.post(_pinged(process.worker, ping))
                self.autopsy.heard(process, ping)
            case Late.op:
                self.autopsy.was_late(process, body(envelope, Late))
            case Dumped.op:
                self.autopsy.gathering.heard(body(envelope, Dumped))
            case Ready.op:
                self.post(events.BecameReady(process.worker))
            case Imported.op:
                files = body(envelope, Imported).files
                self.loaders.imported(process.group, process.release, files, process.worker)
            case BootFailed.op:
                failed = body(envelope, BootFailed)
                process.words = clean_lines(failed.trace)
                self.post(events.BootFailed(process.worker, failed.reason))
            case Terminated.op:
                self.post(events.Terminated(process.worker))
            case ShellResult.op:
                self.commands.shells.heard(connection, body(envelope, ShellResult))
            case _:
                raise FrameError(f"a worker may not say {envelope.op[:80]}")

    def lost(self, connection: Connection) -> None:
        """A connection is gone; the process's end, if it ended, is told by the keeper."""
        self.commands.shells.lost(connection)
        process = self.registry.workers.get(connection.worker)
        if process is not None and process.connection is connection:
            process.connection = None

    def join(self, connection: Connection, who: Role) -> str:
        """A process wants to exchange messages with others; "" or the reason why not."""
        return self.exchange.admit(connection, who)

    def left(self, connection: Connection) -> None:
        """It is gone."""
        self.exchange.closed(connection)

    def command(self, connection: Connection, envelope: Envelope, command: Command, who: Role) -> None:
        """A client gives a command."""
        issuer = Issuer(connection.peer.uid, connection.peer.pid)
        self.commands.give(Request(connection, envelope.id, command, issuer), who)


def _pinged(worker: int, ping: Ping) -> events.Pinged:
    used = ping.rss, ping.cpu, ping.served, ping.pss, ping.late, ping.behind, ping.worn[:LONGEST_WORN]
    return events.Pinged(worker, ping.lag, ping.in_flight, ping.oldest, *used)
