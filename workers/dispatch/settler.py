"""Settles what no executor reports: runs that never began, and those whose process or host is gone."""

import random
from collections.abc import Iterable

from ...ipc.durable.model import Fault, Outcome, Result, Settlement, Task
from ...ipc.durable.policy import KindPolicy
from ...ipc.durable.wire import Held
from ..store.protocol import Leased
from .burial import Death, buried
from .clock import Clock
from .ledger import Ledger, Report
from .roster import Executor, Roster, Run
from .settle import Runner, settle, unbegun
from .turnkeeper import Turnkeeper


class Settler:
    """`policies`: of every kind that was ever declared, for kinds whose executor has not said them."""

    keeper: Turnkeeper

    def __init__(self, roster: Roster, ledger: Ledger, clock: Clock) -> None:
        self.policies: dict[str, KindPolicy] = {}
        self._roster, self._ledger, self._clock = roster, ledger, clock

    def give_back(self, tasks: Iterable[Task]) -> None:
        """They never began."""
        now = self._clock.now()
        self.settle([unbegun(task, now) for task in tasks])

    def settle(self, settlements: list[Settlement]) -> None:
        """To be written in the next turn."""
        if settlements:
            self._ledger.report(Report(settlements))
            self.keeper.nudge()

    def bury(self, executor: Executor, death: Death) -> None:
        """An executor is dead: settle exactly what it held."""
        self._roster.remove(executor)
        now = self._clock.now()
        lost = buried(executor, death, now)
        self.settle([self._after(executor, run.now_task(), outcome, now) for run, outcome in lost])

    def orphaned(self, leases: Iterable[Leased]) -> None:
        """Leases of hosts that are gone. A begin is noted only after a while, so that each may have been a run: else a
        message that takes its host down at once would be run for ever."""
        self.settle([self._orphan(lease, self._clock.now()) for lease in leases])

    def reconcile(self, leases: Iterable[Leased]) -> None:
        """After the store was away: leases of this node that nobody here knows are those of a claim whose answer was
        lost. After this host was taken for dead: what executors were told to let go of is to begin again."""
        known = {(run.task.id, run.task.fence) for _, run in self._roster.holding()}
        known |= {pair for executor in self._roster.executors.values() for pair in executor.settling.items()}
        known |= self._ledger.settling
        lost, now = self._roster.lost(), self._clock.now()
        unknown = [lease for lease in leases if (lease.id, lease.fence) not in known]
        self.settle([self._let_go(lease, lost.get(Held(lease.id, lease.fence)), now) for lease in unknown])

    def _after(self, executor: Executor, task: Task, outcome: Outcome | None, now: int) -> Settlement:
        if outcome is None:
            return unbegun(task, now)
        policy = executor.policies.get(task.kind) or self._policy(task.kind)
        return settle(task, outcome, policy, now, random.random(), executor.runner)

    def _let_go(self, lease: Leased, run: Run | None, now: int) -> Settlement:
        task = task_of(lease)
        if run is None or not run.began:
            return unbegun(task, now)
        text = "its host was taken for dead, and it was told to end"
        outcome = Outcome(lease.id, lease.fence, Result.INTERRUPTED, run.stage, lease.leased, now, text=text)
        runner = Runner(f"{lease.slot}@{lease.node.partition('/')[0]}", lease.pid)
        return settle(task, outcome, self._policy(lease.kind), now, 0.0, runner)

    def _orphan(self, lease: Leased, now: int) -> Settlement:
        task = task_of(lease)
        host = lease.node.partition("/")[0]
        started, text = lease.leased, f"its host {host} was not heard of any more"
        if not lease.began:
            started, text = 0, f"{text}; whether it had begun is not known"
        outcome = Outcome(
            lease.id, lease.fence, Result.LOST, lease.stage, started, now, b"", Fault.LOST, "worker_lost", text
        )
        runner = Runner(f"{lease.slot}@{host}", lease.pid)
        return settle(task, outcome, self._policy(lease.kind), now, random.random(), runner)

    def _policy(self, kind: str) -> KindPolicy:
        return self.policies.get(kind) or KindPolicy(kind)


def task_of(lease: Leased) -> Task:
    """As much of the task as is needed to settle it."""
    return Task(
        id=lease.id,
        fence=lease.fence,
        kind=lease.kind,
        args=b"",
        counters=lease.counters,
        guid="",
        stage=lease.stage,
        leased=lease.leased,
        max_attempts=lease.max_attempts,
        notify=lease.notify,
        holder=lease.holder,
    )
