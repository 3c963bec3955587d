"""The master: the only place where decisions are made. One asyncio loop, one thread, no application code, no children.

It composes the parts: events come from the keeper, the control socket and its own effects; turns decide; effects do.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from loguru import logger
from setproctitle import setproctitle

from ..ipc.errors import BkdError, FrameError
from ..ipc.message import BootFailed, Command, Envelope, Hello, Ping, Ready, body
from ..ipc.processes import start_time
from . import banner, events, procfs, spawning
from .adoption import adopt
from .cluster import Cluster, Phase, founded
from .commands import Commands
from .config.address import Inet, Unix, absolute_address, parse_address
from .config.faults import ConfigError
from .config.schema import Config
from .connection import Connection
from .context import Context
from .effects import Effects
from .facts import ClusterStarted, ClusterStopped, Fact, KeeperLost, MasterStarted, ReleaseFailed
from .housekeeping import Housekeeping
from .journal import Journal
from .keeperlink import KeeperError, KeeperLink
from .memory import Memory, State, records, restore, stamp
from .reconcile import hopeless
from .registry import LoaderProcess, Process, Registry
from .roles import Role
from .server import Server
from .setup import Options, read_config, run_dir_of
from .tree import Handle
from .turns import Turns

BACKLOG = 2048
CONTROL_BACKLOG = 512
BORN_LIMIT = 10.0
SAVE_DELAY = 0.05
STOP_SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", signal.SIGQUIT: "SIGQUIT"}


class StartError(BkdError):
    """The cluster cannot be started; the text says what to do."""


def main() -> None:
    """Entry point of the process that the keeper spawns."""
    options = Options(**json.loads(sys.argv[1]))
    setproctitle("bkd: master")
    try:
        config = read_config(options)
        code = asyncio.run(Master(options, config).run())
    except ConfigError as error:
        code = _failed(options, str(error), 2)
    except BkdError as error:
        code = _failed(options, f"bkd: {error}", 1)
    sys.stdout.flush()
    os._exit(code)


def _failed(options: Options, text: str, code: int) -> int:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the terminal is where it belongs
    if options.daemon:
        os.write(2, b"\0%d\n" % code)
    return code


class Master:
    """One incarnation; another one follows when this one dies."""

    def __init__(self, options: Options, config: Config) -> None:
        self.options, self.config = options, config
        self.run_dir = run_dir_of(options, config)
        self.files = options.logs_to_files(config)
        self.journal = Journal(Path(self.run_dir), limit=config.log.rotate, keep=max(1, config.log.keep))
        self.registry = Registry()
        self.keeper = KeeperLink(options.fd)
        self.began = time.monotonic()
        self.keeper_pid = 0
        self.epoch = 1
        self.over: asyncio.Future[int]
        self.announced = False
        self.last_trace = ""
        self.memory = Memory(self.run_dir)
        self.adopting = False
        self._saving: asyncio.TimerHandle | None = None

    async def run(self) -> int:
        """Start everything, then live until the cluster is over; returns the exit code."""
        loop = asyncio.get_running_loop()
        self.over = loop.create_future()
        born: asyncio.Future[tuple[dict[str, Any], list[int]]] = loop.create_future()
        self.keeper.on_event = lambda event, descriptors: born.set_result((event, descriptors))
        self.keeper.listen(loop)
        self._found(*await asyncio.wait_for(born, BORN_LIMIT))
        await self._claim()
        await self._bind()
        self._begin()
        return await self.over

    # -- the start

    def _found(self, born: dict[str, Any], descriptors: list[int]) -> None:
        """Make the parts, new or as the last master left them; nothing is started yet."""
        self.keeper_pid = born["keeper"]
        self.keeper_start = start_time(self.keeper_pid)
        state = self.memory.recall(self.keeper_pid, self.keeper_start)
        cluster = self._remembered(state) if state is not None else self._fresh()
        self.turns = Turns(cluster, self._perform, self.tell)
        self.context = Context(
            config=self.config,
            run_dir=self.run_dir,
            keeper=self.keeper,
            keeper_pid=self.keeper_pid,
            files=self.files,
            post=self.turns.post,
            is_last=self._is_last,
            listeners=dict(zip(born["listeners"], descriptors, strict=True)),
            blank=born["blank"],
        )
        self._compose()

    def _fresh(self) -> Cluster:
        exit_when = self.config.app.exit_when or ("failed" if self.keeper_pid == 1 else "never")
        return founded(self.config.workers, self.config.ping, exit_when_failed=exit_when == "failed")

    def _remembered(self, state: State) -> Cluster:
        self.config, self.epoch, self.began = state.config, state.epoch + 1, state.began
        self.adopting = self.announced = True
        restore(self.registry, state)
        return state.cluster

    def _compose(self) -> None:
        self.effects = Effects(self.context, self.registry)
        self.effects.leaving = self._leave
        self.commands = Commands(self)
        self.turns.changed = self._changed
        self.keeper.on_event = self._heard_keeper
        self.keeper.on_lost = self._keeper_lost
        setproctitle(f"bkd: {self.config.app.name} master")

    async def _claim(self) -> None:
        """The run directory is ours alone, and the control socket is there before anything is started."""
        try:
            await self.keeper.order("lock", path=f"{self.run_dir}/lock")
        except KeeperError as error:
            holder = error.answer.get("holder")
            if holder is None:
                raise StartError(f"{self.run_dir}/lock: {error}") from error
            name = self.config.app.name
            raise StartError(f"{name} is already running (pid {holder}); stop it with `bkd stop`") from error
        Path(self.run_dir, "log").mkdir(mode=0o750, exist_ok=True)
        if "control" not in self.context.listeners:
            _, descriptors = await self._order_listener("control", "unix", self.context.socket, mode=0o600)
            self.context.listeners["control"] = descriptors[0]
        server = Server(self.config.control, self.journal, self, self.epoch)
        await server.listen(socket.socket(fileno=os.dup(self.context.listeners["control"])))

    async def _bind(self) -> None:
        for settings in self.config.workers.values():
            for text in settings.bind:
                if text not in self.context.listeners:
                    self.context.listeners[text] = await self._bind_one(text)

    async def _bind_one(self, text: str) -> int:
        address = parse_address(absolute_address(text, self.config.base))
        try:
            if isinstance(address, Unix):
                _, descriptors = await self._order_listener(text, "unix", address.path, mode=0o666)
            elif isinstance(address, Inet):
                family, resolved = await _resolve(address)
                _, descriptors = await self._order_listener(text, family, resolved)
            else:
                raise StartError(f"{text}: socket activation is not supported yet; give an address")
        except KeeperError as error:
            raise StartError(f"cannot listen on {text}: {error}{banner.holder_of(address, error.errno)}") from error
        return descriptors[0]

    async def _order_listener(self, name: str, family: str, address: object, mode: int = 0) -> tuple[Any, list[int]]:
        backlog = BACKLOG if name != "control" else CONTROL_BACKLOG
        return await self.keeper.order(
            "bind", name=name, family=family, address=address, backlog=backlog, **({"mode": mode} if mode else {})
        )

    def _begin(self) -> None:
        self._log_to()
        self.keeper.tell("up")
        if not self.adopting:
            self.tell(ClusterStarted(app=self.config.app.name, config=self.config.path))
        self.tell(MasterStarted(epoch=self.epoch, pid=os.getpid(), adopted=len(self.registry.workers)))
        if not self.options.daemon and not self.adopting:
            banner.show(self.config, self.run_dir, self.keeper_pid, self.files)
        self.housekeeping = Housekeeping(self)
        self.turns.begin()
        self._dismiss_blank()
        if self.adopting:
            self._adoption = asyncio.get_running_loop().create_task(adopt(self))
        self.remember()
        self.housekeeping.begin()

    def _log_to(self) -> None:
        logger.remove()
        logger.add(sys.stderr, format=banner.log_format(sys.stderr.isatty()), level="INFO")
        if self.options.daemon:
            logger.remove()
            logger.add(f"{self.run_dir}/log/bkd.log", format=banner.log_format(False), level="INFO")

    def _dismiss_blank(self) -> None:
        """The process that was started early is of no use to this configuration."""
        if self.context.blank:
            self.keeper.tell("birth", pid=self.context.blank, birth="")
            self.context.blank = 0

    # -- turns

    def _perform(self, action: Any) -> None:
        self.effects.perform(action)

    def tell(self, fact: Fact) -> None:
        """Into the journal and onto the terminal."""
        self.journal.write(fact)
        logger.log({"info": "INFO", "warning": "WARNING", "error": "ERROR"}[fact.level()], "{}", fact.describe())
        self.commands.told(fact)
        if isinstance(fact, ReleaseFailed) and fact.trace:
            self.last_trace = fact.trace
            logger.error("{}", fact.trace.rstrip())

    def _changed(self) -> None:
        """Called after every turn."""
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_DELAY, self.remember)
        if self.options.daemon and not self.announced:
            self._announce_start()

    def remember(self) -> None:
        """Write down what a next master has to know; called soon after every turn, and before a promise."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        workers, loaders = records(self.registry)
        first = stamp(self.keeper_pid, self.keeper_start)
        self.memory.keep(State(*first, self.epoch, self.began, self.config, self.turns.cluster, workers, loaders))

    def _announce_start(self) -> None:
        cluster = self.turns.cluster
        why = next((f"{g.name}: {text}" for g in cluster.groups.values() if (text := hopeless(g))), "")
        if why:
            self.announced = True
            self._say_start(f"bkd: {why}\n", 1)
            self.turns.post(events.StopAsked(why, code=1))
        elif all(slot_is_up(slot) for _, slot in cluster.slots()):
            self.announced = True
            self._say_start("", 0)

    def _say_start(self, text: str, code: int) -> None:
        trace = self.last_trace if code else ""
        self.keeper.tell("redirect", path=f"{self.run_dir}/log/bkd.log")
        os.write(2, trace.encode() + text.encode() + b"\0%d\n" % code)
        spawning.redirect(f"{self.run_dir}/log/bkd.log")

    def _is_last(self, worker: int) -> bool:
        """Whether nobody else of its group will take what is queued."""
        cluster = self.turns.cluster
        name = cluster.places.get(worker, "")
        group = cluster.groups.get(name.rpartition(".")[0])
        if group is None or cluster.closing is not None:
            return True
        return not any(slot.active and slot.active.phase == Phase.READY for slot in group.slots.values())

    # -- the keeper

    def _heard_keeper(self, event: dict[str, Any], descriptors: list[int]) -> None:
        for fd in descriptors:
            os.close(fd)
        if event["event"] == "exit":
            self.effects.ended(event["pid"], event["status"])
        elif event["event"] == "signal":
            self._signalled(event["number"])

    def _signalled(self, number: int) -> None:
        name = STOP_SIGNALS.get(signal.Signals(number))
        if name is None:
            logger.warning("{} is not understood yet", signal.Signals(number).name)
            return
        hasty = self.turns.cluster.closing is not None
        if not hasty and not self.options.daemon and self.options.tty:
            print("\rstopping; Ctrl-C again kills at once", flush=True)  # noqa: T201
        self.turns.post(events.StopAsked(name, hasty=hasty))

    def _keeper_lost(self) -> None:
        """Nobody reaps the workers any more: they are drained, and the exit code is that of a failure."""
        if self.over.done() or (self.turns.cluster.closing and self.turns.cluster.closing.left):
            return
        self.tell(KeeperLost(pid=self.keeper_pid))
        self.turns.post(events.StopAsked("the keeper is gone", code=1))
        self.housekeeping.look_for_the_dead()

    def _leave(self, code: int) -> None:
        self.tell(ClusterStopped(code=code))
        self.commands.over(code)
        asyncio.get_running_loop().call_later(0.02, self._left, code)

    def _left(self, code: int) -> None:
        if self.options.daemon and not self.announced:
            self._say_start("bkd: stopped before everything was ready\n", 1)
        try:
            self.keeper.tell("exit", code=code)
        except KeeperError:
            logger.error("the keeper is gone already")
        if self._saving is not None:
            self._saving.cancel()
        self.memory.forget()
        self.over.set_result(code)

    # -- the control socket

    def admit(self, connection: Connection, hello: Hello) -> str:
        """A worker or zygote says hello with the token of its spawn."""
        process = self.registry.by_token(hello.token)
        if process is None:
            self._end_leftover(hello)
            return "nobody ordered this process"
        if process.pid and (process.pid, process.start) != (hello.pid, hello.start):
            return "another process has this token"
        if isinstance(process, LoaderProcess):
            self.effects.loaders.admit(process, connection, loaded=hello.ready)
        elif hello.role == "zygote":
            connection.worker = process.worker
            self.effects.loaders.admit_solo(process, connection)
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
        self.effects.loaders.spawned(process.worker, hello.pid, hello.start)
        if hello.ready:
            self.turns.post(events.BecameReady(process.worker))

    def heard(self, connection: Connection, envelope: Envelope) -> None:
        """A message of a worker or zygote."""
        if connection.loader is not None:
            loader = self.registry.loaders.get(connection.loader)
            if loader is not None and loader.connection is connection:
                self.effects.loaders.heard(loader, envelope)
            return
        process = self.registry.workers.get(connection.worker)
        if process is None:
            return
        if connection.role == "zygote":
            self.effects.loaders.heard_solo(process, connection, envelope)
        else:
            self._heard_worker(process, envelope)

    def _heard_worker(self, process: Process, envelope: Envelope) -> None:
        match envelope.op:
            case Ping.op:
                ping = body(envelope, Ping)
                self.turns.post(
                    events.Pinged(process.worker, ping.lag, ping.in_flight, ping.oldest, ping.rss, ping.cpu)
                )
            case Ready.op:
                self.turns.post(events.BecameReady(process.worker))
            case BootFailed.op:
                self.turns.post(events.BootFailed(process.worker, body(envelope, BootFailed).reason))
            case _:
                raise FrameError(f"a worker may not say {envelope.op[:80]}")

    def lost(self, connection: Connection) -> None:
        """A connection is gone; the process's end, if it ended, is told by the keeper."""
        process = self.registry.workers.get(connection.worker)
        if process is not None and process.connection is connection:
            process.connection = None

    def command(self, connection: Connection, envelope: Envelope, command: Command, who: Role) -> None:
        """A client gives a command."""
        self.commands.give(connection, envelope.id, command, who)


def slot_is_up(slot: Any) -> bool:
    """Whether a start may call this slot done: it is ready, or has finished its work."""
    return bool(slot.done or slot.held or (slot.active is not None and slot.active.phase == Phase.READY))


async def _resolve(address: Inet) -> tuple[str, list[Any]]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise StartError(f"cannot listen on {address.host}: {error.strerror}") from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, *_rest, where = found[0]
    return ("inet6" if family == socket.AF_INET6 else "inet"), list(where[:2])
