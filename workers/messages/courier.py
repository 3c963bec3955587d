"""The connection of an executor to the dispatcher of its host: a daemon thread that reads it, and finds the next one.

Whoever has something to say writes it at once, in its own thread; only what the socket does not take is left to this
one. So a blocked loop neither loses the connection nor hinders the next, and a quick handler waits for no thread.
"""

import logging
import os
import select
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from socket import AF_UNIX, MSG_NOSIGNAL, SOCK_STREAM
from socket import socket as Socket  # bound before an application can patch it
from time import monotonic, sleep
from typing import Any, Protocol

from ...ipc.durable import wire
from ...ipc.durable.model import Outcome, Result
from ...ipc.durable.wire import Enlist, Held, packed, unpacked
from ...ipc.errors import BkdError, DeadlineError, NotConnected, RefusedError
from ...ipc.frames import FrameReader
from ...ipc.quantity import counted
from .hands import Hands
from .outbox import Answer, Outbox, Question
from .run import LOST, Run

CONNECT_LIMIT = 5.0
ENLIST_LIMIT = 30.0
RETRY_FIRST, RETRY_CAP = 0.02, 0.25
PATIENCE = 2.0  # seconds without a dispatcher until that is worth a line
PROGRESS_EVERY = 1.0
STANDSTILL = 1.0  # seconds in which none begins, after which what waits is given back: another executor may have room
READ = 1 << 18
_log = logging.getLogger("bkd")


class Hearer(Protocol):
    """Whoever runs what comes; called in the courier's thread and must not block."""

    def came(self) -> None:
        """More is waiting."""

    def changed(self) -> None:
        """Something was stored, or the dispatcher knows this executor now, or it is to retire."""


