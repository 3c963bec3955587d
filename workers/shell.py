"""The shell of a worker: what an operator types runs in the live process, and what it prints goes back.

The heartbeat thread, in which everything here is called, only hands statements over and collects what they print.
"""

import asyncio
import builtins
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import reduce
from time import monotonic
from typing import Any, Protocol

from ..ipc.application import ipc
from ..ipc.message import Load, ShellResult, ShellRun, WebWork
from .printed import Streams
from .statement import Session, Statement

MOST_SESSIONS = 4
KEPT = 3600.0
FULL = f"bkd: this worker has {MOST_SESSIONS} shells already, or code that one of them left behind still runs\n"
FORGOTTEN = "bkd: this shell was not used for an hour, and its names are gone; nothing was run\n"
BUSY = "bkd: the statement before still runs\n"
_log = logging.getLogger("bkd")


class Host(Protocol):
    """The worker: name of its slot, and its main loop if it has one."""

    slot: str
    loop: asyncio.AbstractEventLoop | None


class Seat:
    """One session in this worker. `used`: when something happened in it; `left`: nobody waits for it any more."""

    def __init__(self, now: float) -> None:
        self.session = Session({"__name__": "__bkd__", "__builtins__": builtins}, asyncio.Runner())
        self.statement: Statement | None = None
        self.used, self.left = now, False

    def leave(self) -> None:
        """Whoever opened it has gone: what runs is interrupted."""
        self.left = True
        if self.statement is not None:
            self.statement.interrupt()

    def next(self, name: str, now: float) -> ShellResult | None:
        """Something to be told, if there is anything; the last of a statement makes room for the next one."""
        if self.statement is None or self.left:
            return None
        result = self.statement.next(name)
        if result is not None and result.done:
            self.statement, self.used = None, now
        return result

    def is_over(self, now: float) -> bool:
        """Whether it may be forgotten."""
        if self.left:
            return self.statement is None or self.statement.done
        return self.statement is None and now - self.used > KEPT


class Shell:
    """All sessions of this worker, MOST_SESSIONS at most. `wake`: makes the heartbeat thread ask for `next` result."""

    def __init__(
        self, host: Host, load: Load, wake: Callable[[], None], *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._host, self._load, self._wake, self._clock = host, load, wake, clock
        self._seats: dict[str, Seat] = {}
        self._refusals: deque[ShellResult] = deque()
        self._streams = Streams()

    def order(self, order: ShellRun) -> None:
        """Run a statement, interrupt one, or end a session; does not wait for any code."""
        seat = self._seats.get(order.session)
        if order.interrupt:
            if seat is not None and seat.statement is not None:
                seat.statement.interrupt()
        elif order.number == 0:
            if seat is not None:
                seat.leave()
        else:
            self._run(seat, order)

    def next(self) -> ShellResult | None:
        """Something to be sent to the master, if there is anything."""
        if self._refusals:
            return self._refusals.popleft()
        results = (seat.next(name, self._clock()) for name, seat in self._seats.items())
        return next((result for result in results if result is not None), None)

    def expire(self) -> None:
        """Called with every heartbeat: forget the sessions nobody uses."""
        now = self._clock()
        for name in [name for name, seat in self._seats.items() if seat.is_over(now)]:
            runner = self._seats.pop(name).session.runner
            try:
                threading.Thread(target=runner.close, name="bkd-shell", daemon=True).start()
            except RuntimeError as error:
                _log.error("the loop of a shell stays open: %s", error)

    def close(self) -> None:
        """The master that every session belongs to is gone."""
        self._refusals.clear()
        for seat in self._seats.values():
            seat.leave()
        self.expire()

    def _run(self, seat: Seat | None, order: ShellRun) -> None:
        self.expire()
        if seat is not None and seat.statement is None:
            self._begin(seat, order, order.source)
        elif seat is not None:
            self._refuse(order, BUSY)
        elif len(self._seats) >= MOST_SESSIONS:
            self._refuse(order, FULL)
        else:
            seat = self._seats[order.session] = Seat(self._clock())
            self._begin(seat, order, lambda: self._furnish(seat.session.names))

    def _begin(self, seat: Seat, order: ShellRun, source: str | Callable[[], str]) -> None:
        self._streams.enter()
        statement = Statement(order.number, seat.session, wake=self._wake, ended=self._streams.leave)
        if order.number > 1 and not isinstance(source, str):
            statement.printed.write(FORGOTTEN, error=True)
            statement.failed = True
        try:
            statement.begin(source, self._host.loop)
        except RuntimeError as error:
            self._streams.leave()
            self._refuse(order, f"bkd: {error}\n")
            return
        seat.statement = statement
        self._wake()

    def _furnish(self, names: dict[str, Any]) -> str:
        """Called in the thread of the first statement: what is at hand, and the source of a line that says so."""
        names["ipc"] = ipc
        app = self._app()
        if app is not None:
            names["app"] = app
        hand = ", ".join(name for name in names if not name.startswith("__"))
        names["exit"] = names["quit"] = sys.exit  # those of the interpreter close standard input as well
        version = sys.version.partition(" ")[0]
        line = f"Python {version} in {self._host.slot} (pid {os.getpid()}); at hand: {hand}"
        return f"print({line!r})"

    def _app(self) -> Any:
        """The object that a web group's `app` names; what a factory made has no name."""
        if not isinstance(self._load.work, WebWork):
            return None
        module, _, path = self._load.work.app.partition(":")
        return reduce(lambda found, name: getattr(found, name, None), path.split("."), sys.modules.get(module))

    def _refuse(self, order: ShellRun, why: str) -> None:
        self._refusals.append(ShellResult(order.session, order.number, err=why, done=True, failed=True))
        self._wake()
