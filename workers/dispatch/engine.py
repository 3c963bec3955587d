"""Connects executors and the store: hands out what was claimed, and settles what executors say.

Runs in the loop of the dispatcher. Nothing here waits for the store but `enlist`: what is to be written goes into the
ledger, and what comes of it back to whoever asked.
"""

import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Set
from functools import partial

from msgspec.structs import replace

from ...ipc.durable.model import Counters, Outcome, Result, Settlement, State, Task
from ...ipc.durable.policy import KindPolicy
from ...ipc.durable.wire import (
    FRAME_GOAL,
    Began,
    Cancel,
    Enlist,
    Enlisted,
    GivenBack,
    Held,
    LockAnswered,
    LockAsked,
    Outcomes,
    ProgressMade,
    Retiring,
    StageDone,
    StageKept,
    Stored,
)
from ...ipc.durable.wire import Run as RunFrame
from ...ipc.errors import FrameError
from ..store.protocol import Leased, Lock, Stage, Store
from .access import Access
from .alarms import Alarms
from .deaths import Deaths
from .ledger import Ledger, LockToGive, Report, StageToKeep
from .limits import NOTED
from .roster import Executor, Link, Roster, Run
from .settle import settle
from .settler import Settler, task_of
from .timekeeper import Timekeeper
from .turnkeeper import Turnkeeper
from .waiters import Waiters

logger = logging.getLogger("bkd.dispatch")

DONE = (Result.OK, Result.PARTIAL, Result.CANCELLED)


