"""Which executors there are, what each holds, and for how much more there is room. Plain state.

Who calls says the time, in seconds of the monotonic clock. An executor holds at most `credit` runs, and ahead of these
a few of quick kinds, as much as it does in READ_AHEAD seconds: what is read ahead waits behind whatever runs there.
"""

from collections.abc import Iterable
from typing import Protocol

from msgspec.structs import replace

from ...ipc.durable.model import Outcome, Task
from ...ipc.durable.policy import KindPolicy
from ...ipc.durable.wire import Enlist, Frame, Held
from .settle import Runner

READ_AHEAD = 0.2
MOST_AHEAD = 400
QUICK = 0.05  # seconds: kinds that take longer on average are never read ahead
BRISK = 0.0002  # nothing is believed to be quicker
MOST_CREDIT = 10_000
WEIGHT = 0.2  # of the newest run in the average


class Link(Protocol):
    """A connection of an executor, as far as the dispatcher's engine knows it."""

    def send(self, what: Frame) -> None:
        """Say this; nothing happens when it is closed. Raises FrameError when it is too large."""

    def close(self) -> None:
        """Close it after what was sent has left."""


class Run:
    """A message in the hands of an executor. `began` 0: it has not. `why`: it was told to end, since `told`; `overdue`:
    it did not."""

    __slots__ = ("began", "noted", "overdue", "quick", "stage", "task", "told", "why")

    def __init__(self, task: Task, quick: bool) -> None:
        self.task = task
        self.quick = quick
        self.stage = task.stage
        self.began = self.told = 0.0
        self.why = ""
        self.noted = self.overdue = False

    @property
    def held(self) -> Held:
        """Its lease."""
        return Held(self.task.id, self.task.fence)

    def now_task(self) -> Task:
        """The task, with the stage it is in by now."""
        return self.task if self.stage == self.task.stage else replace(self.task, stage=self.stage)


class Executor:
    """A process that runs messages. `link`: its connection while it has one. `settling`: leases whose outcome is not in
    the store yet. `lost`: runs it was told to let go of, since this host was taken for dead. `stands`: nothing begins
    there at the moment. `condemned`: why its end was asked for, last at `asked`."""

    def __init__(self, holder: int, said: Enlist, host: str) -> None:
        self.holder = holder
        self.slot, self.pid, self.start = said.slot, said.pid, said.start
        self.runner = Runner(f"{said.slot}@{host}", said.pid)
        self.runs: dict[int, Run] = {}
        self.begun: dict[int, Run] = {}
        self.settling: dict[int, int] = {}
        self.lost: dict[int, Run] = {}
        self.slow = 0
        self.link: Link | None = None
        self.condemned = ""
        self.asked = 0.0
        self.dead = False
        self.hear(said)

    def hear(self, said: Enlist) -> None:
        """What it says of itself, again after each connection."""
        self.group, self.mode, self.credit = said.group, said.mode, min(max(said.credit, 1), MOST_CREDIT)
        self.policies = {policy.name: policy for policy in said.kinds}
        self.kinds = frozenset(self.policies)
        self.draining, self.stands = said.draining, False

    @property
    def takes(self) -> bool:
        """Whether it may get more."""
        return self.link is not None and not (self.draining or self.stands or self.condemned or self.dead)

    def run_of(self, id: int, fence: int) -> Run | None:
        """The run of this lease, if it is here."""
        run = self.runs.get(id)
        return run if run is not None and run.task.fence == fence else None

    def has(self, held: Held) -> bool:
        """Whether it still answers for this lease: it holds it, or has said its outcome."""
        return self.run_of(held.id, held.fence) is not None or self.settling.get(held.id) == held.fence

    def policy(self, kind: str) -> KindPolicy:
        """As this executor's release has it."""
        return self.policies.get(kind) or KindPolicy(kind)

    def take(self, task: Task, quick: bool) -> Run:
        """It holds this one from now on."""
        run = self.runs[task.id] = Run(task, quick)
        self.slow += not quick
        return run

    def begin(self, held: Held, now: float) -> Run | None:
        """It runs this one; said again after a reconnection, which changes nothing. None: it is not there."""
        run = self.run_of(held.id, held.fence)
        if run is not None and not run.began:
            run.began = now
            self.begun[held.id] = run
        return run

    def lose(self) -> list[Run]:
        """It is to let go of all that it holds; what it says of these runs all the same may come in time."""
        self.lost = dict(self.runs)
        for run in self.lost.values():
            self.drop(run)
        return list(self.lost.values())

    def drop(self, run: Run) -> None:
        """It does not hold this one any more."""
        if self.runs.pop(run.task.id, None) is not None:
            self.begun.pop(run.task.id, None)
            self.slow -= not run.quick

    def lasting(self, now: float) -> int:
        """How many quick runs turn out to be none."""
        found = 0
        for run in self.begun.values():
            if now - run.began < READ_AHEAD:
                break
            found += run.quick
        return found


