"""The journal as lines for a pane."""

import time
from pathlib import Path

from ..journal import Records
from .figures import plain
from .model import MOST_LINES


class JournalTail(Records):
    """What has happened, from the last `lines` lines on. Raises OSError."""

    def __init__(self, folder: str, lines: int) -> None:
        super().__init__(Path(folder))
        self._stream.rewind(lines)

    def more(self) -> list[str]:
        """What was written since the last time; never waits."""
        return [
            plain(f"{time.strftime('%H:%M:%S', time.localtime(record.time))} {record.describe()}")
            for record in self.some()[-MOST_LINES:]
        ]
