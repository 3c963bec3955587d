"""The zygote: a blank interpreter that imports one release's application and forks workers on order.

Single-threaded; it serves nothing and sends no heartbeats. The same program becomes an exec'd worker when its order is
`worker:become` instead of `zygote:fork`. Runs in a process the keeper spawned; its parent is the keeper.
"""

import contextlib
import gc
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from setproctitle import setproctitle

from ..ipc.errors import BkdError, DeadlineError, NotConnected, RefusedError
from ..ipc.link import Link
from ..ipc.message import (
    OTHER_VERSION,
    Become,
    DispatcherWork,
    Envelope,
    Fork,
    Forked,
    ForkFailed,
    FunctionWork,
    Hello,
    Load,
    Loaded,
    LoadFailed,
    MessagesWork,
    WebWork,
    Welcome,
    Work,
    body,
)
from ..ipc.processes import redirect, start_time
from . import child, trace
from .afresh import import_afresh
from .folder import enter
from .prints import prints
from .sources import Sources
from .stacks import FaultFile
from .supervision import Supervision

CONNECT_LIMIT = 5.0
RETRY_FIRST, RETRY_CAP = 0.05, 2.0


class Prepared(Protocol):
    """A kind of work with its application imported, not yet running."""

    def serve(self, listeners: list[socket.socket], supervision: Supervision, index: int) -> int:
        """Do the work in this process until it is drained; returns the exit code."""


class Birth(msgspec.Struct):
    """The line on standard input: where the master listens, and the one-time token of this spawn."""

    socket: str
    token: str


def main() -> None:
    """Entry point of a blank process: wait to be born, then serve the master until it goes.

    The exit code is OTHER_VERSION when the master refuses this process: the two are not of one bkd.
    """
    setproctitle("bkd: blank")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the master ends a zygote; workers set it back
    os.environ.pop("SPT_NOENV", None)
    parent = os.getppid()
    if "warm" in sys.argv:
        from . import web  # noqa: F401 - imported before it is known to be needed, to save that time later
    line = sys.stdin.buffer.readline()
    if not line:
        return
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    birth = msgspec.json.decode(line, type=Birth)
    faults, pid = FaultFile(), os.getpid()
    hello = Hello(role="zygote", token=birth.token, pid=pid, start=start_time(pid), dumps=faults.descriptor)
    try:
        link, welcome = connected(birth.socket, hello, parent)
        zygote = Zygote(link, birth.socket, faults)
        while True:
            with contextlib.suppress(NotConnected):
                zygote.run()
            zygote.link.close()
            hello = msgspec.structs.replace(hello, ready=zygote.loaded is not None)
            time.sleep(RETRY_FIRST)
            zygote.link, welcome = connected(birth.socket, hello, parent, welcome.epoch)
    except RefusedError as error:
        sys.stderr.write(f"bkd: {error}\n")
        sys.exit(OTHER_VERSION)
    except BkdError as error:
        sys.exit(f"bkd: {error}")


def connected(path: str, hello: Hello, keeper: int, epoch: int = 0) -> tuple[Link, Welcome]:
    """The master that is there or the next one, none before `epoch`. Without one, and without the keeper that would
    start it, a zygote ends at once."""
    delay, why = RETRY_FIRST, ""
    while True:
        try:
            return Link.connect(path, hello, timeout=CONNECT_LIMIT, epoch=epoch)
        except (NotConnected, DeadlineError) as error:
            if os.getppid() != keeper:
                sys.exit(0)
            if why != str(error):
                why = str(error)
                sys.stderr.write(f"bkd: {why}; trying again\n")
        time.sleep(delay)
        delay = min(RETRY_CAP, delay * 2)


