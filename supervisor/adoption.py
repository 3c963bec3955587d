"""Taking over a living cluster: what a new master does with what the old one left."""

import asyncio
import time

from loguru import logger

from . import events, procfs
from .cluster import Phase, Step
from .context import Context
from .effects import Effects
from .registry import Process, Registry
from .tree import Handle, kill_tree
from .turns import Turns

EXITS_HEARD = 0.2  # seconds until what the keeper had to tell has been heard
HELLO_LIMIT = 2.0
STRAY_LIMIT = 4.0


class Adoption:
    """One takeover. `children` are the keeper's, with their start times, as it named them to this master."""

    def __init__(
        self, turns: Turns, context: Context, registry: Registry, effects: Effects, children: list[tuple[int, int]]
    ) -> None:
        self.turns, self.context, self.registry, self.effects = turns, context, registry, effects
        self.children = children
        self.remembered = list(turns.cluster.places)

    async def run(self) -> None:
        """Wait for the hellos; what has neither said one nor is alive then has ended without a witness."""
        self._recognize()
        self._ask_again()
        self._adopt_programs()
        await asyncio.sleep(EXITS_HEARD)
        self._bury_workers()
        self._bury_loaders()
        await asyncio.sleep(HELLO_LIMIT)
        self._bury_unborn()
        await self._end_strays()

    def _recognize(self) -> None:
        """Processes whose order is in the state and whose birth is not, by the mark in their environment."""
        unborn = {process.tree: process for process in self._processes() if not process.pid}
        for pid, start in self.children:
            process = unborn.get(_mark(pid))
            if process is not None:
                self.effects.loaders.spawned(process.worker, pid, start)

    def _ask_again(self) -> None:
        """Whether an order of the last master to serve or to drain was read, nobody knows."""
        for _, _, worker in self.turns.cluster.workers():
            process = self.registry.workers.get(worker.id)
            if process is not None:
                process.admitted = process.settings.kind == "web" and not worker.quiet
                process.asked = worker.ending is not None and worker.ending.step == Step.ASKED

    def _processes(self) -> list[Process]:
        found = (self.registry.workers.get(number) for number in self.remembered)
        return [process for process in found if process is not None]

    def _adopt_programs(self) -> None:
        for _, _, worker in self.turns.cluster.workers():
            process = self.registry.workers.get(worker.id)
            if process is not None and process.pid and process.settings.kind == "command":
                self.effects.programs.adopt(process, ready=worker.phase != Phase.STARTING)

    def _bury_workers(self) -> None:
        for process in self._processes():
            if process.pid and (process.handle is None or not process.handle.alive()):
                logger.warning("{} (pid {}) ended while no master was there", process.slot, process.pid)
                self.effects.ended(process.pid, None)

    def _bury_loaders(self) -> None:
        for loader in list(self.registry.loaders.values()):
            if loader.handle is None or not loader.handle.alive():
                self.effects.loaders.ended(loader, None)

    def _bury_unborn(self) -> None:
        for process in self._processes():
            if not process.pid:
                self.effects.balance.free(process.group, process.seat)
                self.registry.forget(process)
                self.turns.post(events.SpawnFailed(process.worker, "the master ended meanwhile", blameless=True))

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


def _mark(pid: int) -> str:
    return (procfs.environ(pid, b"BKD_TREE") or b"").decode(errors="replace")
