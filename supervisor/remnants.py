"""Processes that nobody is responsible for any more, and how they are ended. Runs in the master.

A signal goes through a pidfd whose process had the expected start time, or the expected mark, never to a number.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from signal import SIGKILL, SIGTERM
from types import TracebackType

from loguru import logger

from . import procfs
from .leftoverfacts import LeftoversEnded
from .tree import Handle, marked

KILL_LIMIT = 4.0
LAST_TERM = 3.0
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.2


class Remnants:
    """Found by their marks (with the slots that have them), or held one by one; with everything below them."""

    def __init__(self, marks: Mapping[str, str]) -> None:
        self._marks = marks
        self._names: dict[Handle, str] = {}
        self._deaf: set[Handle] = set()

    def __enter__(self) -> "Remnants":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handle in self._names:
            handle.close()

    def hold(self, name: str, pid: int, start: int, *, deaf: bool = False) -> None:
        """This one too, if it still is that process; `deaf`: it does not hear SIGTERM."""
        handle = Handle.open(pid, start) if pid and pid not in self._pids() else None
        if handle is not None:
            self._names[handle] = name
            if deaf:
                self._deaf.add(handle)

    def look(self) -> None:
        """Find those with a mark, and the children of all that are known."""
        for mark, handle in marked(self._marks):
            if handle.pid in self._pids():
                handle.close()
            else:
                self._names[handle] = self._marks[mark]
        parents = self.living()
        for parent in parents:
            for pid in procfs.children(parent.pid):
                self._take(pid, parent)
            parents.extend(handle for handle in self.living() if handle not in parents)

    def living(self) -> list[Handle]:
        """Those that have not ended."""
        return [handle for handle in self._names if handle.alive()]

    async def end(self, term: float, last: str = "") -> None:
        """SIGTERM, after `term` seconds SIGKILL until nobody is left, for KILL_LIMIT. The one of this name is told
        when the others are gone: it writes what they still say."""
        await self._end(lambda handle: self._names[handle] != last, term)
        await self._end(lambda handle: True, min(term, LAST_TERM))

    async def _end(self, chosen: Callable[[Handle], bool], term: float) -> None:
        deadline = time.monotonic() + term
        for handle in filter(chosen, self.living()):
            _signal(handle, SIGKILL if handle in self._deaf else SIGTERM)
        while any(map(chosen, self.living())) and time.monotonic() < deadline:
            await asyncio.sleep(SHORTEST_PAUSE)
        await self._kill(chosen, time.monotonic() + KILL_LIMIT)

    def told(self) -> LeftoversEnded:
        """Who it was, and who is still there."""
        left = self.living()
        every = [f"{name} (pid {handle.pid})" for handle, name in self._names.items() if handle not in left]
        return LeftoversEnded(every, [f"{self._names[handle]} (pid {handle.pid})" for handle in left])

    async def _kill(self, chosen: Callable[[Handle], bool], deadline: float) -> None:
        pause = SHORTEST_PAUSE
        while True:
            self.look()
            left = [*filter(chosen, self.living())]
            for handle in left:
                _signal(handle, SIGKILL)
            if not left or time.monotonic() > deadline:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _take(self, pid: int, parent: Handle) -> None:
        facts = procfs.read(pid)
        if facts is not None and facts.ppid == parent.pid and parent.alive():
            self.hold(self._names[parent], pid, facts.start)

    def _pids(self) -> set[int]:
        return {handle.pid for handle in self.living()}


def _signal(handle: Handle, number: int) -> None:
    try:
        handle.signal(number)
    except PermissionError:
        logger.error("pid {} may not be signalled: it runs as another user", handle.pid)
