"""The shell's part about foreign programs: spawning them, and finding out when they are ready."""

import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from loguru import logger

from ..ipc.errors import BkdError, DeadlineError
from . import events, readiness
from .activation import ASKED_FOR
from .config.readiness import LogReady
from .context import Context
from .keeperlink import KeeperError
from .places import LONGEST_SOCKET_PATH
from .privileges import Credentials
from .registry import Process, Registry
from .slotlog import provide
from .voice import Voice

ANYBODY = 0o666  # a program may become another user; who may speak is decided by its credentials


class Programs:
    """Kind `command`: the program's first process is the worker. `gone`: told the pid of one that nobody reaps;
    `reaped`: told the wait status of one that had ended before its pid was known."""

    def __init__(self, context: Context, registry: Registry, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self.context, self.registry, self._run = context, registry, run
        self.gone: Callable[[int], None] = lambda pid: None
        self.reaped: Callable[[Process, int], None]
        self._voices: dict[int, Voice] = {}

    def start(self, process: Process) -> None:
        """Spawn it; `Spawned` and `BecameReady`, or `SpawnFailed`, will follow."""
        self._run(self._start(process))

    def hear(self, pid: int) -> None:
        """This process has ended; its program may have said before that another one is its first now."""
        for voice in [voice for voice in self._voices.values() if voice.process.pid == pid]:
            voice.socket.hear_rest()

    def ended(self, process: Process) -> None:
        """Its process is gone."""
        voice = self._voices.pop(process.worker, None)
        if voice is not None:
            voice.close()
        if process.settings.kind == "command":
            self._let_go(self._path(process))

    def missing(self) -> bool:
        """Whether one of them cannot find the socket any more at which it is heard."""
        return any(not os.path.lexists(voice.path) for voice in self._voices.values())

    async def restore(self) -> None:
        """Those sockets at their places again. Raises KeeperError, BkdError."""
        for voice in [voice for voice in self._voices.values() if not os.path.lexists(voice.path)]:
            bound = await self._bound(voice.process)
            if self._voices.get(voice.process.worker) is voice:
                voice.socket.hear_at(bound)
            else:
                self._let_go(voice.path)

    def tidy(self) -> None:
        """Sockets of programs that have ended without anybody who heard of it, as when their master died with them."""
        kept = {voice.path for voice in self._voices.values()}
        programs = [process for process in self.registry.workers.values() if process.settings.kind == "command"]
        expected = {self._path(process) for process in programs if not process.over}
        for path in Path(self.context.run_dir).glob("notify*/*"):
            if str(path) not in kept and str(path) not in expected and path.is_socket():
                path.unlink(missing_ok=True)
                self._let_go(str(path))

    async def _start(self, process: Process) -> None:
        settings = process.settings
        check = readiness.parse(settings.ready)
        if isinstance(check, LogReady) and not process.log:
            process.log = str(Path(self.context.run_dir, "log", f"{process.slot}.log"))
        try:
            credentials = self.context.accounts.of(settings)
            process.uid = credentials.uid
            door = await self.context.door(credentials)
            provide(process.log, process.uid, self.context.config.log.keep)
            process.log_offset = size_of(process.log)
            notify = self._notify(process)
            self.context.remember()  # should the master die in this moment, the next one finds the program by its mark
            pid, start, heard = await self._spawn(process, notify, door, credentials)
        except (KeeperError, BkdError) as error:
            self._let_go(self._path(process))
            self.registry.forget(process)
            self.context.post(events.SpawnFailed(process.worker, str(error)))
            return
        early = self.registry.born(process, pid, start)
        self.context.post(events.Spawned(process.worker, pid, start))
        voice = self._listen(process, [heard])
        if early is not None:
            self.reaped(process, early)
            return
        await self._await_ready(process, check, voice)

    def adopt(self, process: Process, *, ready: bool) -> None:
        """Take over a program that an earlier master started."""
        self._run(self._adopt(process, ready=ready))

    async def _adopt(self, process: Process, *, ready: bool) -> None:
        try:
            bound = await self._bound(process)
        except BkdError as error:
            logger.error("{} is not listened to: {}", process.slot, error)
            return
        voice = self._listen(process, bound)
        if process.handle is None or not process.handle.alive():
            self.ended(process)
            return
        if not ready:
            await self._await_ready(process, readiness.parse(process.settings.ready), voice)

    async def _await_ready(self, process: Process, check: readiness.Check, voice: Voice) -> None:
        """As long as it asks for more time it gets it."""
        deadline = 0.0
        while deadline < voice.deadline:
            deadline = voice.deadline
            try:
                await readiness.wait_ready(
                    check,
                    deadline=deadline,
                    pid=process.pid,
                    log_path=process.log or None,
                    log_offset=process.log_offset,
                    notified=voice.notified,
                )
            except DeadlineError as error:
                why = str(error)
                continue
            self.context.post(events.BecameReady(process.worker, watched=False))
            return
        self.context.post(events.BootFailed(process.worker, why))

    async def _spawn(
        self, process: Process, notify: dict[str, Any], door: str, credentials: Credentials
    ) -> tuple[int, int, socket.socket]:
        """Its pid and start time, and the socket at which it is heard."""
        settings, kill = process.settings, self.context.config.ping.kill
        env = {
            **credentials.environment(),
            **({"WATCHDOG_USEC": str(int(kill * 1e6))} if kill else {}),
            **settings.env,
            "BKD_SOCKET": door,
            "BKD_SLOT": process.slot,
            "BKD_RELEASE": str(process.release),
            "BKD_TREE": process.tree,
            "NOTIFY_SOCKET": notify["address"],
        }
        order = {"argv": settings.command, "env": env, "cwd": settings.cwd, "out": process.log or None}
        order |= {"listeners": settings.bind, "notify": notify, **credentials.order()}
        answer, descriptors = await self.context.keeper.order("spawn", **order)
        return answer["pid"], answer["start"], socket.socket(fileno=descriptors[0])

    def _notify(self, process: Process) -> dict[str, Any]:
        """The order for the socket that it speaks to. The keeper has it, so that there is one while no master is there,
        and gives it to the next master for the same order. Raises BkdError."""
        path = self._path(process)
        try:
            self._provide(process.uid)
        except OSError as error:
            raise BkdError(f"{path} cannot be made: {error.strerror}") from error
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            raise BkdError(
                f"{path} is too long for a socket (at most {LONGEST_SOCKET_PATH} bytes): set a shorter run_dir"
            )
        mode = ANYBODY if process.uid < 0 else 0o600
        return {"name": f"{ASKED_FOR}{path}", "family": "datagram", "address": path, "mode": mode, "uid": process.uid}

    async def _bound(self, process: Process) -> list[socket.socket]:
        """The sockets at which it may be heard, the one that can be found among them. Raises BkdError."""
        _, descriptors = await self.context.keeper.order("bind", **self._notify(process))
        return [socket.socket(fileno=descriptor) for descriptor in descriptors]

    def _listen(self, process: Process, bound: list[socket.socket]) -> Voice:
        voice = self._voices[process.worker] = Voice(self.context, self.registry, process, bound, self._told_gone)
        voice.begin()
        return voice

    def _path(self, process: Process) -> str:
        return str(self._folder(process.uid) / f"{process.slot}.{process.worker}")

    def _let_go(self, path: str) -> None:
        try:
            self.context.keeper.tell("close", name=f"{ASKED_FOR}{path}")
        except KeeperError:  # it is gone, and what it would do is left to be done
            Path(path).unlink(missing_ok=True)

    def _told_gone(self, pid: int) -> None:
        """Unless the keeper has told it already."""
        if any(voice.process.pid == pid for voice in self._voices.values()):
            self.gone(pid)

    def _folder(self, uid: int) -> Path:
        """Programs of another user pass through a folder apart from ours, whose sockets anybody may write to."""
        return Path(self.context.run_dir, "notify" if uid < 0 else f"notify.{uid}")

    def _provide(self, uid: int) -> None:
        folder = self._folder(uid)
        folder.mkdir(mode=0o700, exist_ok=True)
        if uid >= 0:
            folder.chmod(0o711)


def size_of(path: str) -> int:
    """Bytes of a file, 0 when it is not there yet."""
    try:
        return Path(path).stat().st_size if path else 0
    except FileNotFoundError:
        return 0
