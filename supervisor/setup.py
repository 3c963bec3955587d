"""What a master is started with: the keeper's options, the configuration, the run directory."""

import os
import socket
from dataclasses import dataclass, field

from . import places, privileges
from .bus.fitness import unfit
from .config.faults import ConfigError
from .config.load import for_run, load
from .config.schema import Config
from .dispatcher import with_dispatcher
from .limits import too_many_addresses


@dataclass(frozen=True)
class Options:
    """What the launcher wrote down; the keeper hands it on unread, and adds `fd`, its link, and `terminal`: see
    `probation`."""

    fd: int
    config: str = ""
    target: str = ""
    workers: int | None = None
    bind: list[str] = field(default_factory=list)
    daemon: bool = False
    tty: bool = False
    watch: bool = False
    terminal: int = -1

    def logs_to_files(self, config: Config) -> bool:
        """`[log] mode`, `auto` is inherit as PID 1 or under the journal. In the background it is always files."""
        if config.log.mode != "auto" and not self.daemon:
            return config.log.mode == "files"
        return os.getppid() != 1 and (self.daemon or not _under_journal())


def _under_journal() -> bool:
    """The variable leaks into whatever a unit starts: it must be about this very standard error (systemd.exec(5))."""
    about = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{about.st_dev}:{about.st_ino}"


def read_config(options: Options) -> Config:
    """Raises ConfigError with every fault."""
    hostname = socket.gethostname()
    if options.target:
        return for_run(options.target, options.workers, list(options.bind), os.environ, hostname=hostname)
    config = load(options.config, os.environ, hostname=hostname)
    faults = privileges.faults(config) + too_many_addresses(config) + unfit(config.bus)
    if faults:
        raise ConfigError(os.path.basename(options.config), faults)
    return config


def configuration(options: Options) -> Config:
    """The same with the group that comes of itself; raises ConfigError."""
    return with_dispatcher(read_config(options))


def run_dir_of(options: Options, config: Config) -> str:
    """The folder of the cluster's sockets and files, made if it is not there; raises NoRunDir."""
    if options.target:
        return places.choose_run_dir_for_run(config.app.name)
    return places.choose_run_dir(config.path, os.environ)


def exit_when_failed(config: Config, keeper: int) -> bool:
    """Whether the whole cluster ends when a group has failed: as PID 1 the container's owner has to see it."""
    return (config.app.exit_when or ("failed" if keeper == 1 else "never")) == "failed"
