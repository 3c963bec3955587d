"""Children of this keeper that no state tells of, because what the last master knew is lost. Runs in the master.

Of which release a worker is, and with which settings, went with the state: none can be taken over. Whoever serves does
so until there are others, and is then drained. Zygotes and programs are ended before anything is started, for two of
the same slot cannot be told apart, or share a port.
"""

import asyncio
import time
from typing import NamedTuple

from loguru import logger

from ..ipc.message import Drain, Hello
from . import dispatcher, procfs
from .announcement import is_up
from .connection import Connection
from .keeper import BLANK_ENV
from .leftoverfacts import LeftoversEnded
from .remnants import Remnants
from .tree import MARKER
from .turns import Turns

LOOK = 0.1
PATIENCE = 120.0
DRAIN, TERM = 25.0, 3.0
TITLE = b"bkd: "


class Child(NamedTuple):
    """One of them, by what can be seen of it. `slot`: "" of a zygote."""

    pid: int
    start: int
    mark: str
    slot: str
    is_worker: bool


class Forgotten:
    """`children`: the keeper's, with their start times, but not the one that waits to be born."""

    def __init__(self, children: list[tuple[int, int]]) -> None:
        found = [child for child in (_seen(pid, start) for pid, start in children) if child is not None]
        self.workers = {(child.pid, child.start): child for child in found if child.is_worker}
        self._others = [child for child in found if not child.is_worker]
        self._connections: dict[int, Connection] = {}

    async def end_others(self) -> LeftoversEnded | None:
        """Zygotes and programs; takes some seconds at most."""
        remnants = Remnants({child.mark: child.slot for child in self._others if child.slot})
        with remnants:
            for child in self._others:
                remnants.hold(child.slot or "zygote", child.pid, child.start, deaf=not child.slot)
            remnants.look()
            if not remnants.living():
                return None
            await remnants.end(TERM)
            return remnants.told()

    def keep(self, connection: Connection, hello: Hello) -> bool:
        """Whether this is one of the workers, and serves."""
        if hello.role != "worker" or not hello.ready or (hello.pid, hello.start) not in self.workers:
            return False
        self._connections[hello.pid] = connection
        return True

    async def relieve(self, turns: Turns) -> None:
        """Drain the workers when all slots are up, or after PATIENCE; who does not end by that is ended."""
        if not self.workers:
            return
        deadline = time.monotonic() + PATIENCE
        while not is_up(turns.cluster) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK)
        with Remnants({child.mark: child.slot for child in self.workers.values()}) as remnants:
            for child in self.workers.values():
                remnants.hold(child.slot, child.pid, child.start)
            await self._drained(remnants)
            await remnants.end(TERM)
            logger.info("workers of the last master have left: {}", ", ".join(remnants.told().processes))

    async def _drained(self, remnants: Remnants) -> None:
        for connection in self._connections.values():
            connection.send(Drain(last=False))
        deadline = time.monotonic() + DRAIN
        while time.monotonic() < deadline and any(handle.pid in self._connections for handle in remnants.living()):
            await asyncio.sleep(LOOK)


def _seen(pid: int, start: int) -> Child | None:
    """None for what is no process of a slot, and for one that has ended."""
    facts = procfs.read(pid)
    if facts is None or facts.start != start or facts.state in "DZ":
        return None
    mark = (procfs.environ(pid, MARKER.encode()) or b"").decode(errors="replace")
    if not mark:
        return None
    if mark == BLANK_ENV[MARKER]:
        return Child(pid, start, mark, "", False)
    title = procfs.text(f"/proc/{pid}/cmdline").encode()
    if title.startswith(TITLE):
        slot = title.split()[2].decode(errors="replace")
        return Child(pid, start, mark, slot, slot != dispatcher.SLOT)  # a store has one owner: the old one ends first
    slot = (procfs.environ(pid, b"BKD_SLOT") or b"").decode(errors="replace")
    return Child(pid, start, mark, slot or "program", False)
