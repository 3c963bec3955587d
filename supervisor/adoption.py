"""Taking over a living cluster: what a new master does with what the old one left."""

import asyncio
import time

from loguru import logger

from . import events, procfs
from .cluster import Phase, Step
from .context import Context
from .effects import Effects
from .keeperlink import KeeperError
from .registry import LoaderProcess, Process, Registry
from .tree import Handle, kill_tree
from .turns import Turns

ANSWERS = 2  # of the keeper, which reaps between two orders: then it has told of whoever had ended before the first
HELLO_LIMIT = 2.0
STRAY_LIMIT = 4.0


class Adoption:
    """One takeover, made before the first turn: what is in the registry then is of the last master. `children` are the
    keeper's, with their start times, as it named them to this master."""

    def __init__(
        self, turns: Turns, context: Context, registry: Registry, effects: Effects, children: list[tuple[int, int]]
    ) -> None:
        self.turns, self.context, self.registry, self.effects = turns, context, registry, effects
        self.children = children
        self.workers = [process for process in registry.workers.values() if not process.over]
        self.loaders = list(registry.loaders.values())

    def begin(self, alone_since: float) -> None:
        """Before the first turn: limits do not run out in the time since then (monotonic), when nobody could act."""
        self.turns.post(events.Adopted(time.monotonic() - alone_since))

    async def run(self) -> None:
        """Wait for the hellos; what has neither said one nor is alive then has ended without a witness."""
        self._recognize(self.children)
        self._tell_births()
        self._ask_again()
        self._adopt_programs()
        ended = [process for process in self._processes() if process.pid and not _is_alive(process)]
        loaders = [loader for loader in self.loaders if loader.pid and not _is_alive(loader)]
        await self._hear_the_keeper()
        self._bury_workers(ended)
        self._bury_loaders(loaders)
        await asyncio.sleep(HELLO_LIMIT)
        self._recognize(self._children_now())
        self._bury_unborn()
        self._bury_loaders([loader for loader in self.loaders if not loader.pid and not _is_alive(loader)])
        await self._end_strays()

    def _recognize(self, children: list[tuple[int, int]]) -> None:
        """Processes whose order is in the state and whose birth is not, by the mark in their environment."""
        unborn = {process.tree: process for process in self._processes() if not process.pid}
        for pid, start in children if unborn else ():
            process = unborn.get(_mark(pid))
            if process is not None:
                self.effects.loaders.spawned(process.worker, pid, start)

    def _children_now(self) -> list[tuple[int, int]]:
        """A zygote may have carried its order out after the keeper had counted."""
        found = [(pid, procfs.read(pid)) for pid in procfs.children(self.context.keeper_pid)]
        return [(pid, facts.start) for pid, facts in found if facts is not None]

    def _tell_births(self) -> None:
        """Of those that the last master knew of, but had not yet applied."""
        for _, _, worker in self.turns.cluster.workers():
            process = self.registry.workers.get(worker.id)
            if process is not None and process.pid and not worker.pid:
                self.turns.post(events.Spawned(worker.id, process.pid, process.start))

    def _ask_again(self) -> None:
        """Whether an order of the last master to serve or to drain was read, nobody knows."""
        for _, _, worker in self.turns.cluster.workers():
            process = self.registry.workers.get(worker.id)
            if process is not None:
                process.admitted = process.settings.kind == "web" and not worker.quiet
                process.asked = worker.ending is not None and worker.ending.step == Step.ASKED

    def _processes(self) -> list[Process]:
        """Workers of the last master that are still to be dealt with."""
        return [process for process in self.workers if self._is_known(process) and not process.over]

    def _is_known(self, process: Process) -> bool:
        return self.registry.workers.get(process.worker) is process

    def _adopt_programs(self) -> None:
        for _, _, worker in self.turns.cluster.workers():
            process = self.registry.workers.get(worker.id)
            if process is not None and process.pid and process.settings.kind == "command":
                self.effects.programs.adopt(process, ready=worker.phase != Phase.STARTING)

    async def _hear_the_keeper(self) -> None:
        """It knows how they have ended; should it be gone as well, nobody does."""
        try:
            for _ in range(ANSWERS):
                await self.context.keeper.order("upgraded")
        except KeeperError as error:
            logger.warning("how processes have ended while no master was there is not known: {}", error)

    def _bury_workers(self, ended: list[Process]) -> None:
        """Those of whom nobody has told."""
        for process in ended:
            if self._is_known(process) and not process.over:
                logger.warning("{} (pid {}) ended while no master was there", process.slot, process.pid)
                self.effects.ended(process.pid, None)

    def _bury_loaders(self, loaders: list[LoaderProcess]) -> None:
        """Those whose process was known have ended; of the others nobody has heard in time."""
        for loader in loaders:
            if self.registry.loaders.get(loader.key) is loader:
                self.effects.loaders.ended(loader, None)

    def _bury_unborn(self) -> None:
        for process in self._processes():
            if not process.pid:
                self.effects.loaders.bury(process)

    async def _end_strays(self) -> None:
        """Children of the keeper that an order made which no master remembers: they must not run beside their
        successors. What carries no mark is no worker."""
        trees = {process.tree for process in self.registry.workers.values()}
        for pid, start in self.children:
            mark = _mark(pid)
            handle = Handle.open(pid, start) if mark and mark not in trees and pid not in self.registry.pids() else None
            if handle is None:
                continue
            logger.warning("pid {} was started by a master that died before it could write that down; it is ended", pid)
            deadline = time.monotonic() + STRAY_LIMIT
            await kill_tree(handle, self.context.keeper_pid, mark, self.registry.pids(), deadline=deadline)
            handle.close()


def _is_alive(process: Process | LoaderProcess) -> bool:
    return process.handle is not None and process.handle.alive()


def _mark(pid: int) -> str:
    return (procfs.environ(pid, b"BKD_TREE") or b"").decode(errors="replace")
