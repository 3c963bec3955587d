"""The heartbeat of a worker: a daemon thread that owns the connection to the master.

It proves two things apart: that the process runs (the ping came), and that its main loop turns (`lag`). It goes on
while the master is away and finds the next one by itself.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Callable
from time import monotonic, process_time, sleep  # bound before an application can patch them
from typing import TYPE_CHECKING

from setproctitle import setproctitle

from ..ipc import application, message
from ..ipc.errors import BkdError, DeadlineError, NotConnected
from ..ipc.link import Link
from ..ipc.processes import redirect, start_time
from ..ipc.stacks import OpenWork
from . import stacks
from .footprint import Footprint
from .lateness import Lateness
from .orphan import Orphan
from .sources import Sources
from .supervision import Load
from .trace import LONGEST_TRACE

if TYPE_CHECKING:
    from .shell import Shell

CONNECT_LIMIT = 5.0
QUICK_BOOT = 0.03
LAST_WORD = 0.5  # seconds in which the master is to take a word of a process that was told to end,
OWN_WORD = 3.0  # and of one that ends by itself: without that word it is judged wrongly
JOIN_LIMIT = 0.5
RETRY_FIRST, RETRY_CAP = 0.05, 2.0
BRIEF = 0.01
FASTEST, SLOWEST = 0.05, 60.0
_log = logging.getLogger("bkd")


class Pulse:
    """Implements `Supervision` for the work and `Face` for the application."""

    def __init__(self, path: str, load: message.Load, order: message.Fork, dumps: int) -> None:
        self.slot = order.slot
        self.path, self._load, self._order, self._dumps = path, load, order, dumps
        self.begun = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._period, self._lag_warn = load.ping, load.lag_warn
        self._orphan = Orphan.of(load.work, load.orphan_timeout)
        self._sources = Sources() if load.watch else None
        self._shell: Shell | None = None
        self._title = f"bkd: {load.app} {order.slot} r{load.release}"
        self._lateness: Lateness | None = None
        self._measure: Callable[[], Load] = Load
        self._open: Callable[[], list[OpenWork]] = list
        self._ready = self._draining = self._beats = False
        self._ready_by, self._epoch = 0.0, 0
        self._told_ready, self._told_failed = threading.Event(), threading.Event()
        self._terminated, self._told_terminated = False, threading.Event()
        self._worn = ""
        self._boot_error = self._boot_trace = ""
        self._quiet = order.quiet
        self._on_serve: Callable[[], None] | None = None
        self._drain: message.Drain | None = None
        self._on_drain: Callable[[message.Drain], None] | None = None
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._footprint = Footprint()

    def begin(self) -> None:
        """Start the thread."""
        if self._sources is not None:
            self._sources.skip()
        self._retitle("starting")
        threading.Thread(target=self._run, name="bkd-pulse", daemon=True).start()

    # -- for the work, called in the main thread

    def watch(
        self,
        loop: asyncio.AbstractEventLoop | None,
        load: Callable[[], Load],
        work: Callable[[], list[OpenWork]] = list,
    ) -> None:
        """Measure this loop's lag from now on, if there is one."""
        self._measure, self._open = load, work
        if loop is not None:
            with self._lock:
                self._lateness = Lateness(loop, stacks.of_main_thread, period=self._period, warn=self._lag_warn)
        self.loop = loop
        self.begun.set()
        application.ipc.begin()
        if self._beats:
            os.eventfd_write(self._wake, 1)

    def ready(self) -> None:
        """The work is being done from now on."""
        self._ready_by = monotonic() + JOIN_LIMIT
        self._ready = True
        self.begun.set()
        application.ipc.begin()
        self._retitle("ready")
        os.eventfd_write(self._wake, 1)

    def joined(self) -> None:
        """Events of the application are heard from now on; called in any thread."""
        os.eventfd_write(self._wake, 1)

    def failed(self, reason: str, trace: str = "") -> None:
        """The work cannot be done; the process will end."""
        self._boot_error, self._boot_trace = reason, trace[-LONGEST_TRACE:]
        os.eventfd_write(self._wake, 1)

    def terminated(self) -> None:
        """SIGTERM came, of which the master may know nothing. Called in a signal handler, too."""
        self._terminated = True
        os.eventfd_write(self._wake, 1)

    def worn(self, why: str) -> None:
        """A fresh process had better take the place of this one. Called in any thread."""
        self._worn = why
        os.eventfd_write(self._wake, 1)

    def on_serve(self, callback: Callable[[], None]) -> bool:
        """Whether work is not to be taken yet; if so, call back when it may be."""
        with self._lock:
            self._on_serve = callback if self._quiet else None
            return self._quiet

    def on_drain(self, callback: Callable[[message.Drain], None]) -> None:
        """Call back when asked to drain, at once if that has happened already."""
        with self._lock:
            self._on_drain, drain = callback, self._drain
        if drain is not None:
            callback(drain)

    def finish(self) -> None:
        """The work is over: a worker that was ready for a moment only was ready all the same."""
        limit = LAST_WORD if self._terminated else OWN_WORD
        if self._ready:
            self._ready_by = 0.0
            os.eventfd_write(self._wake, 1)
            self._told_ready.wait(limit)
        if self._boot_error:
            self._told_failed.wait(limit)
        if self._terminated:
            self._told_terminated.wait(LAST_WORD)

    # -- the thread

    def _run(self) -> None:
        delay, alone_since = RETRY_FIRST, None
        self._let_boot()
        while True:
            try:
                link = self._connect(self._patience(alone_since, CONNECT_LIMIT))
                delay, alone_since = RETRY_FIRST, None
                self._serve(link)
            except BkdError as error:
                if not isinstance(error, NotConnected | DeadlineError):
                    _log.error("%s: the master does not take this worker: %s", self.slot, error)
            except Exception:  # noqa: BLE001 - the heartbeat must not end by a fault of its own
                _log.exception("%s: the heartbeat failed", self.slot)
            if self._shell is not None:
                self._shell.close()
            alone_since = self._alone(alone_since)
            sleep(self._patience(alone_since, delay))
            delay = min(RETRY_CAP, delay * 2)

    def _let_boot(self) -> None:
        """A quick boot has the interpreter to itself: connecting meanwhile would delay the first answer by 2-3 ms."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.poll(QUICK_BOOT * 1000)
        self._beats = True

    def _connect(self, limit: float) -> Link:
        hello = message.Hello(
            role="worker",
            token=self._order.token,
            pid=os.getpid(),
            start=start_time(os.getpid()),
            ready=self._told_ready.is_set(),
            draining=self._draining,
            dumps=self._dumps,
        )
        link, welcome = Link.connect(self.path, hello, timeout=limit, epoch=self._epoch)
        self._epoch = welcome.epoch
        return link

    def _serve(self, link: Link) -> None:
        """Ping and obey on one connection until it breaks."""
        poll = select.poll()
        poll.register(link.sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        beat = woke = monotonic()
        worn = ""
        if self._sources is not None:
            self._sources.again()
        if self._lateness is not None:
            self._lateness.again(beat)
        with contextlib.closing(link):
            self._obey(link, link.waiting())
            while True:
                self._tell_state(link)
                self._tell_printed(link)
                now = monotonic()
                self._tell_late(link, now, woke)
                beat = min(beat, now + self._period)
                if now >= beat or worn != self._worn:
                    worn = self._worn
                    link.send(self._ping(now))
                    self._tell_imported(link)
                    beat = now + self._period
                    if self._shell is not None:
                        self._shell.expire()
                happened = poll.poll(max(0.0, self._next(beat, now) - now) * 1000 + 1)
                woke = monotonic()
                for fd, _event in happened:
                    if fd == self._wake:
                        os.eventfd_read(self._wake)
                    else:
                        self._obey(link, link.pending())

    def _next(self, beat: float, now: float) -> float:
        """When there is something to be told, if nothing happens before."""
        look = beat if self._lateness is None else self._lateness.due
        waits = self._ready and not self._told_ready.is_set()
        return min(beat, look, max(self._ready_by, now)) if waits else min(beat, look)

    def _tell_state(self, link: Link) -> None:
        """No event is missed by a worker that is ready: who listens has joined, or was given time to."""
        joined = application.ipc.is_joined or monotonic() >= self._ready_by
        if self._ready and joined and not self._told_ready.is_set():
            link.send(message.Ready())
            self._told_ready.set()
            self._footprint.measure(monotonic())
            self._footprint.measure(monotonic())
        if self._terminated and not self._told_terminated.is_set():
            link.send(message.Terminated())
            self._told_terminated.set()
        if self._boot_error and not self._told_failed.is_set():
            link.send(message.BootFailed(self._boot_error, self._boot_trace))
            self._told_failed.set()

    def _tell_late(self, link: Link, now: float, woke: float) -> None:
        if self._lateness is not None and now >= self._lateness.due:
            late = self._lateness.look(now, woke=woke)
            if late is not None:
                link.send(late)

    def _tell_stacks(self, link: Link, number: int) -> None:
        """Without an answer the master has other ways: whatever goes wrong here must not end the connection."""
        try:
            answer = message.Dumped(number, stacks.take(self.loop, self._open()))
        except Exception:  # noqa: BLE001 - the application changes all of it meanwhile
            _log.exception("%s: its stacks could not be taken", self.slot)
        else:
            link.send(answer)

    def _tell_imported(self, link: Link) -> None:
        files = self._sources.new() if self._sources is not None else []
        if files:
            link.send(message.Imported(files))

    def _tell_printed(self, link: Link) -> None:
        """A piece at a time: however much code of the shell prints, the heartbeat goes on in between."""
        result = self._shell.next() if self._shell is not None else None
        if result is not None:
            link.send(result)
            self._ask()

    def _run_in_shell(self, order: message.ShellRun) -> None:
        if self._shell is None:
            from .shell import Shell

            self._shell = Shell(self, self._load, self._ask)
        self._shell.order(order)

    def _ask(self) -> None:
        """Called in any thread: there is something to be told."""
        os.eventfd_write(self._wake, 1)

    def _ping(self, now: float) -> message.Ping:
        in_flight, oldest, served = self._measure()
        lateness = self._lateness
        if self._told_ready.is_set():
            self._footprint.measure(now)
        return message.Ping(
            lag=None if lateness is None else round(lateness.lag(now), 4),
            in_flight=in_flight,
            oldest=round(oldest, 3),
            rss=int(os.pread(self._statm, 64, 0).split()[1]) * self._page,
            cpu=round(process_time(), 3),
            served=served,
            pss=self._footprint.pss,
            late=0 if lateness is None else lateness.late,
            behind=0.0 if lateness is None else round(lateness.behind(now), 4),
            worn=self._worn,
        )

    def _obey(self, link: Link, envelopes: list[message.Envelope]) -> None:
        """Events of the application come on a connection of its own."""
        for envelope in envelopes:
            match envelope.op:
                case message.Drain.op:
                    self._asked_to_drain(message.body(envelope, message.Drain))
                case message.Serve.op:
                    self._asked_to_serve()
                case message.Reopen.op:
                    redirect(self._order.log)
                case message.Pace.op:
                    self._pace(message.body(envelope, message.Pace))
                case message.Dump.op:
                    self._tell_stacks(link, message.body(envelope, message.Dump).number)
                case message.ShellRun.op:
                    self._run_in_shell(message.body(envelope, message.ShellRun))
                case _:
                    _log.error("%s: the master sent an order that no worker knows: %s", self.slot, envelope.op[:80])

    def _pace(self, pace: message.Pace) -> None:
        with self._lock:
            self._period, self._lag_warn = min(SLOWEST, max(FASTEST, pace.period)), pace.lag_warn
            if self._lateness is not None:
                self._lateness.pace(self._period, self._lag_warn)

    def _asked_to_serve(self) -> None:
        with self._lock:
            self._quiet, callback, self._on_serve = False, self._on_serve, None
        if callback is not None:
            callback()

    def _asked_to_drain(self, drain: message.Drain) -> None:
        with self._lock:
            if self._drain is not None:
                return
            self._drain, callback = drain, self._on_drain
        self._draining = True
        self._retitle("draining")
        application.ipc.ask_to_stop()
        if callback is not None:
            callback(drain)

    def _alone(self, since: float | None) -> float | None:
        """Since when there has been no master, and no keeper to start one; what an orphan does by now is done."""
        if os.getppid() == self._load.keeper:
            return None
        now = monotonic()
        since = now if since is None else since
        if now - since >= self._orphan.drain:
            self._asked_to_drain(message.Drain(last=True))
        if now - since >= self._orphan.term:
            os.kill(os.getpid(), signal.SIGKILL if now - since >= self._orphan.kill else signal.SIGTERM)
        return since

    def _patience(self, alone_since: float | None, seconds: float) -> float:
        """How long may be waited: an orphan has limits to keep."""
        if alone_since is None:
            return seconds
        return max(BRIEF, min(seconds, self._orphan.wait(monotonic() - alone_since)))

    def _retitle(self, state: str) -> None:
        setproctitle(f"{self._title} {state}")
