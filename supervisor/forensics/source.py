"""Lines of source files, for frames whose file names come from processes that may name anything."""

import os
import stat

from ...ipc.stacks import Frame
from .culprit import with_text

MOST_FILES, MOST_BYTES, LONGEST = 40, 1 << 20, 200
ENDINGS = (".py", ".pyx", ".pyi", ".pxi")


class Source:
    """Each file is read once, and at most MOST_FILES of them. Blocks on the disk."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {}

    def shown(self, frames: list[Frame]) -> list[Frame]:
        """The frames with their lines."""
        return with_text(frames, self.line)

    def line(self, file: str, number: int) -> str:
        """ "" when there is none."""
        if file not in self._files:
            if len(self._files) >= MOST_FILES:
                return ""
            self._files[file] = _read(file).splitlines()
        lines = self._files[file]
        return lines[number - 1].strip()[:LONGEST] if 0 < number <= len(lines) else ""


def _read(file: str) -> str:
    """ "" for what is no file of Python source, or none that can be read now."""
    if not os.path.isabs(file) or not file.endswith(ENDINGS):
        return ""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or about.st_size > MOST_BYTES:
        os.close(descriptor)
        return ""
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(MOST_BYTES).decode(errors="replace")
