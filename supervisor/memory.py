"""What a master cannot ask back from its processes: `run_dir/state`, MessagePack, replaced as a whole.

It is of use only to a master of the same boot below the same keeper; anything else in the file is ignored.
"""

import msgspec
from loguru import logger

from .cluster import Cluster
from .config.schema import Config, GroupSection
from .procfs import boot_id
from .registry import LoaderProcess, Process, Registry
from .statefile import StateFile

SCHEMA = 2


class WorkerRecord(msgspec.Struct, frozen=True):
    """A worker's process: see `registry.Process`."""

    worker: int
    group: str
    slot: str
    release: int
    token: str
    tree: str
    pid: int
    start: int
    log: str
    seat: int


class LoaderRecord(msgspec.Struct, frozen=True):
    """A zygote's process: see `registry.LoaderProcess`."""

    group: str
    release: int
    token: str
    pid: int
    start: int
    loaded: bool


class State(msgspec.Struct, frozen=True):
    """One whole file, of the monotonic moment `saved`. `keeper` and `keeper_start` say under whom it was written;
    `announced`: whoever waits for the start was told how it ended."""

    schema: int
    boot: str
    keeper: int
    keeper_start: int
    epoch: int
    began: float
    saved: float
    announced: bool
    config: Config
    cluster: Cluster
    workers: list[WorkerRecord]
    loaders: list[LoaderRecord]


class _Stamp(msgspec.Struct):
    """What must fit before the rest is even looked at."""

    schema: int = 0
    boot: str = ""
    keeper: int = 0
    keeper_start: int = 0


class Memory(StateFile):
    """The file of one run directory."""

    def __init__(self, run_dir: str) -> None:
        super().__init__(f"{run_dir}/state")

    def recall(self, keeper: int, keeper_start: int) -> State | None:
        """The state as the last master below this keeper left it, None when there is none to trust."""
        data = self.read()
        if data is None:
            return None
        try:
            stamp = msgspec.msgpack.decode(data, type=_Stamp)
            if stamp != _Stamp(SCHEMA, boot_id(), keeper, keeper_start):
                return None
            return msgspec.msgpack.decode(data, type=State)
        except msgspec.MsgspecError as error:
            logger.error("{} cannot be used: {}", self.path, error)
            return None

    def keep(self, state: State) -> None:
        """Replace the file."""
        self.replace(msgspec.msgpack.encode(state))


def records(registry: Registry) -> tuple[list[WorkerRecord], list[LoaderRecord]]:
    """The processes as rows."""
    workers = [
        WorkerRecord(p.worker, p.group, p.slot, p.release, p.token, p.tree, p.pid, p.start, p.log, p.seat)
        for p in registry.workers.values()
    ]
    loaders = [LoaderRecord(p.group, p.release, p.token, p.pid, p.start, p.loaded) for p in registry.loaders.values()]
    return workers, loaders


def restore(registry: Registry, state: State) -> None:
    """The processes back in the registry; those that have ended meanwhile have no living handle."""
    for row in state.workers:
        settings = _settings(state, row)
        process = Process(row.worker, row.group, row.slot, row.release, settings, row.token, row.tree, log=row.log)
        process.seat = row.seat
        registry.add(process)
        if row.pid:
            registry.born(process, row.pid, row.start)
    for one in state.loaders:
        loader = LoaderProcess(one.group, one.release, one.token, loaded=one.loaded)
        registry.add(loader)
        if one.pid:
            registry.born(loader, one.pid, one.start)


def _settings(state: State, row: WorkerRecord) -> GroupSection:
    """Those of its release; of one that has been forgotten since, only leftovers are still to be swept up."""
    group = state.cluster.groups.get(row.group)
    if group is None:
        return GroupSection(row.group, "python")
    release = group.releases.get(row.release)
    return release.settings if release is not None else group.settings


def stamp(keeper: int, keeper_start: int) -> tuple[int, str, int, int]:
    """The first four fields of a state written now."""
    return SCHEMA, boot_id(), keeper, keeper_start
