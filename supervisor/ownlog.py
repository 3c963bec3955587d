"""Where the master's own lines go: to the terminal, or in the background into a file."""

import os
import sys
from typing import TextIO

from loguru import logger

from ..ipc.processes import redirect
from . import banner
from .announcement import Announcement
from .config.schema import Config
from .context import Context
from .setup import Options
from .terminal import Terminal


class OwnLog:
    """The file of a cluster in the background, once nobody waits at a terminal any more."""

    def __init__(self, options: Options, context: Context, announcement: Announcement) -> None:
        self.options, self.context, self.announcement = options, context, announcement
        self.path = _path(context.run_dir)

    def missing(self) -> bool:
        """Whether it was removed."""
        return self.options.daemon and self.announcement.made and not os.path.lexists(self.path)

    async def restore(self) -> None:
        """Another one, for the keeper's words and the master's."""
        self.context.keeper.tell("redirect", path=self.path)
        redirect(self.path)
        begin(self.options, self.context.config, self.context.run_dir)


def begin(options: Options, config: Config, run_dir: str) -> None:
    """From now on."""
    logger.remove()
    to = _own_file(_path(run_dir)) if options.daemon else Terminal()
    colours = not options.daemon and sys.stderr.isatty() and "NO_COLOR" not in os.environ
    as_json = config.log.format == "json"
    form = banner.log_format(colours)
    logger.add(to, format=form, level="INFO", serialize=as_json, colorize=colours, diagnose=False)


def _path(run_dir: str) -> str:
    return f"{run_dir}/log/bkd.log"


def _own_file(path: str) -> TextIO | Terminal:
    """A disk that has no place for the log is no reason not to take over."""
    try:
        return private_log(path)
    except OSError as error:
        terminal = Terminal()
        terminal.write(f"bkd: {path} cannot be written: {error.strerror}\n")
        return terminal


def private_log(path: str) -> TextIO:
    """The file, made for the owner and the group only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    return os.fdopen(descriptor, "a", buffering=1)
