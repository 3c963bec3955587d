"""The processes of one spawn, and how to end all of them.

Rules of this module, which runs in the master:

- a signal goes through a pidfd whose process had the expected start time, never to a number;
- the keeper is the subreaper of everything, so each process of a spawn is below the spawn's first process, or below an
  orphan that the keeper inherited;
- an orphan belongs to the spawn that `BKD_TREE` in its environment names. One that has no such variable belongs to the
  spawn whose session or process group it is in;
- what left the session *and* dropped the variable *and* lost its parent before anybody looked cannot be found.
"""

import asyncio
import os
import select
import time
from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from signal import SIGKILL, SIGSTOP, pidfd_send_signal

from . import procfs
from .procfs import ProcessFacts

MARKER = "BKD_TREE"
MOST_AT_ONCE = 256
TURN_SECONDS = 0.002
FREEZE_SECONDS = 1.0  # whoever stands still sooner is not waited for
SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.05
QUIET_PASSES = 2
RUNNABLE = "RS"


class Handle:
    """One process, held by a pidfd: a signal reaches this process or nobody, whatever becomes of its pid.

    `start` is its start time in clock ticks. `pidfd` turns readable when the process ends.
    """

    __slots__ = ("pid", "pidfd", "start")

    def __init__(self, pid: int, start: int, pidfd: int) -> None:
        self.pid = pid
        self.start = start
        self.pidfd = pidfd

    @classmethod
    def open(cls, pid: int, start: int) -> "Handle | None":
        """None when `pid` is not, or no longer, the process that started then. Raises OSError without descriptors."""
        held = _hold(pid)
        if held is None:
            return None
        handle, facts = held
        if facts.start == start:
            return handle
        handle.close()
        return None

    def alive(self) -> bool:
        """Whether any thread of it still runs: a zombie is not alive, a program whose main thread ended is."""
        if self.pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def signal(self, signal: int) -> bool:
        """False when the process has ended. Raises PermissionError when it belongs to another user."""
        if not self.alive():
            return False
        try:
            pidfd_send_signal(self.pidfd, signal)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Let go of it; from now on it counts as ended. May be called twice."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def members(root: Handle | None, keeper_pid: int, marker: str, known: AbstractSet[int]) -> list[Handle]:
    """All living processes of a spawn (at most MOST_AT_ONCE), `root` first; the caller closes the handles.

    `known` are the processes of other spawns (with or without `root`); they are never members. Takes about 30 µs for
    each process looked at.
    """
    return [handle for handle in _Members(root, keeper_pid, marker, known).search() if handle is not None]


def marked(marks: Collection[str]) -> list[tuple[str, Handle]]:
    """Every living process of this machine that was executed with one of these marks in its environment, whatever its
    parent; the caller closes the handles. Takes about 30 µs for each process there is.

    Not found: who may not be asked, and state D, of which the environment cannot be read without waiting.
    """
    wanted = {mark.encode(): mark for mark in marks}
    found = []
    for pid in procfs.everybody() if wanted else ():
        held = _hold(pid)
        if held is None:
            continue
        handle, facts = held
        named = procfs.environ(pid, MARKER.encode()) if facts.state not in "DZ" and pid != os.getpid() else None
        if named in wanted and handle.alive():
            found.append((wanted[named], handle))
        else:
            handle.close()
    return found


async def kill_tree(
    root: Handle | None,
    keeper_pid: int,
    marker: str,
    known: AbstractSet[int],
    *,
    deadline: float,
    signal: int = SIGKILL,
) -> list[int]:
    """Send `signal` once to each process of a spawn until none is left; gives the pids alive at `deadline` (monotonic).

    `known` is read at each pass and may change meanwhile. Before SIGKILL the processes are stopped, so that none
    forks out of sight between being seen and being killed; when this is cancelled, those are killed all the same.
    A survivor is in state D, ignores the signal, or belongs to a user whom bkd may not signal.
    """
    hunt = _Hunt(_Members(root, keeper_pid, marker, known), signal)
    try:
        if signal == SIGKILL:
            await hunt.freeze(min(deadline, time.monotonic() + FREEZE_SECONDS))
        await hunt.end(deadline)
        return hunt.survivors()
    finally:
        hunt.close()


