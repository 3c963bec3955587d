"""What is written while one looks: a slot's log, or the journal. Each is read in a thread of its own."""

import threading
from typing import Protocol

from .. import logfiles
from .figures import plain
from .inbox import Added, Inbox
from .model import MOST_LINES

FIRST_LINES = 500
LOOK = 0.25
FARTHEST_BEHIND, KEPT = 1 << 20, 64 << 10
ELSEWHERE = 'with [log] mode = "inherit" it is in bkd\'s own output'


class Source(Protocol):
    """Something that grows."""

    def more(self) -> list[str]:
        """What was written since the last time; never waits. Raises OSError."""

    def close(self) -> None:
        """Close its files."""


class Log:
    """The log of one slot, from its last lines on."""

    def __init__(self, folder: str, name: str) -> None:
        known = logfiles.log_names(folder, [name])
        self._hints = [] if known else [f"{name} has printed nothing into {folder}", ELSEWHERE]
        self._follower = logfiles.Follower(folder, [name], lines=FIRST_LINES)

    def more(self) -> list[str]:
        """Its new lines; of a flood only the end."""
        skipped = sum(stream.skip(FARTHEST_BEHIND, KEPT) for stream in self._follower.streams.values())
        first = [*self._hints, *([f"… {skipped / 1e6:.1f} MB skipped"] if skipped else [])]
        self._hints = []
        lines = [line for _, line in self._follower.turn()[-MOST_LINES:]]
        return first + [plain(logfiles.show(line)) for line in lines]

    def close(self) -> None:
        """Close its files."""
        self._follower.close()


class Reading(threading.Thread):
    """Puts what is written by slot `name` (or, for "", into the journal) into the pane of this source."""

    def __init__(self, run_dir: str, name: str, source: int, inbox: Inbox) -> None:
        super().__init__(name=f"reading {name}", daemon=True)
        self.run_dir, self.slot, self.source, self.inbox = run_dir, name, source, inbox
        self._over = threading.Event()

    def run(self) -> None:
        """The thread: until `stop`, or until there is nothing to be read."""
        try:
            source = self._source()
            try:
                self._read(source)
            finally:
                source.close()
        except OSError as error:
            why = f"{error.filename or self.run_dir} cannot be read: {error.strerror}"
            self.inbox.put(Added(self.source, [plain(why)]))

    def stop(self) -> None:
        """Read no more."""
        self._over.set()

    def _source(self) -> Source:
        if self.slot:
            return Log(f"{self.run_dir}/log", self.slot)
        from .journaltail import JournalTail  # msgspec and every fact: a tenth of the time until the first picture

        return JournalTail(self.run_dir, FIRST_LINES)

    def _read(self, source: Source) -> None:
        while not self._over.is_set():
            lines = source.more()
            if lines:
                self.inbox.put(Added(self.source, lines))
            self._over.wait(LOOK)
