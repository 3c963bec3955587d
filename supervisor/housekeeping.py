"""What the master does beside deciding: rotating logs, showing them, seeing whether they can be written, looking for
the dead when nobody reaps them."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from loguru import logger

from ..ipc.message import Reopen
from . import logfiles, rotation
from .context import Context
from .effects import Effects
from .fact import Fact
from .keeperlink import KeeperError
from .logroom import LogRoom
from .registry import Registry
from .tasks import Tasks

ROTATION_LOOK = 2.0
ROTATION_ALL = 8
ROTATION_PAUSE = 0.05
ORPHAN_PERIOD = 0.1
TIDY_PERIOD = 10.0
VIEWER = "import sys; from bkd.supervisor.viewer import main; sys.exit(main(sys.argv[1:]))"


class Housekeeping:
    """Tasks that go on for as long as the master lives."""

    def __init__(
        self, context: Context, registry: Registry, effects: Effects, tell: Callable[[Fact], None], *, shows: bool
    ) -> None:
        self.context, self.registry, self.effects, self.shows = context, registry, effects, shows
        self._room = LogRoom(context, registry, tell)
        self._moment = logfiles.moment(Path(context.run_dir, "log")) if context.files else ""
        self._run = Tasks().run

    def begin(self) -> None:
        """Start what the configuration asks for; the output is shown once, by the first master."""
        self._run(self._tidy_for_ever())
        if self.context.files:
            self._run(self._rotate_for_ever())
            self._run(self._room.run())
            if self.shows:
                self._run(self._show())

    def look_for_the_dead(self) -> None:
        """The keeper is gone and reaps nobody: look at the pids instead."""
        self._run(self._look())

    async def _show(self) -> None:
        """The viewer is a process of its own, so that a flood of output cannot delay a decision."""
        folder = str(Path(self.context.run_dir, "log"))
        argv = [sys.executable, "-P", "-c", VIEWER, folder, self._moment]
        try:
            await self.context.keeper.order("spawn", argv=argv, birth="")
        except KeeperError as error:
            logger.warning("the workers' output cannot be shown here: {}; see {}", error, folder)

    async def _tidy_for_ever(self) -> None:
        while True:
            try:
                self.effects.programs.tidy()
            except OSError as error:
                logger.warning("sockets of programs that have ended are left in {}: {}", self.context.run_dir, error)
            await asyncio.sleep(TIDY_PERIOD)

    async def _rotate_for_ever(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(ROTATION_LOOK)
            looks, log = looks + 1, self.context.config.log
            for path in self._logs() if log.rotate else ():
                if looks % ROTATION_ALL == 0 or _size(path) >= log.rotate:
                    await self._rotate(path, log.rotate, log.keep)

    def _logs(self) -> list[Path]:
        """Every file that is there, and every one that is being written to: it may have been moved away."""
        written = {Path(process.log) for process in self.registry.workers.values() if process.log}
        return sorted(written | set(Path(self.context.run_dir, "log").glob("*.log")))

    async def _rotate(self, path: Path, limit: int, keep: int) -> None:
        """In a thread: a disk may make it wait, and the master must not."""
        reopen = self._reopen(path)
        try:
            while await asyncio.to_thread(rotation.rotate, path, limit=limit, keep=keep, reopen=reopen):
                await asyncio.sleep(ROTATION_PAUSE)
        except OSError as error:
            logger.warning("{} cannot be rotated: {}", path, error.strerror)

    def _reopen(self, path: Path) -> Callable[[], None] | None:
        """How its writers are told to open the file anew; None if one of them cannot be told."""
        writers = [process for process in self.registry.workers.values() if process.log == str(path)]
        connections = [process.connection for process in writers if process.connection is not None]
        if not connections or len(connections) < len(writers):
            return None
        loop = asyncio.get_running_loop()

        def reopen() -> None:
            for connection in connections:
                loop.call_soon_threadsafe(connection.send, Reopen())

        return reopen

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(ORPHAN_PERIOD)
            for process in [*self.registry.workers.values()]:
                if process.handle is not None and not process.handle.alive() and process.pid:
                    self.effects.ended(process.pid, None)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
