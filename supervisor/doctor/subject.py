"""What the examination is about: the configuration, if there is one, and what it asks of the machine."""

import os
from typing import NamedTuple

from ...ipc.quantity import counted
from .. import places
from ..config.faults import ConfigError
from ..config.schema import Config
from ..limits import FOR_A_WORKER, FOR_ITSELF
from ..setup import Options, read_config
from .finding import Finding

LEAST_ROOM = 64 << 20


class Subject(NamedTuple):
    """`file` is "" when there is no configuration; `config` is None then, and when it has `faults`."""

    file: str = ""
    config: Config | None = None
    faults: int = 0

    @property
    def workers(self) -> int:
        """How many there are to be; one for `bkd run` of nothing in particular."""
        return sum(group.count for group in self.config.workers.values()) if self.config else 1

    @property
    def files(self) -> int:
        """Descriptors that the master needs."""
        return FOR_ITSELF + FOR_A_WORKER * self.workers

    @property
    def processes(self) -> int:
        """Processes of a roll, with a loader for each group and release, the keeper and the master."""
        groups = len(self.config.workers) if self.config else 1
        return 2 * self.workers + 2 * groups + 2

    @property
    def room(self) -> int:
        """Bytes that logs may take in the run directory."""
        if self.config is None or not self.config.log.rotate:
            return LEAST_ROOM
        return LEAST_ROOM + self.config.log.rotate * (self.config.log.keep + 1) * self.workers

    @property
    def has_bus(self) -> bool:
        """Whether other hosts will know this one by its name."""
        return self.config is not None and self.config.bus.url != "local:"

    @property
    def host(self) -> str:
        """What the fleet calls this machine."""
        return self.config.app.host if self.config else os.uname().nodename

    @property
    def clocked(self) -> bool:
        """Whether a group is restarted by the clock on the wall."""
        return self.config is not None and any(group.restart_at for group in self.config.workers.values())


def find(option: str | None) -> Subject:
    """The configuration that other commands would take; raises NoConfig when the one that is named is not there."""
    try:
        path = places.find_config(option, os.environ)
    except places.NoConfig:
        if option:
            raise
        return Subject()
    try:
        return Subject(path, read_config(Options(fd=-1, config=path)))
    except ConfigError as error:
        return Subject(path, None, len(error.faults))


def configuration(subject: Subject) -> Finding:
    """What there is to go by."""
    if not subject.file:
        return Finding("configuration", "ok", "none here", "what follows is for bkd run with one worker")
    if subject.config is None:
        faults = counted(subject.faults, "fault")
        return Finding("configuration", "degraded", f"{subject.file}: {faults}", "see bkd check")
    groups = counted(len(subject.config.workers), "group")
    return Finding("configuration", "ok", f"{subject.file}: {groups}, {counted(subject.workers, 'worker')}")