class Roster:
    """All executors of this host, by their number in the store."""

    def __init__(self) -> None:
        self.executors: dict[int, Executor] = {}
        self.pace: dict[str, float] = {}

    def find(self, pid: int, start: int) -> Executor | None:
        """The executor that is this process."""
        return next((one for one in self.executors.values() if (one.pid, one.start) == (pid, start)), None)

    def add(self, executor: Executor) -> None:
        """It is there."""
        self.executors[executor.holder] = executor

    def remove(self, executor: Executor) -> None:
        """It is gone for good."""
        executor.dead = True
        self.executors.pop(executor.holder, None)

    def renumber(self, executor: Executor, holder: int) -> None:
        """It has another number now."""
        self.executors.pop(executor.holder, None)
        executor.holder = holder
        self.add(executor)

    def hand(self, task: Task) -> Executor | None:
        """Give a claimed task to its holder; None: that one takes nothing any more, it is to be given back."""
        executor = self.executors.get(task.holder)
        if executor is None or not executor.takes:
            return None
        executor.take(task, self.is_quick(task.kind))
        return executor

    def finish(self, executor: Executor, outcome: Outcome) -> Run | None:
        """A run has ended; None when its lease is not this executor's."""
        run = executor.run_of(outcome.id, outcome.fence)
        if run is not None:
            executor.drop(run)
            if outcome.started:
                self._learn(run.task.kind, (outcome.ended - outcome.started) / 1000)
            return run
        lost = executor.lost.get(outcome.id)
        return lost if lost is not None and lost.task.fence == outcome.fence else None

    def is_held_by_another(self, executor: Executor, held: Held) -> bool:
        """This lease is not this executor's to speak of."""
        return any(other.has(held) for other in self.executors.values() if other is not executor)

    def lost(self) -> dict[Held, Run]:
        """All that was let go of when this host was taken for dead."""
        return {run.held: run for one in self.executors.values() for run in one.lost.values()}

    def is_quick(self, kind: str) -> bool:
        """Whether runs of this kind are short, as far as is known."""
        return self.pace.get(kind, READ_AHEAD) <= QUICK

    def kinds(self) -> dict[str, KindPolicy]:
        """What can be run here; who came last has the newest policies."""
        return {name: policy for one in self.executors.values() for name, policy in one.policies.items()}

    def holding(self) -> Iterable[tuple[Executor, Run]]:
        """Every run of every executor."""
        for executor in self.executors.values():
            for run in executor.runs.values():
                yield executor, run

    @property
    def is_idle(self) -> bool:
        """Nobody holds anything."""
        return not any(executor.runs for executor in self.executors.values())

    def room(self, executor: Executor, now: float) -> tuple[int, int]:
        """How many more it may get: of any kind, and altogether."""
        quick = [self.pace[kind] for kind in executor.kinds if self.is_quick(kind)]
        active = executor.credit - executor.slow - executor.lasting(now)
        ahead = min(int(active * READ_AHEAD / max(*quick, BRISK)), MOST_AHEAD) if quick and active > 0 else 0
        altogether = max(executor.credit + ahead - len(executor.runs), 0)
        return min(max(executor.credit - executor.slow, 0), altogether), altogether

    def _learn(self, kind: str, seconds: float) -> None:
        known = self.pace.get(kind)
        self.pace[kind] = seconds if known is None else known + WEIGHT * (seconds - known)