class Engine:
    """One per dispatcher. `host`: the name of this node."""

    keeper: Turnkeeper
    deaths: Deaths

    def __init__(
        self,
        access: Access,
        roster: Roster,
        ledger: Ledger,
        settler: Settler,
        times: Timekeeper,
        waiters: Waiters,
        alarms: Alarms,
        host: str,
    ) -> None:
        self._host = host
        self._access, self._roster, self._ledger, self._settler = access, roster, ledger, settler
        self._times, self._waiters, self._alarms = times, waiters, alarms
        self._declared: dict[str, KindPolicy] = {}

    # -- what the store has done

    def claimed(self, tasks: list[Task]) -> None:
        """Hand them out; whom they were claimed for may have left meanwhile."""
        parts: defaultdict[int, list[Task]] = defaultdict(list)
        back: list[Task] = []
        for task in tasks:
            executor = self._roster.hand(task)
            if executor is None:
                back.append(task)
                continue
            parts[executor.holder].append(task)
            alarm = executor.policy(task.kind).alarm
            if task.counters.runs == alarm + 1:
                text = f"message {task.id} ({task.kind}) has been run more than {alarm} times"
                self._alarms.tell("loop", text, about=task.kind)
        for holder, mine in parts.items():
            self._send(self._roster.executors[holder], mine)
        self._settler.give_back(back)

    def settled(self, report: Report, stale: list[Held]) -> None:
        """A report is in the store."""
        if report.stored is not None:
            report.stored(stale)
        for settlement in report.settlements:
            is_dead = settlement.state is State.DEAD_LETTER
            if (is_dead or self._waiters) and Held(settlement.id, settlement.fence) not in stale:
                self._waiters.settled(settlement)
                if is_dead:
                    self._tell_dead(settlement)

    # -- executors come and go

    async def enlist(self, said: Enlist, link: Link, is_open: Callable[[], bool]) -> Executor | None:
        """An executor is there, or there again; None: it has left meanwhile. Raises StoreError."""
        executor = self._roster.find(said.pid, said.start)
        holder = executor.holder if executor is not None else 0
        kinds = self._roster.kinds() | {policy.name: policy for policy in said.kinds}
        if executor is None or kinds != self._declared:
            holder = await self._access.insist(partial(self._write_enlisted, said, kinds))
            self._declared = kinds
            executor = self._roster.find(said.pid, said.start)
        if not is_open() or (executor is not None and executor.dead):
            return None
        if executor is None:
            executor = Executor(holder, said, self._host)
            self._roster.add(executor)
            self.deaths.watch(executor)
        self._join(executor, said, link)
        return executor

    def left(self, executor: Executor, link: Link) -> None:
        """The connection is gone; the process may live, and come back."""
        if executor.link is link:
            executor.link = None
        self.deaths.changed()

    def adopt(self, said: Enlist, leases: Iterable[Leased]) -> None:
        """An executor of before this dispatcher, which has not enlisted here yet, and what it holds as the store has
        it."""
        now, steady = self._access.clock.now(), self._access.clock.steady
        leases = list(leases)
        executor = Executor(leases[0].holder, said, self._host)
        for lease in leases:
            run = executor.take(task_of(lease), quick=False)
            if lease.began:
                run.noted = True
                executor.begin(run.held, steady - max(now - lease.leased, 0) / 1000)
        self._roster.add(executor)
        self.deaths.watch(executor)
        self._times.plan(steady)

    async def fenced(self) -> None:
        """This node was taken for dead, its leases are others', and it has a new number: executors let go of what they
        run, and get numbers again."""
        executors = list(self._roster.executors.values())
        for executor in executors:
            for run in executor.lose():
                if executor.link is not None:
                    executor.link.send(Cancel(run.task.id, run.task.fence, "lost"))
        for executor in executors:
            said = Enlist(executor.slot, executor.group, executor.pid, executor.start, executor.mode, 1, [])
            holder = await self._access.run(partial(self._write_enlisted, said, self._roster.kinds()))
            self._roster.renumber(executor, holder)

    async def declare(self) -> None:
        """What this host has handlers for, when that has become less. Raises StoreAway, StoreError."""
        kinds = self._roster.kinds()
        if kinds != self._declared:
            await self._access.run(
                lambda store, now: store.declare(self.keeper.node, list(kinds.values()), now),
            )
            self._declared = kinds

    def _write_enlisted(self, said: Enlist, kinds: dict[str, KindPolicy], store: Store, now: int) -> int:
        """Runs in the store's thread."""
        store.declare(self.keeper.node, list(kinds.values()), now)
        return store.enlist(self.keeper.node, said.slot, said.pid, said.start, now)

    def _join(self, executor: Executor, said: Enlist, link: Link) -> None:
        old, executor.link = executor.link, link
        if old is not None:
            old.close()
        executor.hear(said)
        lost = [held for held in said.holds if not executor.has(held)]
        link.send(Enlisted(executor.holder, lost))
        holds = set(said.holds)
        self._take_back(executor, [run for run in executor.runs.values() if run.held not in holds])
        for run in executor.runs.values():
            if run.why:
                link.send(Cancel(run.task.id, run.task.fence, run.why))
        self.keeper.ring()

    # -- what they say

    def outcomes(self, executor: Executor, link: Link, said: Outcomes) -> None:
        """What runs came to. What was said before and still waits to be written is not settled twice."""
        now, settling = self._access.clock.now(), executor.settling
        foreign = [held for held in map(_held, said.outcomes) if self._is_foreign(executor, held)]
        fresh = [outcome for outcome in said.outcomes if settling.get(outcome.id) != outcome.fence]
        if foreign:
            logger.error("%s speaks of leases that it does not hold: %s", executor.slot, foreign[:10])
            fresh = [outcome for outcome in fresh if _held(outcome) not in foreign]
        repeated: Set[Held] = frozenset()
        if len(fresh) < len(said.outcomes):
            repeated = set(map(_held, said.outcomes)) - set(map(_held, fresh))
        settlements = [self._settlement(executor, outcome, now) for outcome in fresh]
        stored = partial(_say_stored, executor, link, said.number, settlements, foreign)
        self._ledger.report(Report(settlements, stored, repeated))
        executor.stands = False
        self.keeper.nudge()

    def began(self, executor: Executor, said: Began) -> None:
        """From now on deaths and time limits are theirs."""
        now, soonest = self._access.clock.steady, NOTED
        for held in said.holds:
            if (run := executor.begin(held, now)) is not None:
                soonest = min(soonest, executor.policy(run.task.kind).timeout or soonest)
        self._times.plan(now + soonest)
        if executor.stands:
            executor.stands = False
            self.keeper.ring()

    def stage_done(self, executor: Executor, link: Link, said: StageDone) -> None:
        """Kept in the next turn. It counts at once: should the process die now, both are written in that turn."""
        run = executor.run_of(said.id, said.fence)
        if run is None:
            link.send(StageKept(said.id, said.fence, said.stage, False))
            return
        run.stage = max(run.stage, said.stage + 1)
        stage = Stage(said.id, said.fence, said.stage, said.output)
        self._ledger.stage(StageToKeep(stage, partial(_say_kept, link, said)))
        self.keeper.nudge()

    def lock_asked(self, executor: Executor, link: Link, said: LockAsked) -> None:
        """Answered after the next turn."""
        if executor.run_of(said.id, said.fence) is None:
            link.send(LockAnswered(said.id, said.fence, said.key, False))
            return
        self._ledger.lock(LockToGive(Lock(said.id, said.fence, said.key), partial(_say_granted, link, said)))
        self.keeper.nudge()

    def progress(self, executor: Executor, said: ProgressMade) -> None:
        """Written with the next turn."""
        if executor.run_of(said.id, said.fence) is not None:
            self._ledger.progress(Held(said.id, said.fence), said.progress)
            self.keeper.nudge()

    def retiring(self, executor: Executor, said: Retiring) -> None:
        """It gets nothing more, and gives these back."""
        executor.draining = True
        self._unbegun(executor, said.unbegun)

    def given_back(self, executor: Executor, said: GivenBack) -> None:
        """It gets nothing more until something moves there."""
        executor.stands = True
        self._unbegun(executor, said.unbegun)

    # -- inside

    def _is_foreign(self, executor: Executor, held: Held) -> bool:
        return not executor.has(held) and self._roster.is_held_by_another(executor, held)

    def _settlement(self, executor: Executor, outcome: Outcome, now: int) -> Settlement:
        executor.settling[outcome.id] = outcome.fence
        run = self._roster.finish(executor, outcome)
        if run is None:
            return _late(outcome, now, executor)
        task = run.now_task()
        if run.why == "cancelled" and outcome.result not in DONE:
            outcome = replace(outcome, result=Result.CANCELLED)
        return settle(task, outcome, executor.policy(task.kind), now, random.random(), executor.runner)

    def _unbegun(self, executor: Executor, leases: list[Held]) -> None:
        runs = [executor.run_of(held.id, held.fence) for held in leases]
        self._take_back(executor, [run for run in runs if run is not None])

    def _take_back(self, executor: Executor, runs: list[Run]) -> None:
        for run in runs:
            executor.drop(run)
        self._settler.give_back(run.now_task() for run in runs)

    def _send(self, executor: Executor, tasks: list[Task]) -> None:
        if executor.link is None:
            return
        for part in _parts(tasks):
            try:
                executor.link.send(RunFrame(part))
            except FrameError as error:
                self._settler.settle([self._too_large(executor, task, str(error)) for task in part])

    def _too_large(self, executor: Executor, task: Task, why: str) -> Settlement:
        text = f"its arguments and the outputs of its stages do not fit into one frame: {why}"
        outcome = Outcome(task.id, task.fence, Result.INVALID, task.stage, code="too-large", text=text)
        self._roster.finish(executor, outcome)
        return settle(task, outcome, executor.policy(task.kind), self._access.clock.now(), 0.0)

    def _tell_dead(self, settlement: Settlement) -> None:
        attempt = settlement.attempt
        why = f": {attempt.text or attempt.code}" if attempt and (attempt.text or attempt.code) else ""
        text = f"message {settlement.id} is a dead letter, {settlement.reason}{why}"
        self._alarms.tell("dead-letter", text[:500], about=settlement.reason)


