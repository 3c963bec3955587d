"""What one program says of itself (sd_notify(3)), and its own watchdog. Runs in the master's loop.

A program speaks for its slot from any process of its tree: a descendant of its first process, or one with the slot's
mark in its environment. `STOPPING` and `RELOADING` are shown and decide nothing: how an end is taken depends on how it
comes.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable

from loguru import logger

from ..ipc.processes import start_time
from . import events, procfs
from .context import Context
from .notify import NotifySocket
from .ownwords import LONGEST
from .registry import Process, Registry

LONGEST_STATUS = 200
LATE = 0.5  # seconds: whoever looks that much too late has stood still himself, and judges nobody
REAPED = 0.3  # seconds in which the keeper tells how a process ended, if it is its parent
VITALS_PAUSE = 0.1
MOST_ERRORS = 4096
LONGEST_NUMBER = 18


class Voice:
    """One program's, for as long as its process lives. `notified`: it has said READY=1; `deadline`: when its start is
    overdue (monotonic); `gone`: told the pid of a process that the keeper is not the parent of."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        process: Process,
        bound: list[socket.socket],
        gone: Callable[[int], None],
    ) -> None:
        self.context, self.registry, self.process, self._gone = context, registry, process, gone
        self.notified = asyncio.Event()
        self.deadline = time.monotonic() + process.settings.start_timeout
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fed = self._vital = 0.0
        self._watched = -1
        self.path = str(bound[0].getsockname())
        self.socket = NotifySocket(*bound, allowed=self._may_speak, on_message=self._heard)

    def begin(self) -> None:
        """The pid is known: listen."""
        self.socket.hear()
        self._feed()

    def close(self) -> None:
        """Its process has ended; what it said last still counts."""
        self.socket.hear_rest()
        self.socket.close()
        self._unwatch()
        self._stop_timer()

    def _may_speak(self, pid: int) -> bool:
        """Who has ended meanwhile cannot be asked any more, and had the path."""
        return procfs.descends(pid, self.process.pid) is not False or self._is_marked(pid)

    def _is_marked(self, pid: int) -> bool:
        return procfs.environ(pid, b"BKD_TREE") == self.process.tree.encode()

    def _heard(self, _sender: int, said: dict[str, str]) -> None:
        process = self.process
        if "MAINPID" in said:
            self._follow(said["MAINPID"])
        for word in ("RELOADING", "STOPPING"):
            if said.get(word) == "1":
                process.doing = word.lower()
        if said.get("READY") == "1":
            process.doing = ""
            self.notified.set()
        if "STATUS" in said:
            process.status_text = _printable(said["STATUS"])[:LONGEST_STATUS]
        if (error := _number(said.get("ERRNO"))) is not None and error < MOST_ERRORS:
            process.words = f"it said ERRNO={error}: {os.strerror(error)}\n"
        self._hear_times(said)

    def _hear_times(self, said: dict[str, str]) -> None:
        more = _seconds(said.get("EXTEND_TIMEOUT_USEC"))
        if more:
            self.deadline = max(self.deadline, time.monotonic() + min(more, LONGEST))
            self.context.post(events.Extended(self.process.worker, more))
        limit = _seconds(said.get("WATCHDOG_USEC"))
        if limit is not None:
            self.process.watchdog = limit
            self._stop_timer()
            self._feed()
        if said.get("WATCHDOG") == "trigger":
            self.context.post(events.Tripped(self.process.worker))
        elif said.get("WATCHDOG") == "1":
            self.process.watchdog = self.process.watchdog or self.context.config.ping.kill
            self._feed()
            self._tell_vitals()

    # -- the watchdog

    def _feed(self) -> None:
        """Begins with the first sign of life: who never gives one is never missed."""
        self._fed = time.monotonic()
        if self._timer is None and self.process.watchdog:
            self._timer = self._loop.call_at(self._fed + self.process.watchdog, self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        due, self._timer = self._fed + self.process.watchdog, None
        late = time.monotonic() > due + LATE
        self.socket.hear_rest()
        now = time.monotonic()
        if not self.process.watchdog or self.process.doing == "stopping":
            return
        if self._timer is None and (late or now < self._fed + self.process.watchdog):
            self._fed = now if late else self._fed
        elif self._timer is None:
            self.context.post(events.Tripped(self.process.worker, round(now - self._fed, 3)))
            self._fed = now
        if self._timer is None:
            self._timer = self._loop.call_at(self._fed + self.process.watchdog, self._look)

    def _tell_vitals(self) -> None:
        now = time.monotonic()
        facts = procfs.read(self.process.pid) if now >= self._vital + VITALS_PAUSE else None
        if facts is not None and facts.start == self.process.start:
            self._vital = now
            self.context.post(events.Pinged(self.process.worker, rss=facts.rss, cpu=facts.cpu))

    # -- another first process

    def _follow(self, text: str) -> None:
        """It has handed over to another process of its tree, as programs do that go into the background."""
        process, pid = self.process, _number(text) or 0
        if pid == process.pid:
            return
        start = start_time(pid) if pid > 1 else 0
        if not start or not (procfs.descends(pid, process.pid) or self._is_marked(pid)):
            logger.warning("{} said MAINPID={}, which is no process of its own", process.slot, _printable(text))
            return
        self._unwatch()
        self.registry.move(process, pid, start)
        self.context.post(events.Spawned(process.worker, pid, start))
        if process.handle is not None:
            self._watched = process.handle.pidfd
            self._loop.add_reader(self._watched, self._ended, pid)

    def _ended(self, pid: int) -> None:
        """Its parent may be another process than the keeper, which then tells nothing."""
        self._unwatch()
        self._loop.call_later(REAPED, self._gone, pid)

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self._loop.remove_reader(self._watched)
            self._watched = -1


def _seconds(usec: str | None) -> float | None:
    """None when it is no number of microseconds."""
    number = _number(usec)
    return None if number is None else number / 1e6


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER else None


def _printable(text: str) -> str:
    return "".join(filter(str.isprintable, text))
