"""Whether the kernel killed a process for want of memory: by its log, else by the control group's count."""

import time
from collections import deque
from pathlib import Path

from .. import cgroup
from .kernellog import KernelLog, about, sees_kernel_numbers

FRESH = 2.0  # seconds after which a kill that was counted is none of a worker that ends now
LOOK = 5.0


class MemoryKills:
    """One per master. What was counted is used up once for each worker, and forgotten when it is old: other processes
    of the group are killed as well."""

    def __init__(self, log: KernelLog, group: Path | None) -> None:
        self._log, self._group = log, group
        self._numbered = sees_kernel_numbers()
        self._rises: deque[float] = deque(maxlen=1000)
        self._count = self._counted()
        self._looked = time.monotonic()

    def look(self, now: float) -> None:
        """Called often: what is counted has its time."""
        if now - self._looked >= LOOK:
            self._refresh(now)

    def killed(self, pid: int, name: str, now: float) -> bool:
        """Whether this process, which ended of SIGKILL just now, was killed for want of memory."""
        self._refresh(now)
        while self._rises and now - self._rises[0] > FRESH:
            self._rises.popleft()
        named = any("out of memory" in line.lower() for line in about(self._log.recent(now), pid, name))
        if not self._rises or (self._numbered and not self._log.why_not and not named):
            return named
        self._rises.popleft()
        return True

    def _refresh(self, now: float) -> None:
        self._looked, before = now, self._count
        self._count = self._counted()
        self._rises.extend([now] * min(self._count - before, 1000))

    def _counted(self) -> int:
        return (cgroup.oom_kills(self._group) or 0) if self._group is not None else 0
