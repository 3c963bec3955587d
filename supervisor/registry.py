"""Which process is which: by worker number, by pid, by the one-time token of its spawn."""

import secrets
from dataclasses import dataclass, field

from .cluster import Worker
from .config.schema import GroupSection
from .connection import Connection
from .forensics.dumpfile import DumpFile
from .tree import Handle

EARLY = 1000


@dataclass
class Process:
    """A worker's process as the shell knows it. `settings`: those of its release; `tree` marks its descendants'
    environment; `seat`: its place in the balance page; `quiet`: it starts without work; `admitted`: it is to take work;
    `asked`: it is to drain; `loading`: the connection on which it speaks as long as it imports the application itself;
    `words`: what it said of its own failure; `dumps`: where it writes its stacks to;
    `over`: it has ended, and only its leftovers are still looked for;
    `signalled_by`: which operator sent it the last signal; `row`: the policy's row of it when it ended;
    `uid`: as which user it was started, -1: as bkd's; `watchdog`: seconds of silence that a program allows itself, 0.0:
    any; `status_text` and `doing`: what it says that it does."""

    worker: int
    group: str
    slot: str
    release: int
    settings: GroupSection
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    tree: str = field(default_factory=lambda: secrets.token_hex(8))
    pid: int = 0
    start: int = 0
    handle: Handle | None = None
    connection: Connection | None = None
    loading: Connection | None = None
    log: str = ""
    asked: bool = False
    seat: int = 0
    quiet: bool = False
    admitted: bool = False
    over: bool = False
    log_offset: int = 0
    words: str = ""
    dumps: DumpFile | None = None
    signalled_by: str = ""
    row: Worker | None = None
    uid: int = -1
    watchdog: float = 0.0
    status_text: str = ""
    doing: str = ""

    @property
    def line(self) -> Connection | None:
        """Where it is heard now."""
        return self.connection or self.loading

    @property
    def spoken(self) -> str:
        """What it says of itself, in one line."""
        return ": ".join(text for text in (self.doing, self.status_text) if text)


@dataclass
class LoaderProcess:
    """A zygote's process; `forks` are the workers ordered from it and not yet there; `uid` as for workers."""

    group: str
    release: int
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    pid: int = 0
    start: int = 0
    handle: Handle | None = None
    connection: Connection | None = None
    forks: set[int] = field(default_factory=set)
    loaded: bool = False
    dumps: DumpFile | None = None
    uid: int = -1

    @property
    def line(self) -> Connection | None:
        """Where it is heard now."""
        return self.connection

    @property
    def key(self) -> tuple[str, int]:
        """Group and release."""
        return self.group, self.release


class Registry:
    """All indexes over processes are kept here and nowhere else."""

    def __init__(self) -> None:
        self.workers: dict[int, Process] = {}
        self.loaders: dict[tuple[str, int], LoaderProcess] = {}
        self._tokens: dict[str, Process | LoaderProcess] = {}
        self._pids: dict[int, Process | LoaderProcess] = {}
        self._early: dict[int, int] = {}

    def add(self, process: Process | LoaderProcess) -> None:
        """A spawn begins: its token is known from now on."""
        if isinstance(process, Process):
            self.workers[process.worker] = process
        else:
            self.loaders[process.key] = process
        self._tokens[process.token] = process

    def born(self, process: Process | LoaderProcess, pid: int, start: int) -> int | None:
        """Its process is known; gives the wait status when it has ended already."""
        process.pid, process.start = pid, start
        process.handle = Handle.open(pid, start)
        self._pids[pid] = process
        return self._early.pop(pid, None) if process.handle is None or not process.handle.alive() else None

    def move(self, process: Process, pid: int, start: int) -> None:
        """Another process of its tree is its first one from now on."""
        if self._pids.get(process.pid) is process:
            del self._pids[process.pid]
        if process.handle is not None:
            process.handle.close()
        self.born(process, pid, start)

    def by_token(self, token: str) -> Process | LoaderProcess | None:
        """Whose secret this is."""
        return self._tokens.get(token)

    def by_pid(self, pid: int) -> Process | LoaderProcess | None:
        """Whose process has this pid, if it still is that process."""
        process = self._pids.get(pid)
        return process if process is not None and process.handle is not None and process.handle.alive() else None

    def by_tree(self, tree: str) -> Process | None:
        """Whose descendants have this mark in their environment."""
        return next((process for process in self.workers.values() if process.tree == tree), None)

    def ended(self, pid: int, status: int) -> Process | LoaderProcess | None:
        """Whose process this was; kept for a while when nobody knows the pid yet. A living one is somebody else."""
        process = self._pids.get(pid)
        if process is not None and process.handle is not None and process.handle.alive():
            return None
        if process is None:
            self._early[pid] = status
            while len(self._early) > EARLY:
                self._early.pop(next(iter(self._early)))
        return process

    def forget(self, process: Process | LoaderProcess) -> None:
        """Its end has been dealt with, leftovers included."""
        self.let_go(process)
        if process.handle is not None:
            process.handle.close()
        if process.dumps is not None:
            process.dumps.close()

    def let_go(self, process: Process | LoaderProcess) -> None:
        """Nobody asks for it any more, but it can still be signalled."""
        if self._pids.get(process.pid) is process:
            del self._pids[process.pid]
        self._tokens.pop(process.token, None)
        if isinstance(process, Process):
            self.workers.pop(process.worker, None)
        elif self.loaders.get(process.key) is process:
            del self.loaders[process.key]

    def pids(self, *, but: int = 0) -> set[int]:
        """Every pid of a worker or zygote, except one."""
        return {pid for pid in self._pids if pid != but}
