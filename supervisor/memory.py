"""What a master cannot ask back from its processes, as MessagePack: in the keeper's memory, and in `run_dir/state`.

It is of use only to a master of the same boot below the same keeper; anything else is ignored. The file is for people,
and for the case that the keeper's memory is of no use.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from loguru import logger

from .cluster import Cluster
from .config.schema import Config, GroupSection
from .fact import Fact
from .facts import DiskTrouble, DiskWell
from .procfs import boot_id
from .registry import LoaderProcess, Process, Registry
from .slate import Slate
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
    uid: int = -1
    watchdog: float = 0.0
    status_text: str = ""
    doing: str = ""


class LoaderRecord(msgspec.Struct, frozen=True):
    """A zygote's process: see `registry.LoaderProcess`."""

    group: str
    release: int
    token: str
    pid: int
    start: int
    loaded: bool
    uid: int = -1


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
    """What the keeper holds for the masters of one run directory (`slate`, a descriptor), and the file there. `tell`:
    who is to hear of trouble with the disk."""

    def __init__(self, run_dir: str, slate: int = -1) -> None:
        super().__init__(f"{run_dir}/state")
        self.slate = Slate(slate)
        self.tell: Callable[[Fact], None] = lambda fact: None
        self._is_safe = False

    @property
    def forgets(self) -> str:
        """Why the next master would not know what this one does now, "" when it would."""
        return "" if self._is_safe else self.fault

    def recall(self, keeper: int, keeper_start: int) -> State | None:
        """The state as the last master below this keeper left it, None when there is none to trust."""
        fit = _Stamp(SCHEMA, boot_id(), keeper, keeper_start)
        for where, data in self._found():
            try:
                if msgspec.msgpack.decode(data, type=_Stamp) == fit:
                    return msgspec.msgpack.decode(data, type=State)
                logger.warning("the state in {} is of another boot, keeper or version of bkd: not used", where)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                logger.error("the state in {} cannot be used: {}", where, error)
        return None

    def _found(self) -> Iterator[tuple[str, bytes]]:
        """The newest first; the disk is asked only when it is needed."""
        for data in self.slate.contents():
            yield "the keeper's memory", data
        written = self.read()
        if written is not None:
            yield str(self.path), written

    def keep(self, state: State) -> None:
        """Write it where it is safe from everything but the keeper's end, then to the disk."""
        data = msgspec.msgpack.encode(state)
        self._is_safe = self.slate.write(data)
        self.replace(data)

    def note(self, state: State) -> None:
        """Write it where it is safe from everything but the keeper's end; to the disk only where there is no such
        place."""
        data = msgspec.msgpack.encode(state)
        self._is_safe = self.slate.write(data)
        if not self._is_safe:
            self.replace(data)

    def changed(self) -> None:
        """The disk refuses the state, or does so no longer."""
        path = str(self.path)
        self.tell(DiskTrouble(path=path, why=self.fault, safe=self._is_safe) if self.fault else DiskWell(path=path))


def slate_of(born: dict[str, Any], descriptors: list[int]) -> int:
    """The keeper's memory for masters, among the descriptors that come with `born`; -1 from a keeper that has none."""
    kept = descriptors[len(born["listeners"]) :]
    names: list[str] = born.get("kept", [])
    return dict(zip(names, kept, strict=False)).get("state", -1)


def records(registry: Registry) -> tuple[list[WorkerRecord], list[LoaderRecord]]:
    """The processes as rows."""
    workers = [
        WorkerRecord(
            *(p.worker, p.group, p.slot, p.release, p.token, p.tree, p.pid, p.start, p.log, p.seat, p.uid),
            *(p.watchdog, p.status_text, p.doing),
        )
        for p in registry.workers.values()
    ]
    loaders = [
        LoaderRecord(p.group, p.release, p.token, p.pid, p.start, p.loaded, p.uid) for p in registry.loaders.values()
    ]
    return workers, loaders


def restore(registry: Registry, state: State) -> None:
    """The processes back in the registry; those that have ended meanwhile have no living handle."""
    for row in state.workers:
        settings = _settings(state, row)
        process = Process(row.worker, row.group, row.slot, row.release, settings, row.token, row.tree, log=row.log)
        process.seat, process.uid = row.seat, row.uid
        process.watchdog, process.status_text, process.doing = row.watchdog, row.status_text, row.doing
        process.over = row.worker not in state.cluster.places
        registry.add(process)
        if row.pid:
            registry.born(process, row.pid, row.start)
    for one in state.loaders:
        loader = LoaderProcess(one.group, one.release, one.token, loaded=one.loaded, uid=one.uid)
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