class _Members:
    """The processes of one spawn as far as they were found: once a member, a process stays one until it ends."""

    def __init__(self, root: Handle | None, keeper_pid: int, marker: str, known: AbstractSet[int]) -> None:
        self.handles: dict[int, Handle] = {}
        self.undecided = 0
        self._root = root
        self._keeper_pid = keeper_pid
        self._marker = marker.encode()
        self._known = known

    def search(self) -> Iterator[Handle | None]:
        """Look once, in steps well below a millisecond: gives each new member, and None for a step without one.

        Ends early when MOST_AT_ONCE are held, so that a fork storm does not use up the descriptors. `undecided` counts
        the orphans that cannot be asked in this pass.
        """
        self.undecided = 0
        self._forget_ended()
        yield None
        yield self._take_root()
        for pid in procfs.children(self._keeper_pid):
            yield self._take(pid, self._keeper_pid)
        parents = list(self.handles.values())
        for parent in parents:
            if self.full():
                return
            for pid in procfs.children(parent.pid):
                child = self._take(pid, parent.pid, parent)
                if child is not None:
                    parents.append(child)
                yield child

    def full(self) -> bool:
        """Whether there may be more than can be held."""
        return len(self.handles) >= MOST_AT_ONCE

    def living(self) -> list[Handle]:
        """Those found and not yet ended."""
        return [handle for handle in self.handles.values() if handle.alive()]

    def any_alive(self) -> bool:
        """Whether one of those found has not ended."""
        return any(handle.alive() for handle in self.handles.values())

    def _forget_ended(self) -> None:
        for pid, handle in list(self.handles.items()):
            if not handle.alive():
                handle.close()
                del self.handles[pid]

    def _take_root(self) -> Handle | None:
        root = self._root
        if root is None or root.pid in self.handles:
            return None
        handle = Handle.open(root.pid, root.start)
        return None if handle is None else self._admit(handle, handle.alive())

    def _take(self, pid: int, ppid: int, parent: Handle | None = None) -> Handle | None:
        """`pid` if it is a child of the member `parent`, or an orphan that belongs here, and not yet held."""
        if self.full() or pid in self.handles or pid in self._known or pid in (os.getpid(), self._keeper_pid):
            return None
        held = _hold(pid)
        if held is None:
            return None
        handle, facts = held
        belongs = facts.ppid == ppid and (self._is_ours(facts) if parent is None else parent.alive())
        return self._admit(handle, belongs and handle.alive())  # asked last: the facts are then those of this process

    def _admit(self, handle: Handle, belongs: bool) -> Handle | None:
        if not belongs:
            handle.close()
            return None
        self.handles[handle.pid] = handle
        return handle

    def _is_ours(self, orphan: ProcessFacts) -> bool:
        """State D may hold the lock that reading its environment would wait for: then the session has to do."""
        if orphan.state == "D":
            return self._in_session(orphan)
        named = procfs.environ(orphan.pid, MARKER.encode())
        if named is not None:
            return named == self._marker
        if orphan.state != "Z" and procfs.executing(orphan.pid):
            self.undecided += 1
            return False
        return self._in_session(orphan)

    def _in_session(self, orphan: ProcessFacts) -> bool:
        """The number of a session is given out anew only when nobody is left in it; then the root's start differs."""
        root = self._root
        if root is None or root.pid not in (orphan.session, orphan.pgrp) or orphan.start < root.start:
            return False
        leader = procfs.read(root.pid)
        return leader is None or leader.start == root.start


class _Hunt:
    """One `kill_tree`: passes over the members until none is left. Lets the loop run every TURN_SECONDS."""

    def __init__(self, members: _Members, signal: int) -> None:
        self._members = members
        self._signal = signal
        self._stopped: set[Handle] = set()
        self._signalled: set[Handle] = set()
        self._turn_began = time.monotonic()

    async def freeze(self, deadline: float) -> None:
        """Stop all and look again until nobody is new and everybody stands still, or until the deadline."""
        while time.monotonic() < deadline:
            await self._look()
            fresh = await self._tell(SIGSTOP, self._stopped)
            if self._members.full() or (not fresh and await self._still()):
                return
            await asyncio.sleep(SHORTEST_PAUSE)

    async def end(self, deadline: float) -> None:
        """Signal whoever is found until nobody is found several times in a row, or until the deadline."""
        pause, quiet = SHORTEST_PAUSE, 0
        while quiet < QUIET_PASSES:
            await self._look()
            fresh = await self._tell(self._signal, self._signalled)
            quiet = 0 if fresh or self._members.undecided or self._members.any_alive() else quiet + 1
            left = deadline - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(pause, left))
            pause = SHORTEST_PAUSE if fresh else min(2 * pause, LONGEST_PAUSE)

    def survivors(self) -> list[int]:
        """Pids of those that did not end."""
        return [handle.pid for handle in self._members.living()]

    def close(self) -> None:
        """Nobody is left stopped: when this comes early, who was stopped is killed."""
        for handle in self._stopped - self._signalled:
            _signal(handle, self._signal)
        for handle in self._members.handles.values():
            handle.close()

    async def _look(self) -> None:
        for _ in self._members.search():
            await self._breathe()

    async def _tell(self, signal: int, done: set[Handle]) -> bool:
        """Send it to all who did not have it yet; whether there were any."""
        fresh = [handle for handle in self._members.living() if handle not in done]
        for handle in fresh:
            done.add(handle)
            _signal(handle, signal)
            await self._breathe()
        return bool(fresh)

    async def _still(self) -> bool:
        for handle in self._members.living():
            facts = procfs.read(handle.pid)
            if facts is not None and facts.state in RUNNABLE:
                return False
            await self._breathe()
        return True

    async def _breathe(self) -> None:
        if time.monotonic() - self._turn_began > TURN_SECONDS:
            await asyncio.sleep(0)
            self._turn_began = time.monotonic()


def _signal(handle: Handle, signal: int) -> None:
    try:
        handle.signal(signal)
    except PermissionError:
        return  # another user's process: it shows up among the survivors


def _hold(pid: int) -> tuple[Handle, ProcessFacts] | None:
    """The facts are those of the held process only if that is still alive afterwards, or has the expected start."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    facts = None
    try:
        facts = procfs.read(pid)
    finally:
        if facts is None:
            os.close(pidfd)
    return None if facts is None else (Handle(pid, facts.start, pidfd), facts)
