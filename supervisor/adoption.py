"""Taking over a living cluster: what a new master does with what the old one left."""

import asyncio

from loguru import logger

from . import events
from .cluster import Phase
from .context import Context
from .effects import Effects
from .registry import Registry
from .turns import Turns

EXITS_HEARD = 0.2  # seconds until what the keeper had to tell has been heard
HELLO_LIMIT = 2.0


class Adoption:
    """One takeover."""

    def __init__(self, turns: Turns, context: Context, registry: Registry, effects: Effects) -> None:
        self.turns, self.context, self.registry, self.effects = turns, context, registry, effects

    async def run(self) -> None:
        """Wait for the hellos; what has neither said one nor is alive then has ended without a witness."""
        self.turns.post(events.Adopted())
        self._adopt_programs()
        await asyncio.sleep(EXITS_HEARD)
        self._bury_workers()
        self._bury_loaders()
        await asyncio.sleep(HELLO_LIMIT)
        self._bury_unborn()

    def _adopt_programs(self) -> None:
        for _, _, worker in self.turns.cluster.workers():
            process = self.registry.workers.get(worker.id)
            if process is not None and process.pid and self.context.settings(process.group).kind == "command":
                self.effects.programs.adopt(process, ready=worker.phase != Phase.STARTING)

    def _bury_workers(self) -> None:
        for _, _, worker in list(self.turns.cluster.workers()):
            process = self.registry.workers.get(worker.id)
            if process is None or not process.pid:
                continue
            if process.handle is None or not process.handle.alive():
                logger.warning("{} (pid {}) ended while no master was there", process.slot, process.pid)
                self.effects.ended(process.pid, None)

    def _bury_unborn(self) -> None:
        for _, _, worker in list(self.turns.cluster.workers()):
            process = self.registry.workers.get(worker.id)
            if process is None or not process.pid:
                if process is not None:
                    self.registry.forget(process)
                self.turns.post(events.SpawnFailed(worker.id, "the master ended meanwhile", blameless=True))

    def _bury_loaders(self) -> None:
        for loader in list(self.registry.loaders.values()):
            if loader.handle is None or not loader.handle.alive():
                self.effects.loaders.ended(loader, None)
