"""Log files that are removed while something is printed into them. Runs in the master.

A file without a name lives on, and grows, as long as a process has it open. Workers are told to open another one. A
program cannot be told: what it prints is carried over to the file that has the name now, and the room is given back.
"""

import asyncio
import os
import stat
from pathlib import Path

from loguru import logger

from ..ipc.message import Reopen
from .context import Context
from .registry import Process, Registry
from .rotation import free
from .slotlog import provide
from .tasks import Tasks

PAUSE = 0.5
PIECE = 1 << 20
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class LostLogs:
    """Finds processes whose log file was removed; `adopting`: it may have been while no master was there."""

    def __init__(self, context: Context, registry: Registry, *, adopting: bool) -> None:
        self.context, self.registry = context, registry
        self._carried: set[int] = set()
        self._untold = adopting
        self._run = Tasks().run

    def missing(self) -> bool:
        """Whether there may be such a process."""
        logs = {process.log for process in self.registry.workers.values() if process.log and process.pid}
        return self._untold or not all(os.path.lexists(log) for log in logs)

    async def restore(self) -> None:
        """Let all of them print into files with a name. A worker without a connection is told later."""
        self._untold = False
        for process in [*self.registry.workers.values()]:
            if process.worker not in self._carried and is_lost(process.pid, process.log):
                provide(process.log, process.uid, self.context.config.log.keep)
                self._restore(process)

    def _restore(self, process: Process) -> None:
        if process.settings.kind == "command":
            self._carried.add(process.worker)
            self._run(self._carry(process))
        elif process.connection is not None:
            process.connection.send(Reopen())
        else:
            self._untold = True

    async def _carry(self, process: Process) -> None:
        """In a thread: a disk may make it wait, and the master must not."""
        try:
            lost = LostLog(process.pid, process.log, process.uid)
        except OSError as error:
            logger.warning("what {} prints goes into a file that was removed: {}", process.slot, error.strerror)
            return
        told = ""
        while True:
            is_over = process.over
            try:
                await asyncio.to_thread(lost.carry)
                told = ""
            except OSError as error:
                if error.strerror != told:
                    told = error.strerror or str(error)
                    logger.warning("{} cannot be written: {}", process.log, told)
            if is_over:
                break
            await asyncio.sleep(PAUSE)
        lost.close()
        self._carried.discard(process.worker)


class LostLog:
    """The removed file that process `pid` prints into, and `path`, where its lines belong; `uid`: of the process, -1:
    bkd's own.

    What was there when it was removed is gone, as whoever removed it wanted. A master that dies in between makes a line
    come twice, and loses none. Raises OSError when this is no file of that user's, or none without a name.
    """

    def __init__(self, pid: int, path: str, uid: int) -> None:
        self.path = path
        self._descriptor = _opened(pid, uid if uid >= 0 else os.geteuid())
        size = os.fstat(self._descriptor).st_size
        was_carried = os.pread(self._descriptor, 1, 0) == b"\0"
        self._at = self._first_left(size) if was_carried else size
        self._free()

    def carry(self) -> None:
        """All that was printed since. Raises OSError; then the rest stays for the next time."""
        while data := os.pread(self._descriptor, PIECE, self._at):
            self._append(data)
            self._at += len(data)
            self._free()

    def close(self) -> None:
        """The file is gone with its last writer."""
        os.close(self._descriptor)

    def _append(self, data: bytes) -> None:
        Path(self.path).parent.mkdir(mode=0o750, exist_ok=True)
        with open(self.path, "ab", buffering=0, opener=lambda path, _flags: os.open(path, _APPEND, 0o640)) as file:
            while data:
                data = data[file.write(data) :]

    def _first_left(self, size: int) -> int:
        """Where what was carried over, and is zeros since, ends."""
        at = 0
        while piece := os.pread(self._descriptor, PIECE, at):
            zeros = len(piece) - len(piece.lstrip(b"\0"))
            at += zeros
            if zeros < len(piece):
                break
        return min(at, size)

    def _free(self) -> None:
        """Where the file system cannot, the room is given back when the program ends."""
        if self._at:
            free(self._descriptor, self._at)


def is_lost(pid: int, log: str) -> bool:
    """Whether this process prints into a file that had this name and has none any more."""
    try:
        return bool(pid and log) and os.readlink(f"/proc/{pid}/fd/1") == f"{log} (deleted)"
    except OSError:
        return False


def _opened(pid: int, uid: int) -> int:
    """A descriptor may be anything by now: opened is only a file that nobody but its user can have."""
    held = os.open(f"/proc/{pid}/fd/1", os.O_PATH | os.O_CLOEXEC)
    try:
        about = os.fstat(held)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink or about.st_uid != uid:
            raise FileNotFoundError(2, "it is no file of this program that was removed")
        return os.open(f"/proc/self/fd/{held}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(held)
