"""The shell's part about foreign programs: spawning them, and finding out when they are ready."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from ..ipc.errors import BkdError, DeadlineError
from . import events, procfs, readiness
from .config.readiness import LogReady
from .context import Context
from .keeperlink import KeeperError
from .notify import NotifySocket
from .registry import Process, Registry


class Programs:
    """Kind `command`: the program's first process is the worker."""

    def __init__(self, context: Context, registry: Registry, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self.context, self.registry, self._run = context, registry, run
        self._sockets: dict[int, NotifySocket] = {}
        self.status: dict[int, str] = {}

    def start(self, process: Process) -> None:
        """Spawn it; `Spawned` and `BecameReady`, or `SpawnFailed`, will follow."""
        self._run(self._start(process))

    def ended(self, process: Process) -> None:
        """Its process is gone."""
        sock = self._sockets.pop(process.worker, None)
        if sock is not None:
            sock.close()
        self.status.pop(process.worker, None)

    async def _start(self, process: Process) -> None:
        settings = process.settings
        check = readiness.parse(settings.ready)
        if isinstance(check, LogReady) and not process.log:
            process.log = str(Path(self.context.run_dir, "log", f"{process.slot}.log"))
        process.log_offset = size_of(process.log)
        notified = asyncio.Event()
        deadline = time.monotonic() + settings.start_timeout
        try:
            notify = self._listen(process, notified)
            self.context.remember()  # should the master die in this moment, the next one finds the program by its mark
            pid, start = await self._spawn(process, notify)
        except (KeeperError, BkdError) as error:
            self.ended(process)
            self.registry.forget(process)
            self.context.post(events.SpawnFailed(process.worker, str(error)))
            return
        early = self.registry.born(process, pid, start)
        self.context.post(events.Spawned(process.worker, pid, start))
        if early is not None:
            self.context.post(events.Exited(process.worker, os.waitstatus_to_exitcode(early)))
            return
        await self._await_ready(process, check, notified, deadline)

    def adopt(self, process: Process, *, ready: bool) -> None:
        """Take over a program that an earlier master started."""
        notified = asyncio.Event()
        self._listen(process, notified)
        if not ready:
            settings = process.settings
            deadline = time.monotonic() + settings.start_timeout
            self._run(self._await_ready(process, readiness.parse(settings.ready), notified, deadline))

    async def _await_ready(
        self, process: Process, check: readiness.Check, notified: asyncio.Event, deadline: float
    ) -> None:
        try:
            await readiness.wait_ready(
                check,
                deadline=deadline,
                pid=process.pid,
                log_path=process.log or None,
                log_offset=process.log_offset,
                notified=notified,
            )
        except DeadlineError as error:
            self.context.post(events.BootFailed(process.worker, str(error)))
            return
        self.context.post(events.BecameReady(process.worker, watched=False))

    async def _spawn(self, process: Process, notify: NotifySocket) -> tuple[int, int]:
        settings = process.settings
        env = {
            **settings.env,
            "BKD_SOCKET": self.context.socket,
            "BKD_SLOT": process.slot,
            "BKD_RELEASE": str(process.release),
            "BKD_TREE": process.tree,
            "NOTIFY_SOCKET": notify.path,
        }
        answer, _ = await self.context.keeper.order(
            "spawn", argv=settings.command, env=env, cwd=settings.cwd, out=process.log or None
        )
        return answer["pid"], answer["start"]

    def _listen(self, process: Process, notified: asyncio.Event) -> NotifySocket:
        folder = Path(self.context.run_dir, "notify")
        folder.mkdir(mode=0o700, exist_ok=True)

        def heard(_sender: int, said: dict[str, str]) -> None:
            if said.get("READY") == "1":
                notified.set()
            if "STATUS" in said:
                self.status[process.worker] = said["STATUS"][:200]

        def allowed(pid: int) -> bool:
            return process.pid > 0 and procfs.descends(pid, process.pid) is not False

        sock = NotifySocket(str(folder / f"{process.slot}.{process.worker}"), allowed=allowed, on_message=heard)
        self._sockets[process.worker] = sock
        return sock


def size_of(path: str) -> int:
    """Bytes of a file, 0 when it is not there yet."""
    try:
        return Path(path).stat().st_size if path else 0
    except FileNotFoundError:
        return 0
