"""Taking over a living cluster: what a new master does with what the old one left."""

import asyncio
import random
from typing import TYPE_CHECKING

from loguru import logger

from . import events
from .cluster import Phase

if TYPE_CHECKING:
    from .master import Master

HELLO_LIMIT = 2.0


async def adopt(master: "Master") -> None:
    """Wait for the hellos; what has neither said one nor is alive then has ended without a witness."""
    master.turns.post(events.Adopted())
    for _, _, worker in master.turns.cluster.workers():
        process = master.registry.workers.get(worker.id)
        if process is not None and process.pid and master.context.settings(process.group).kind == "command":
            master.effects.programs.adopt(process, ready=worker.phase != Phase.STARTING)
    await asyncio.sleep(HELLO_LIMIT)
    _bury_workers(master)
    _bury_loaders(master)


def _bury_workers(master: "Master") -> None:
    for _, _, worker in list(master.turns.cluster.workers()):
        process = master.registry.workers.get(worker.id)
        if process is None or not process.pid:
            if process is not None:
                master.registry.forget(process)
            master.turns.post(events.SpawnFailed(worker.id, "the master ended meanwhile", random.random()))
        elif process.handle is None or not process.handle.alive():
            logger.warning("{} (pid {}) ended while no master was there", process.slot, process.pid)
            master.effects.ended(process.pid, None)


def _bury_loaders(master: "Master") -> None:
    for loader in list(master.registry.loaders.values()):
        if loader.handle is None or not loader.handle.alive():
            master.effects.loaders.ended(loader, None)