class Zygote:
    """One release, loaded; knows nothing of slots but what an order says."""

    def __init__(self, link: Link, path: str, faults: FaultFile) -> None:
        self.link, self.path, self.faults = link, path, faults
        self.load = Load()
        self.prepared: Prepared | None = None
        self.loaded: Loaded | None = None
        self.listeners: list[socket.socket] = []
        self.orders: dict[str, Callable[[Envelope], None]] = {
            Load.op: self._load,
            Fork.op: self._fork,
            Become.op: self._become,
        }

    def run(self) -> None:
        """Obey until the connection breaks. A new master hears again what the old one may have missed."""
        if self.loaded is not None:
            self.link.send(self.loaded)
        while True:
            envelope = self.link.receive(None)
            self.orders[envelope.op](envelope)

    def _load(self, envelope: Envelope) -> None:
        self.load = body(envelope, Load)
        self.listeners = [socket.socket(fileno=fd) for fd in self.link.descriptors]
        self.link.descriptors.clear()
        redirect(self.load.log)
        if self.load.solo:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        setproctitle(f"bkd: {self.load.app} {self.load.group} zygote r{self.load.release} loading")
        started, sources = time.monotonic(), Sources()
        try:
            self._import()
        except BaseException as error:  # noqa: BLE001 - whatever the application raises is the answer
            files = sources.new(error) if self.load.watch else []
            self.link.send(LoadFailed(trace.one_line(error), trace.told(error), files), re=envelope.id)
            if self.load.solo:
                sys.stderr.write(trace.told(error))
                sys.exit(1)
            return
        setproctitle(f"bkd: {self.load.app} {self.load.group} zygote r{self.load.release} ready")
        seconds, files = time.monotonic() - started, sources.new()
        told = files if self.load.watch else []
        own = self._own_descriptors()
        self.loaded = Loaded(seconds, unsafe(own), told, prints(files, self.load.cwd))
        self.link.send(self.loaded, re=envelope.id)

    def _import(self) -> None:
        """With the collector off, so that what is imported lies together and is never touched again."""
        os.environ.update(self.load.env)
        import_afresh()
        enter(self.load.cwd)
        gc.disable()
        self.prepared = prepare(self.load.work)
        gc.freeze()

    def _own_descriptors(self) -> set[int]:
        return {self.link.sock.fileno(), *(listener.fileno() for listener in self.listeners)}

    def _fork(self, envelope: Envelope) -> None:
        order = body(envelope, Fork)
        try:
            pid = self._fork_twice(order)
        except OSError as error:
            self.link.send(ForkFailed(order.worker, error.strerror or str(error)), re=envelope.id)
            return
        self.link.send(Forked(order.worker, pid, start_time(pid)), re=envelope.id)

    def _fork_twice(self, order: Fork) -> int:
        """The worker's parent becomes the keeper (a child subreaper) when the process in the middle ends.

        A SIGTERM that comes before the worker has set it back waits until then: it would be ignored, as here.
        """
        read_end, write_end = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            middle = os.fork()
            if middle == 0:
                self._middle(order, write_end)
        except OSError:
            os.close(read_end)
            os.close(write_end)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as answer:
            word = answer.read(32)
        with contextlib.suppress(ChildProcessError):  # the application reaps children itself
            os.waitpid(middle, 0)
        if not word.isdigit():
            raise OSError(word.decode() or "the process in the middle died")
        return int(word)

    def _middle(self, order: Fork, write_end: int) -> None:
        """Runs in the process in the middle, and its second half in the worker. Never returns."""
        try:
            worker = os.fork()
        except OSError as error:
            os.write(write_end, (error.strerror or "fork failed").encode())
            os._exit(1)
        if worker:
            os.write(write_end, b"%d" % worker)
            os._exit(0)
        os.close(write_end)
        self._work(order, leader=True)

    def _become(self, envelope: Envelope) -> None:
        self._work(body(envelope, Become), leader=False)

    def _work(self, order: Fork, *, leader: bool) -> None:
        """Runs in the worker. Never returns."""
        assert self.prepared is not None
        self.link.close()
        faults = self.faults.anew() if leader else self.faults
        faults.keep_from_copies()
        spawn = child.Spawn(self.path, self.load, order, leader, faults.descriptor)
        child.run(self.prepared.serve, self.listeners, spawn)


def prepare(work: Work) -> Prepared:
    """Import the application; raises whatever it raises."""
    match work:
        case WebWork():
            from . import web

            return web.prepare(work)
        case FunctionWork():
            from . import function

            return function.prepare(work)
        case MessagesWork():
            from .messages import executor

            return executor.prepare(work)
        case DispatcherWork():
            from .dispatch import main as dispatcher

            return dispatcher.prepare(work)


def unsafe(own: set[int]) -> list[str]:
    """What of this process a fork would break: threads but the main one, connected stream sockets but `own`."""
    return [*_threads(), *_connections(own)]


def _threads() -> list[str]:
    main = os.getpid()
    named = {thread.native_id: thread.name for thread in threading.enumerate()}
    tasks = [int(task) for task in os.listdir("/proc/self/task") if int(task) != main]
    return [f"thread {named.get(task) or _comm(task)}" for task in tasks]


def _comm(task: int) -> str:
    try:
        with open(f"/proc/self/task/{task}/comm") as file:
            return file.read().strip()
    except OSError:
        return str(task)


def _connections(own: set[int]) -> list[str]:
    found = []
    for fd in (int(name) for name in os.listdir("/proc/self/fd")):
        peer = None if fd in own else _peer(fd)
        if peer is not None:
            found.append(f"connection to {peer}" if peer else "a pair of sockets")
    return found


def _peer(fd: int) -> Any:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
        with socket.socket(fileno=os.dup(fd)) as sock:
            return sock.getpeername() if sock.type == socket.SOCK_STREAM else None
    except OSError:
        return None
