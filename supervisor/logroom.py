"""Whether what processes print can be written: nobody else notices, since a line that finds no room is lost in silence.

Runs in the master. A disk is tried in earnest only when it looks full, and now and then, for quotas: an idle cluster
leaves it alone.
"""

import asyncio
import errno
import os
import tempfile
from collections.abc import Callable, Iterable

from .context import Context
from .fact import Fact
from .registry import Registry
from .rundirfacts import LogTrouble, LogWell

LOOK = 2.0
IN_EARNEST = 30  # looks
ENOUGH = 1 << 20  # bytes, with which a disk does not look full
PIECE = 4096  # bytes
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LogRoom:
    """Tells once that a log cannot be written, for each reason, and once that it can."""

    def __init__(self, context: Context, registry: Registry, tell: Callable[[Fact], None]) -> None:
        self.context, self.registry, self.tell = context, registry, tell
        self._path = self._suspected = ""

    async def run(self) -> None:
        """As long as the master lives."""
        looks = 0
        while True:
            await asyncio.sleep(LOOK)
            looks += 1
            earnest = bool(self.context.unlogged or self._suspected) or looks % IN_EARNEST == 0
            logs = sorted({process.log for process in self.registry.workers.values() if process.log})
            self.judge(*await asyncio.to_thread(fault, f"{self.context.run_dir}/log", logs, earnest=earnest))

    def judge(self, path: str, why: str) -> None:
        """What the last look has found; `why` "": nothing. A file may be missing for a moment while it is made anew, so
        it is believed the second time."""
        if why == self.context.unlogged:
            self._suspected = ""
        elif why and why != self._suspected:
            self._suspected = why
        else:
            self.context.unlogged, self._suspected = why, ""
            self.tell(LogTrouble(path=path, why=why) if why else LogWell(path=self._path))
            self._path = path


def fault(folder: str, logs: Iterable[str], *, earnest: bool) -> tuple[str, str]:
    """The first of these files, or of what would lie in the folder, that cannot be written, and why; "" when all can
    be. `earnest`: something is written, and gone again. Blocks on the disk."""
    logs = list(logs)
    path = folder
    try:
        for path in logs:
            _openable(path)
        if earnest or _looks_full(folder):
            path = logs[0] if logs else folder
            _write(folder)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "unknown")
        return path, f"{os.strerror(error.errno or errno.EIO)} ({name})"
    return "", ""


def _openable(path: str) -> None:
    """One that is not there is made by whoever prints into it, if the folder takes it."""
    try:
        os.close(os.open(path, _FLAGS))
    except FileNotFoundError:
        os.stat(os.path.dirname(path))


def _looks_full(folder: str) -> bool:
    """Not every file system counts its files."""
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize < ENOUGH or bool(about.f_files and not about.f_favail)


def _write(folder: str) -> None:
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        file.write(bytes(PIECE))
