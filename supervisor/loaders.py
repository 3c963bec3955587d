"""The shell's part about zygotes: spawning them, giving them a release, ordering forks, exec'ing workers."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from .. import __version__
from ..ipc.errors import BkdError, FrameError
from ..ipc.message import (
    NO_BKD,
    OTHER_VERSION,
    Become,
    Envelope,
    Fork,
    Forked,
    ForkFailed,
    FunctionWork,
    Load,
    Loaded,
    LoadFailed,
    WebWork,
    Work,
    body,
)
from ..ipc.processes import start_time
from . import actions, dispatcher, duties, events, procfs
from .balance import Balance
from .config.schema import GroupSection
from .connection import Connection
from .context import Context
from .fact import clean_lines
from .keeper import BLANK, BLANK_ENV
from .originfiles import OriginFiles
from .registry import LoaderProcess, Process, Registry
from .slotlog import provide

HELLO_LIMIT = 15.0


class Watching(Protocol):
    """Whoever wants to know which source files are imported."""

    def imported(self, group: str, release: int, files: list[str], worker: int = 0, *, failed: bool = False) -> None:
        """Called before the event of what was loaded, or failed to load."""


class Loaders:
    """Every process that is or was blank: zygotes, and workers that are exec'd because a fork would break them.
    `reaped`: told the wait status of a worker that had ended before its pid was known."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        balance: Balance,
        run: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self.context, self.registry, self.balance, self._run = context, registry, balance, run
        self.examine: Callable[[LoaderProcess, str], Awaitable[None]]
        self.reaped: Callable[[Process, int], None]
        self.watching: Watching | None = None
        self.origins = OriginFiles()

    # -- orders

    def load(self, action: actions.LoadRelease) -> None:
        """Start a zygote for this release; `LoaderReady` or `LoaderFailed` will follow."""
        loader = LoaderProcess(action.group, action.release)
        self.registry.add(loader)
        self._run(self._start(loader, self._take_blank(loader)))

    def drop(self, action: actions.DropLoader) -> None:
        """End a zygote; what was ordered from it and is not there will not come."""
        loader = self.registry.loaders.get((action.group, action.release))
        if loader is not None:
            self._forks_failed(loader, action.why)
            if action.hung and loader.handle is not None:
                self._run(self._end_hung(loader, action.why))
            else:
                self._end(loader)

    def fork(self, process: Process) -> None:
        """Prepare a fork, which `order` orders; `Spawned` or `SpawnFailed` will follow."""
        loader = self.registry.loaders.get((process.group, process.release))
        if loader is None:
            self._spawn_failed(process, "the zygote is gone", blameless=True)
            return
        process.uid = loader.uid
        provide(process.log, process.uid, self.context.config.log.keep)
        loader.forks.add(process.worker)

    def order(self, process: Process) -> None:
        """Order the fork, now or as soon as the zygote has found this master."""
        loader = self.registry.loaders.get((process.group, process.release))
        if loader is not None and loader.connection is not None and process.worker in loader.forks:
            loader.connection.send(_order(process))

    def execute(self, process: Process) -> None:
        """Start a fresh interpreter that imports the application and becomes the worker."""
        self._run(self._execute(process))

    # -- what comes back

    def admit(self, loader: LoaderProcess, connection: Connection, *, loaded: bool) -> None:
        """A zygote has connected: give it its release, unless it has it from an earlier master."""
        loader.connection = connection
        connection.loader = loader.key
        self._known(loader, connection.peer.pid, start_time(connection.peer.pid))
        if loaded:
            for worker in sorted(loader.forks & self.registry.workers.keys()):
                connection.send(_order(self.registry.workers[worker]))
        else:
            self._send_load(connection, loader.key, f"{loader.group}.zygote", uid=loader.uid, solo=False)

    def admit_solo(self, process: Process, connection: Connection) -> None:
        """A process that is to become one worker has connected."""
        process.loading = connection
        self._send_load(connection, (process.group, process.release), process.slot, uid=process.uid, solo=True)

    def heard(self, loader: LoaderProcess, envelope: Envelope) -> None:
        """A message of a zygote."""
        match envelope.op:
            case Forked.op:
                forked = body(envelope, Forked)
                self._check(loader, forked)
                self.spawned(forked.worker, forked.pid, forked.start)
            case ForkFailed.op:
                failed = body(envelope, ForkFailed)
                process = self.registry.workers.get(failed.worker)
                if process is not None:
                    self._spawn_failed(process, f"fork: {failed.reason}")
            case Loaded.op:
                loaded = body(envelope, Loaded)
                self.imported(*loader.key, loaded.files)
                self._loaded(loader, loaded)
            case LoadFailed.op:
                failure = body(envelope, LoadFailed)
                self.imported(*loader.key, failure.files, failed=True)
                self._load_failed(loader, failure)
            case _:
                raise FrameError(f"a zygote may not say {envelope.op[:80]}")

    def heard_solo(self, process: Process, connection: Connection, envelope: Envelope) -> None:
        """A message of a process that is to become a worker; it ends by itself when the import fails."""
        if envelope.op == Loaded.op:
            self.imported(process.group, process.release, body(envelope, Loaded).files, process.worker)
            connection.send(
                Become(
                    process.worker, process.slot, process.token, process.tree, process.log, process.seat, process.quiet
                )
            )
        elif envelope.op == LoadFailed.op:
            failed = body(envelope, LoadFailed)
            self.imported(process.group, process.release, failed.files, process.worker, failed=True)
            self.context.last_trace = clean_lines(failed.trace)
            self.context.post(events.BootFailed(process.worker, failed.reason))
        else:
            raise FrameError(f"a loading worker may not say {envelope.op[:80]}")

    def imported(self, group: str, release: int, files: list[str], worker: int = 0, *, failed: bool = False) -> None:
        """A release, or this worker of it, has imported source files."""
        if self.watching is not None:
            self.watching.imported(group, release, files, worker, failed=failed)

    def spawned(self, worker: int, pid: int, start: int) -> None:
        """The worker's process is known, from the zygote or from the worker itself, whoever was first."""
        process = self.registry.workers.get(worker)
        if process is None or process.pid:
            return
        loader = self.registry.loaders.get((process.group, process.release))
        if loader is not None:
            loader.forks.discard(worker)
        early = self.registry.born(process, pid, start)
        self.context.post(events.Spawned(worker, pid, start))
        if early is not None:
            self.reaped(process, early)

    def bury(self, process: Process) -> None:
        """An order of the last master that nobody has carried out: it is not waited for any more."""
        self._spawn_failed(process, "the master ended meanwhile", blameless=True)

    def ended(self, loader: LoaderProcess, status: int | None) -> None:
        """The keeper reaped this zygote; of one that has failed before, this is no news."""
        if self.registry.loaders.get(loader.key) is not loader:
            return
        self.registry.forget(loader)
        code = None if status is None else os.waitstatus_to_exitcode(status)
        how = "unknown status" if code is None else _how(code)
        self._forks_failed(loader, f"the zygote ended ({how})")
        event = events.LoaderGone if loader.loaded else events.LoaderFailed
        why = self._misfit(loader, code) or f"the zygote ended: {how}"
        self.context.post(event(loader.group, loader.release, why, chance=random.random()))

    def _misfit(self, loader: LoaderProcess, code: int | None) -> str:
        """What to do about an interpreter that has no bkd, or another one; "" when that is not what it ended of."""
        if code not in (NO_BKD, OTHER_VERSION):
            return ""
        python = self._python(loader.key)
        fault = "has no bkd" if code == NO_BKD else "has another bkd, which speaks another protocol"
        return f"{python} {fault}; run: {python} -m pip install bkd=={__version__}"

    # -- inside

    def _take_blank(self, loader: LoaderProcess) -> int:
        """The process that was started before the configuration was known: what it imported suits a web group."""
        release = self.context.release(*loader.key)
        settings = release.settings
        if settings.kind != "web" or release.python or settings.user or settings.group or settings.umask:
            return 0
        blank, self.context.blank = self.context.blank, 0
        return blank

    async def _start(self, loader: LoaderProcess, blank: int) -> None:
        try:
            pid, start = await self._born(loader, blank)
        except BkdError as error:
            self.registry.forget(loader)
            self.context.post(events.LoaderFailed(loader.group, loader.release, str(error), chance=random.random()))
            return
        early = self._known(loader, pid, start)
        if loader.handle is None:
            self.ended(loader, early)
            return
        await asyncio.sleep(HELLO_LIMIT)
        if loader.connection is None and self.registry.loaders.get(loader.key) is loader:
            self._fail(loader, f"{self._python(loader.key)} did not connect within {HELLO_LIMIT:g} s; see its log")

    def _known(self, loader: LoaderProcess, pid: int, start: int) -> int | None:
        """Its process is known, from the keeper or from itself; gives the wait status when it has ended already."""
        if loader.pid:
            return None
        early = self.registry.born(loader, pid, start)
        if loader.handle is not None:
            self.context.post(events.LoaderSpawned(loader.group, loader.release, pid))
        return early

    async def _born(self, loader: LoaderProcess, blank: int) -> tuple[int, int]:
        if blank:
            self.context.keeper.tell("birth", pid=blank, birth=_birth(self.context.socket, loader.token))
            return blank, start_time(blank)
        return await self._spawn(loader, self.context.log_path(f"{loader.group}.zygote"), BLANK_ENV)

    async def _spawn(self, process: LoaderProcess | Process, log: str, env: dict[str, str]) -> tuple[int, int]:
        key = process.group, process.release
        credentials = self.context.accounts.of(self.context.release(*key).settings)
        process.uid = credentials.uid
        birth = _birth(await self.context.door(credentials), process.token)
        provide(log, process.uid, self.context.config.log.keep)
        argv, env = [self._python(key), "-P", "-c", BLANK], {**env, **credentials.environment()}
        self.context.remember()  # should the master die in this moment, the next one knows whose token that is
        answer, _ = await self.context.keeper.order(
            "spawn", argv=argv, birth=birth, out=log or None, env=env, **credentials.order()
        )
        return answer["pid"], answer["start"]

    async def _execute(self, process: Process) -> None:
        try:
            if process.settings.kind == dispatcher.KIND:
                await self.context.letterbox()
            pid, start = await self._spawn(process, process.log, {**BLANK_ENV, "BKD_TREE": process.tree})
        except BkdError as error:
            self._spawn_failed(process, str(error))
            return
        self.spawned(process.worker, pid, start)

    def _check(self, loader: LoaderProcess, forked: Forked) -> None:
        """A process that is signalled as root later on: a zygote of another user may name its own forks and no others.
        Raises FrameError."""
        if loader.uid < 0:
            return
        process = self.registry.workers.get(forked.worker)
        facts = procfs.read(forked.pid)
        if process is None or facts is None or facts.start != forked.start:
            return
        ours = facts.ppid == self.context.keeper_pid and procfs.owner(forked.pid) == loader.uid
        known = self.registry.by_pid(forked.pid)
        if (process.group, process.release) != loader.key or not ours or known not in (None, process):
            raise FrameError(f"worker {forked.worker}, pid {forked.pid}, is no fork of this zygote")

    def _python(self, key: tuple[str, int]) -> str:
        return self.context.release(*key).python or sys.executable

    def _send_load(self, connection: Connection, key: tuple[str, int], log: str, *, uid: int, solo: bool) -> None:
        settings = self.context.release(*key).settings
        work, descriptors = self._work(settings, uid)
        load = Load(
            app=self.context.config.app.name,
            group=settings.name,
            release=key[1],
            work=work,
            cwd=settings.cwd,
            env=settings.env,
            log=self.context.log_path(log),
            ping=self.context.period(settings.name),
            orphan_timeout=self.context.config.app.orphan_timeout,
            keeper=self.context.keeper_pid,
            solo=solo,
            watch=self.context.watch,
            lag_warn=self.context.config.ping.lag_warn,
        )
        connection.send(load, descriptors=tuple(descriptors))

    def _work(self, settings: GroupSection, uid: int) -> tuple[Work, list[int]]:
        if settings.kind == "python":
            return FunctionWork(settings.target, settings.ready == "notify"), []
        if settings.kind == "messages":
            return duties.executing(settings, dispatcher.path(self.context.run_dir, uid)), []
        if settings.kind == dispatcher.KIND:
            heard = [name for name in self.context.listeners if dispatcher.is_listener(name)]
            admits = self.context.admitted()
            work = duties.dispatching(self.context.config, self.context.run_dir, heard, admits)
            return work, [self.context.listeners[name] for name in heard]
        names = list(settings.bind)
        slots = self.balance.page(settings.name, settings.count, fresh=not self.context.adopting, uid=uid)
        return WebWork(settings.app, names, settings.lame_duck, slots), [self.context.listeners[n] for n in names]

    def _loaded(self, loader: LoaderProcess, loaded: Loaded) -> None:
        prints, edits = self.origins.compared(loader.key, loaded.prints)
        if loader.loaded:
            return
        loader.loaded = True
        unsafe = tuple(sorted(set(loaded.unsafe)))
        self.context.post(events.LoaderReady(loader.group, loader.release, loaded.seconds, unsafe, prints, edits))

    def _load_failed(self, loader: LoaderProcess, failed: LoadFailed) -> None:
        self.context.last_trace = clean_lines(failed.trace)
        self._fail(loader, failed.reason, self.context.last_trace)

    def _fail(self, loader: LoaderProcess, reason: str, trace: str = "") -> None:
        self._end(loader)
        self.context.post(events.LoaderFailed(loader.group, loader.release, reason, trace, random.random()))

    async def _end_hung(self, loader: LoaderProcess, why: str) -> None:
        """Nobody waits for it any more, so there is time to see what it is doing."""
        self.registry.let_go(loader)
        if loader.connection is not None:
            loader.connection.close()
        try:
            await self.examine(loader, why)
        finally:
            self._end(loader)

    def _end(self, loader: LoaderProcess) -> None:
        """SIGKILL; from now on its end is nobody's news."""
        if loader.handle is not None:
            loader.handle.signal(signal.SIGKILL)
        if loader.connection is not None:
            loader.connection.close()
        self.registry.forget(loader)

    def _forks_failed(self, loader: LoaderProcess, why: str) -> None:
        for worker in sorted(loader.forks):
            process = self.registry.workers.get(worker)
            if process is not None and not process.pid:
                self._spawn_failed(process, why, blameless=True)
        loader.forks.clear()

    def _spawn_failed(self, process: Process, why: str, *, blameless: bool = False) -> None:
        self.balance.free(process.group, process.seat)
        self.registry.forget(process)
        self.context.post(events.SpawnFailed(process.worker, why, random.random(), blameless))


def _birth(socket: str, token: str) -> str:
    return msgspec.json.encode({"socket": socket, "token": token}).decode() + "\n"


def _order(process: Process) -> Fork:
    return Fork(process.worker, process.slot, process.token, process.tree, process.log, process.seat, process.quiet)


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
