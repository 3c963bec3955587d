"""What executors of both modes have in common: when they are ready, when they are done, and what they have in hand."""

import os
from time import monotonic
from typing import NamedTuple

from ...ipc.durable.model import Outcome
from ...ipc.durable.wire import Enlist, Held
from ...ipc.message import Drain
from ..supervision import Supervision
from .courier import Courier
from .declaration import Declaration
from .descriptors import Descriptors
from .hands import Hands
from .journal import STDERR, Journal
from .run import Run

LOOK = 0.2  # seconds between two looks at whether a draining executor is done
LAST_LIMIT = 10.0  # seconds without a dispatcher after which the last ones of a cluster wait for none
FAREWELL = 0.5  # seconds that handlers get after SIGTERM
LAST_WORD = 1.0  # seconds that the dispatcher gets to store what they came to
STRAY = 70  # exit code of a process that a handler has forked and did not end


class Station(NamedTuple):
    """Who this executor is: its slot, pid and start in clock ticks; what it runs, and where the dispatcher is."""

    path: str
    slot: str
    pid: int
    start: int
    mode: str
    credit: int
    declarations: dict[str, Declaration]

    def introduce(self, holds: list[Held], retires: bool) -> Enlist:
        """The first frame of a connection."""
        return Enlist(
            slot=self.slot,
            group=self.slot.rpartition(".")[0],
            pid=self.pid,
            start=self.start,
            mode=self.mode,
            credit=self.credit,
            kinds=[declaration.policy for declaration in self.declarations.values()],
            holds=holds,
            draining=retires,
        )


class Crew:
    """Base of both modes; runs in the worker. `wake` makes the main thread look again."""

    def __init__(self, station: Station, supervision: Supervision, journal: Journal) -> None:
        self.hands = Hands(station.declarations)
        self.courier = Courier(station.path, self.hands, station.introduce, self)
        self.journal = journal
        self.terminated = False
        self._pid = station.pid
        self._supervision = supervision
        self._descriptors = Descriptors()
        self._is_last = self._is_ready = self._is_drained = self._is_worn = False

    def came(self) -> None:
        """Called in the courier's thread."""
        self.wake()

    def changed(self) -> None:
        """Called in the courier's thread, or the heartbeat's."""
        self.wake()

    def wake(self) -> None:
        """Called in any thread."""
        raise NotImplementedError

    def _tell(self, run: Run, outcome: Outcome | None) -> None:
        """A run has come to this. Called in the thread that ran it. A process that its handler has forked and let
        return ends here: it would go on as this executor."""
        if os.getpid() != self._pid:
            os.write(STDERR, f"pid {os.getpid()}: forked by the handler of {run.task.kind} and ended by bkd\n".encode())
            os._exit(STRAY)
        self.courier.add(run, outcome)
        self.journal.ended(run, outcome)
        if not self._is_worn and (why := self._descriptors.scarce()):
            self._wear(why)

    def _wear(self, why: str) -> None:
        """Nothing more would go well here: it goes to others, and a successor takes this one's place."""
        self._is_worn = True
        self.courier.retire()
        self._supervision.worn(why)

    def _begin(self) -> None:
        """Take work, unless this worker is to be quiet at first: then it is ready as it is."""
        if self._supervision.on_serve(self.courier.begin):
            self._be_ready()
        else:
            self.courier.begin()
        self._supervision.on_drain(self._drain)

    def _drain(self, order: Drain) -> None:
        """Called in the heartbeat thread."""
        self._is_last, self._is_drained = order.last, True
        self.courier.retire()

    def _next(self) -> Run | None:
        """The next message, which begins now. None while nobody can be told: should this process die, everything it did
        meanwhile would be done again."""
        return self.hands.next() if self.courier.is_heard else None

    def _look(self) -> None:
        """To be called in the main thread after each `wake`."""
        if self.courier.was_enlisted and not self._is_ready:
            self._be_ready()

    def _be_ready(self) -> None:
        self._is_ready = True
        self._supervision.ready()

    def _is_done(self) -> bool:
        """Whether everything that was begun has ended, and is stored as far as there is anybody to store it."""
        if self.terminated:
            return True
        if not self._is_drained or self.hands.waiting or self.hands.running():
            return False
        return self.courier.is_settled or (self._is_last and self._is_alone())

    def _is_alone(self) -> bool:
        since = self.courier.away_since
        return since is not None and monotonic() - since > LAST_LIMIT
