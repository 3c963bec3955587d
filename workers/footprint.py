"""How much memory a worker has, as its heartbeat tells."""

import logging
import os
from time import thread_time  # bound before an application can patch it

RAREST, SPARING = 10.0, 1000
AGAIN = 3.0  # longer than a heartbeat: what is measured first is told
_log = logging.getLogger("bkd")


class Footprint:
    """PSS of this process in bytes: its memory, with what it shares counted in part. 0 before it was measured.

    The kernel walks through all of its pages for that, so it is measured the more rarely the longer it takes. Soon
    after the first time it is measured again: siblings that came meanwhile share a part of it.
    """

    def __init__(self) -> None:
        self.pss = 0
        self._due = 0.0
        self._file = -1
        try:
            self._file = os.open("/proc/self/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            _log.warning("the memory of this process cannot be measured: %s", error.strerror)

    def measure(self, now: float) -> None:
        """Once it is due."""
        if self._file < 0 or now < self._due:
            return
        began, pause = thread_time(), RAREST if self.pss else AGAIN
        said = os.pread(self._file, 4096, 0).partition(b"\nPss:")[2].split()
        self.pss = int(said[0]) << 10 if said else 0
        self._due = now + max(pause, SPARING * (thread_time() - began))