class Courier:
    """`introduce` makes the first frame of a connection of what is in hand and whether this executor retires.

    Methods are called in any thread.
    """

    def __init__(
        self, path: str, hands: Hands, introduce: Callable[[list[Held], bool], Enlist], hearer: Hearer
    ) -> None:
        self.retires = self.was_enlisted = False
        self.away_since: float | None = monotonic()
        self._path, self._hands, self._introduce, self._hearer = path, hands, introduce, hearer
        self._outbox = Outbox()
        self._given_back: list[Held] = []
        self._progress: dict[Run, tuple[float, bytes]] = {}
        self._sock: Socket | None = None
        self._unsent = bytearray()
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._reason, self._complained, self._stands = "", False, False

    def begin(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._live, name="bkd-courier", daemon=True).start()

    # -- for the runs

    @property
    def is_heard(self) -> bool:
        """Whether there is a dispatcher that knows this executor."""
        return self._sock is not None

    @property
    def is_settled(self) -> bool:
        """Whether every outcome is stored."""
        with self._lock:
            return self._outbox.is_empty

    def add(self, run: Run, outcome: Outcome | None) -> None:
        """What a run came to, to be said with the next `flush`; None: nothing is to be said."""
        with self._lock:
            self._hands.finish(run)
            if outcome is not None and run.why != LOST:
                self._outbox.add(outcome)
            else:
                self._hands.release([run.key])

    def flush(self, begun: Sequence[Run] = ()) -> None:
        """Say all outcomes there are, and that these runs begin: before their handlers are called."""
        with self._lock:
            data = self._outbox.fresh()
            if begun or self._stands:
                data += packed(wire.Began([run.held for run in begun]))
                self._stands = False
            if data:
                self._send(data)

    def ask(self, question: Question) -> "Future[Any]":
        """The answer, which may take as long as there is no dispatcher; cancel it to give up."""
        with self._lock:
            data, future = self._outbox.ask(question)
            self._send(data)
        return future

    def progress(self, run: Run, body: bytes) -> None:
        """A word of a run, now or as soon as its last one is old enough; only the last one counts."""
        with self._lock:
            wait = run.may_tell(monotonic(), PROGRESS_EVERY)
            if wait:
                self._progress[run] = monotonic() + wait, body
            else:
                self._progress.pop(run, None)
                self._send(packed(wire.ProgressMade(*run.key, body)))
        if wait:
            os.eventfd_write(self._wake, 1)

    def retire(self) -> None:
        """Nothing more is wanted; what waits here is given back."""
        self.retires = True
        given = self._hands.give_back()
        with self._lock:
            self._given_back += given
            self._say_retiring()
        self._hearer.changed()

    # -- out, under the lock

    def _say_retiring(self) -> None:
        if self._sock is not None:
            given, self._given_back = self._given_back, []
            self._send(packed(wire.Retiring(given)))

    def _send(self, data: bytes) -> None:
        """What is said while nobody is there is said again in time, or not worth it."""
        if self._sock is None:
            return
        if not self._unsent:
            data = data[self._sent(data) :]
        if data:
            self._unsent += data
            os.eventfd_write(self._wake, 1)

    def _sent(self, data: bytes | bytearray) -> int:
        """How much of it the socket took. Its end is seen by the thread that reads it."""
        assert self._sock is not None
        try:
            return self._sock.send(data, MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._reason = error.strerror or str(error)
            return len(data)

    # -- the thread

    def _live(self) -> None:
        delay = RETRY_FIRST
        while True:
            try:
                with Socket(AF_UNIX, SOCK_STREAM) as sock:
                    self._serve(sock)
            except (OSError, BkdError) as error:
                self._reason = getattr(error, "strerror", None) or str(error)
            except Exception:  # noqa: BLE001 - the connection must not end by a fault of its own
                _log.exception("the connection to the dispatcher failed")
            if self._leave():
                delay = RETRY_FIRST
            self._pause(delay)
            delay = min(RETRY_CAP, delay * 2)

    def _leave(self) -> bool:
        """Whether this executor was known to the dispatcher that is gone now."""
        with self._lock:
            was_there, self._sock = self._sock is not None, None
            self._unsent.clear()
        if was_there:
            self.away_since = monotonic()
        return was_there

    def _pause(self, delay: float) -> None:
        away = 0.0 if self.away_since is None else monotonic() - self.away_since
        if away > PATIENCE and not self._complained:
            _log.warning("%s: no dispatcher for %.1f s: %s", self._path, away, self._reason)
            self._complained = True
        sleep(delay)

    def _serve(self, sock: Socket) -> None:
        """One connection, until it breaks."""
        sock.settimeout(CONNECT_LIMIT)
        sock.connect(self._path)
        with self._lock:
            holds, self._given_back = self._hands.leases(), []
        sock.sendall(packed(self._introduce(holds, self.retires)))
        sock.setblocking(False)
        reader, poll = FrameReader(), select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        deadline, waits = monotonic() + ENLIST_LIMIT, False
        while True:
            limit = deadline if self._sock is None else self._next_moment()
            happened = poll.poll(None if limit is None else max(0.0, limit - monotonic()) * 1000 + 1)
            if self._sock is None and monotonic() > deadline:
                raise DeadlineError(f"the dispatcher did not answer in {ENLIST_LIMIT:g} s")
            for descriptor, event in happened:
                if descriptor == self._wake:
                    os.eventfd_read(self._wake)
                elif event & ~select.POLLOUT:
                    self._read(sock, reader)
            self._tell_progress()
            self._give_back()
            if self._send_rest() is not waits:
                waits = not waits
                poll.modify(sock, select.POLLIN | select.POLLOUT if waits else select.POLLIN)

    def _read(self, sock: Socket, reader: FrameReader) -> None:
        data = sock.recv(READ)
        if not data:
            raise NotConnected("the dispatcher closed the connection")
        for payload in reader.feed(data):
            self._obey(sock, unpacked(payload))

    def _send_rest(self) -> bool:
        """Whether something is left."""
        with self._lock:
            if self._unsent and self._sock is not None:
                del self._unsent[: self._sent(self._unsent)]
            return bool(self._unsent)

    def _next_moment(self) -> float | None:
        with self._lock:
            moments = [due for due, _ in self._progress.values()]
        if (stale := self._hands.stale_at(STANDSTILL)) is not None:
            moments.append(stale)
        return min(moments, default=None)

    def _give_back(self) -> None:
        """What waits for a place, once none has become free for a while."""
        stale = self._hands.stale_at(STANDSTILL)
        if self._sock is None or stale is None or monotonic() < stale:
            return
        with self._lock:
            if given := self._hands.give_back():
                self._stands = True
                self._send(packed(wire.GivenBack(given)))

    def _tell_progress(self) -> None:
        now = monotonic()
        with self._lock:
            for run in [run for run, (due, _) in self._progress.items() if due <= now or run.is_over]:
                _, body = self._progress.pop(run)
                if not run.is_over:
                    run.may_tell(now, 0.0)
                    self._send(packed(wire.ProgressMade(*run.key, body)))

    def _obey(self, sock: Socket, frame: wire.AnyFrame) -> None:
        match frame:
            case wire.Run():
                self._take(frame)
            case wire.Stored():
                self._stored(frame)
            case wire.StageKept() | wire.LockAnswered() | wire.PayloadPart():
                self._answer(frame)
            case wire.Cancel():
                self._cancel(frame)
            case wire.Enlisted():
                self._enlisted(sock, frame)
            case wire.Refusal():
                raise RefusedError(frame.reason)
            case _:
                _log.error("the dispatcher said %s, which no executor understands", type(frame).__name__)

    def _take(self, frame: wire.Run) -> None:
        strange = self._hands.take(frame.tasks)
        if strange:
            came = counted(len(strange), "message that came is", "messages that came are")
            _log.error("%s given back: there is no handler here", came)
            for held in strange:
                self._report(Outcome(held.id, held.fence, Result.INTERRUPTED, code="no handler"))
        if self.retires:
            self.retire()
        else:
            self._hearer.came()

    def _report(self, outcome: Outcome) -> None:
        with self._lock:
            self._outbox.add(outcome)
            self._send(self._outbox.fresh())

    def _stored(self, frame: wire.Stored) -> None:
        with self._lock:
            self._hands.release(self._outbox.stored(frame.number))
        for held in frame.stale:
            _log.warning("message %d: its outcome came too late and changed nothing: it was lost meanwhile", held.id)
        self._hearer.changed()

    def _answer(self, frame: Answer) -> None:
        with self._lock:
            future = self._outbox.answered(frame)
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(frame)

    def _cancel(self, frame: wire.Cancel) -> None:
        run = self._hands.held.get((frame.id, frame.fence))
        if run is None or run.is_over:
            return  # its outcome is on the way
        run.cancel(frame.why)
        if self._hands.withdraw(run):
            self.add(run, run.ended())
            self.flush()

    def _enlisted(self, sock: Socket, frame: wire.Enlisted) -> None:
        """What was said before is said again, now that somebody listens."""
        self._lose(frame.lost)
        self._hands.stirred = monotonic()
        with self._lock:
            self._sock, self.away_since, self._stands = sock, None, False
            data = self._outbox.again()
            if running := self._hands.running():
                data += packed(wire.Began([run.held for run in running]))
            self._send(data)
            if self.retires:
                self._say_retiring()
        self.was_enlisted, self._complained = True, False
        self._hearer.changed()
        self._hearer.came()

    def _lose(self, lost: Iterable[Held]) -> None:
        """They are somebody else's by now: what runs is cancelled, and nothing is said of any of them."""
        for held in lost:
            key = held.id, held.fence
            run = self._hands.held.get(key)
            if run is not None and not self._hands.withdraw(run) and not run.is_over:
                _log.warning("message %d: it was lost to another executor while this one runs it; cancelled", held.id)
                run.cancel(LOST)
                continue
            with self._lock:
                self._outbox.forget(key)
            self._hands.release([key])
