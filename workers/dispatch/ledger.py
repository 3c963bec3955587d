"""What is to be written in the coming turns, and who waits for word of it. Plain state, in the order it came."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from typing import NamedTuple, TypeVar

from ...ipc.durable.model import NewMessage, Receipt, Settlement
from ...ipc.durable.wire import Held
from ..store.protocol import Lock, Stage

T = TypeVar("T")

MOST_SETTLED = 1000
MOST_ASKED = 1000
MOST_PUT = 2000


class Report(NamedTuple):
    """Settlements that are answered together: `stored` is called with those of them that came too late, once these of
    earlier reports are written, too, whose outcomes were said again (`repeated`)."""

    settlements: Sequence[Settlement]
    stored: Callable[[list[Held]], None] | None = None
    repeated: Set[Held] = frozenset()

    def waiting(self, refused: Set[Held]) -> "Report | None":
        """What of it is not written when these leases are refused; None: all of it is."""
        settlements = [one for one in self.settlements if Held(one.id, one.fence) in refused]
        repeated = self.repeated & refused
        return Report(settlements, self.stored, repeated) if settlements or repeated else None


class StageToKeep(NamedTuple):
    """`kept` is called with whether the lease was still there."""

    stage: Stage
    kept: Callable[[bool], None]


class LockToGive(NamedTuple):
    """`answered` is called with whether it was granted."""

    lock: Lock
    answered: Callable[[bool], None]


class Put(NamedTuple):
    """Messages that are stored all or none; `done` is called with their receipts, or with why none is stored. `since`:
    when it came, by the monotonic clock."""

    messages: Sequence[NewMessage]
    done: Callable[[list[Receipt], str], None]
    since: float


class Batch(NamedTuple):
    """What one turn writes."""

    reports: list[Report]
    stages: list[StageToKeep]
    locks: list[LockToGive]
    began: list[Held]
    progress: list[tuple[Held, bytes]]

    @property
    def settlements(self) -> list[Settlement]:
        """Of all reports."""
        return [settlement for report in self.reports for settlement in report.settlements]


class Ledger:
    """Collects, hands out batches, and takes back what could not be written. What the store has refused to write is
    kept apart, so that it holds up nothing but what belongs to the same leases (`refused`)."""

    def __init__(self) -> None:
        self._reports: deque[Report] = deque()
        self._stages: deque[StageToKeep] = deque()
        self._locks: deque[LockToGive] = deque()
        self._began: deque[Held] = deque()
        self._progress: dict[Held, bytes] = {}
        self._puts: deque[Put] = deque()
        self._refused_reports: list[Report] = []
        self._refused_stages: list[StageToKeep] = []
        self.refused: set[Held] = set()

    def __bool__(self) -> bool:
        """Something waits for the next turn."""
        return bool(self._reports or self._stages or self._locks or self._began or self._progress or self._puts)

    @property
    def owes(self) -> bool:
        """Whether outcomes or new messages wait to be written: what must not be lost."""
        return bool(self._reports or self._stages or self._puts)

    @property
    def settling(self) -> set[tuple[int, int]]:
        """Leases with a settlement that waits to be written."""
        reports = [*self._reports, *self._refused_reports]
        return {(one.id, one.fence) for report in reports for one in report.settlements}

    def report(self, report: Report) -> None:
        """To be settled."""
        self._reports.append(report)

    def stage(self, stage: StageToKeep) -> None:
        """A stage to be kept."""
        self._stages.append(stage)

    def lock(self, lock: LockToGive) -> None:
        """A lock that is asked for."""
        self._locks.append(lock)

    def began(self, held: Held) -> None:
        """A run that has begun."""
        self._began.append(held)

    def progress(self, held: Held, word: bytes) -> None:
        """The newest word of each run counts."""
        self._progress[held] = word

    def put(self, put: Put) -> None:
        """Messages to be stored."""
        self._puts.append(put)

    def take(self) -> Batch:
        """The next turn's; whole reports, until they hold MOST_SETTLED settlements."""
        reports = _taken(self._reports, MOST_SETTLED, lambda report: len(report.settlements))
        if self.refused:
            reports = self._unhindered(reports)
        progress = list(self._progress.items())
        self._progress.clear()
        return Batch(
            reports,
            _taken(self._stages, MOST_ASKED),
            _taken(self._locks, MOST_ASKED),
            _taken(self._began, MOST_ASKED),
            progress,
        )

    def refuse(self, reports: Iterable[Report], stages: Iterable[StageToKeep] = ()) -> None:
        """The store would not write these."""
        reports, stages = list(reports), list(stages)
        self._refused_reports += reports
        self._refused_stages += stages
        for report in reports:
            self.refused |= {Held(one.id, one.fence) for one in report.settlements}
        self.refused |= {Held(asked.stage.id, asked.stage.fence) for asked in stages}

    def take_refused(self) -> Batch:
        """All of it, to be tried once more."""
        batch = Batch(self._refused_reports, self._refused_stages, [], [], [])
        self._refused_reports, self._refused_stages, self.refused = [], [], set()
        return batch

    def take_puts(self) -> list[Put]:
        """Whole ones, until they hold MOST_PUT messages."""
        return _taken(self._puts, MOST_PUT, lambda put: len(put.messages))

    def put_back(self, batch: Batch) -> None:
        """It was not written; or perhaps it was, and will be known as a repetition."""
        self._reports.extendleft(reversed(batch.reports))
        self._stages.extendleft(reversed(batch.stages))
        self._locks.extendleft(reversed(batch.locks))
        self._began.extendleft(reversed(batch.began))
        self._progress = dict(batch.progress) | self._progress

    def put_back_puts(self, puts: Iterable[Put]) -> None:
        """They were not stored; or perhaps they were, and their guids tell."""
        self._puts.extendleft(reversed(list(puts)))

    def overdue_puts(self, since: float) -> list[Put]:
        """Those that have waited from before this moment; they are not stored any more."""
        late = [put for put in self._puts if put.since < since]
        if late:
            self._puts = deque(put for put in self._puts if put.since >= since)
        return late

    def _unhindered(self, reports: list[Report]) -> list[Report]:
        """Those that need not wait for what was refused before."""
        refused = frozenset(self.refused)
        self.refuse(report for report in reports if report.waiting(refused))
        return [report for report in reports if not report.waiting(refused)]


def _taken(queue: deque[T], most: int, weight: Callable[[T], int] = lambda _: 1) -> list[T]:
    taken: list[T] = []
    total = 0
    while queue and total < most:
        taken.append(queue.popleft())
        total += weight(taken[-1])
    return taken
