"""A small private file that is replaced as a whole: what a master has to know of the one before it.

Not synced to the disk: it has to survive the master's death, not the machine's.
"""

import os
from pathlib import Path

from loguru import logger


class StateFile:
    """`fault`: why the last content could not be written, "" when it was. Nothing here raises for want of disk."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.fault = ""

    def read(self) -> bytes | None:
        """The content, None when there is none, or none that is this user's alone."""
        try:
            about = self.path.lstat()
            if about.st_uid != os.getuid() or about.st_mode & 0o077:
                logger.error("{} is not this user's alone and is not used", self.path)
                return None
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.error("{} cannot be read: {}", self.path, error)
            return None

    def replace(self, data: bytes) -> None:
        """A disk that does not take it is told once, and once more when it does; the cluster runs on."""
        draft = self.path.with_suffix(".new")
        try:
            draft.unlink(missing_ok=True)
            with open(draft, "xb", opener=_private) as file:
                file.write(data)
            draft.replace(self.path)
        except OSError as error:
            self._judge(str(error))
        else:
            self._judge("")

    def _judge(self, fault: str) -> None:
        if fault != self.fault:
            self.fault = fault
            self.changed()

    def changed(self) -> None:
        """Called when the disk begins to refuse it, for another reason than before, or does so no longer."""
        if self.fault:
            logger.error("{} cannot be written: {}; a restart of the master would forget", self.path, self.fault)

    def forget(self) -> None:
        """The cluster is over."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            logger.error("{} cannot be removed: {}", self.path, error)


def _private(path: str, flags: int) -> int:
    """It holds the environment of programs and the tokens of workers."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
