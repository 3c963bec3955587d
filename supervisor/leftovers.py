"""What is left of the cluster before, whose keeper and master were killed together. Runs in the master.

Nobody but the next start in the same run directory knows of it. Found is only what that cluster's own state names: a
process by its pid and start time, or by a mark of one of its slots in the environment, and what is below those.
"""

import socket
from typing import NamedTuple

import msgspec
from loguru import logger

from . import dispatcher
from .leftoverfacts import LeftoversEnded
from .procfs import boot_id
from .remnants import Remnants
from .statefile import StateFile
from .tree import Handle

LONGEST_TERM = 30.0
ANSWER = 1.0


class _Section(msgspec.Struct):
    term: float = 3.0


class _Config(msgspec.Struct):
    workers: dict[str, _Section] = {}


class _Worker(msgspec.Struct):
    group: str = ""
    slot: str = ""
    tree: str = ""
    pid: int = 0
    start: int = 0


class _Loader(msgspec.Struct):
    group: str = ""
    pid: int = 0
    start: int = 0


class Former(msgspec.Struct):
    """As much of a state, of whatever version of bkd, as it takes to end those it names."""

    boot: str = ""
    keeper: int = 0
    keeper_start: int = 0
    config: _Config = msgspec.field(default_factory=_Config)
    workers: list[_Worker] = []
    loaders: list[_Loader] = []

    def remnants(self) -> Remnants:
        """Those that still live."""
        found = Remnants({row.tree: row.slot for row in self.workers if row.tree})
        for row in self.workers:
            found.hold(row.slot, row.pid, row.start)
        for one in self.loaders:
            found.hold(f"{one.group} zygote", one.pid, one.start, deaf=True)
        found.look()
        return found

    def term(self) -> float:
        """How long they have after SIGTERM."""
        return min(LONGEST_TERM, max((group.term for group in self.config.workers.values()), default=0.0))


class Place(NamedTuple):
    """A run directory that is locked by this cluster."""

    run_dir: str

    def former(self) -> Former | None:
        """The cluster that was here before, None if it ended in order, or lives, or nothing of it can."""
        data = StateFile(f"{self.run_dir}/state").read()
        if data is None or _answers(f"{self.run_dir}/control.sock"):
            return None
        try:
            former = msgspec.msgpack.decode(data, type=Former)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            logger.warning("what may be left of a cluster before is not looked for: {}/state: {}", self.run_dir, error)
            return None
        is_gone = former.boot == boot_id() and not _is_alive(former.keeper, former.keeper_start)
        return former if is_gone else None


async def end_leftovers(run_dir: str) -> LeftoversEnded | None:
    """End what is there, SIGTERM first; None if there was nothing. Takes at most LONGEST_TERM and some seconds."""
    former = Place(run_dir).former()
    if former is None:
        return None
    with former.remnants() as remnants:
        if not remnants.living():
            return None
        await remnants.end(former.term(), dispatcher.SLOT)
        return remnants.told()


def _is_alive(pid: int, start: int) -> bool:
    handle = Handle.open(pid, start) if pid else None
    if handle is None:
        return False
    alive = handle.alive()
    handle.close()
    return alive


def _answers(path: str) -> bool:
    """Whether a master still listens there, one that outlived its keeper and is ending the cluster itself."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ANSWER)
        try:
            probe.connect(path)
        except TimeoutError:
            return True
        except OSError:
            return False
        return True
