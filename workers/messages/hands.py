"""What this executor has in hand: messages that wait here, that run, and whose outcome is not known to be stored."""

from collections import deque
from collections.abc import Iterable, Mapping
from time import monotonic

from ...ipc.durable.model import Task
from ...ipc.durable.wire import Held
from ...ipc.stacks import OpenWork
from ..supervision import Load
from .declaration import Declaration
from .run import Key, Run


class Hands:
    """Used in several threads at once: each step is one that the interpreter does not divide. A run is in `held` from
    its arrival until its outcome is stored, so that whoever looks finds it wherever it stands in between."""

    def __init__(self, declarations: Mapping[str, Declaration]) -> None:
        self.held: dict[Key, Run] = {}
        self.waiting: deque[Run] = deque()
        self.finished = 0
        self.stirred = monotonic()
        self._declarations = declarations

    def take(self, tasks: Iterable[Task]) -> list[Held]:
        """They wait here now; those that nothing here can run are returned. One that is held already stays as it is."""
        strange = []
        if not self.waiting:
            self.stirred = monotonic()
        for task in tasks:
            declaration = self._declarations.get(task.kind)
            if declaration is None:
                strange.append(Held(task.id, task.fence))
                continue
            run = Run(task, declaration)
            if self.held.setdefault(run.key, run) is run:
                self.waiting.append(run)
        return strange

    def next(self) -> Run | None:
        """The next one, which begins now."""
        try:
            run = self.waiting.popleft()
        except IndexError:
            return None
        run.began = self.stirred = monotonic()
        return run

    def stale_at(self, patience: float) -> float | None:
        """When what waits here will have seen none begin for so many seconds; None: nothing waits."""
        return self.stirred + patience if self.waiting else None

    def withdraw(self, run: Run) -> bool:
        """Whether it was still waiting, and does so no more."""
        try:
            self.waiting.remove(run)
        except ValueError:
            return False
        return True

    def give_back(self) -> list[Held]:
        """Everything that waits, which is not in hand any more."""
        given: list[Held] = []
        while True:
            try:
                run = self.waiting.popleft()
            except IndexError:
                return given
            self.held.pop(run.key, None)
            given.append(run.held)

    def finish(self, run: Run) -> None:
        """It has ended; it is held until its outcome is stored."""
        run.is_over = True
        run.stop = None
        self.finished += 1

    def release(self, keys: Iterable[Key]) -> None:
        """They are nobody's concern here any more."""
        for key in keys:
            self.held.pop(key, None)

    def running(self) -> list[Run]:
        """Those that have begun and not ended."""
        return [run for run in list(self.held.values()) if run.began and not run.is_over]

    def leases(self) -> list[Held]:
        """All that is in hand."""
        return [Held(*key) for key in list(self.held)]

    def load(self) -> Load:
        """For the heartbeat."""
        running = self.running()
        oldest = monotonic() - min((run.began for run in running), default=monotonic())
        return Load(len(running), max(0.0, oldest), self.finished)

    def open_work(self) -> list[OpenWork]:
        """What runs, oldest first."""
        now = monotonic()
        running = sorted(self.running(), key=lambda run: run.began)
        return [OpenWork(run.name, now - run.began) for run in running]