def _late(outcome: Outcome, now: int, executor: Executor) -> Settlement:
    """Of a lease that this executor does not hold: recorded, and changes nothing."""
    task = Task(outcome.id, outcome.fence, "", b"", Counters(), "")
    return replace(settle(task, outcome, executor.policy(""), now, 0.0, executor.runner), late=True)


def _parts(tasks: list[Task]) -> Iterator[list[Task]]:
    """As many at once as fit into a frame of about FRAME_GOAL."""
    part: list[Task] = []
    size = 0
    for task in tasks:
        weight = len(task.args) + sum(map(len, task.outputs)) + 200
        if part and size + weight > FRAME_GOAL:
            yield part
            part, size = [], 0
        part.append(task)
        size += weight
    if part:
        yield part


def _held(outcome: Outcome) -> Held:
    return Held(outcome.id, outcome.fence)


def _say_stored(
    executor: Executor,
    link: Link,
    number: int,
    settlements: list[Settlement],
    foreign: list[Held],
    stale: list[Held],
) -> None:
    for settlement in settlements:
        if executor.settling.get(settlement.id) == settlement.fence:
            del executor.settling[settlement.id]
    link.send(Stored(number, [*foreign, *stale]))


def _say_kept(link: Link, said: StageDone, kept: bool) -> None:
    link.send(StageKept(said.id, said.fence, said.stage, kept))


def _say_granted(link: Link, said: LockAsked, granted: bool) -> None:
    link.send(LockAnswered(said.id, said.fence, said.key, granted))
