"""One message in a store in memory, with all that belongs to it."""

from dataclasses import dataclass, field

from msgspec.structs import replace

from ...ipc.durable.model import ENDS, Attempt, Counters, NewMessage, Notice, Receipt, Settlement, State, Task
from .deadlines import late_word
from .matching import args_match
from .memorynodes import Nodes
from .protocol import Deed, Filter, Leased, Row, Story

NEVER_RUN = Counters()


@dataclass
class Lease:
    """A run, as long as it holds its message."""

    node: int
    holder: int
    leased: int
    began: bool = False
    cancelling: bool = False
    progress: bytes = b""


@dataclass
class Item:
    """A message. `lease` is there while it runs; `watched`: somebody has to look at its deadline."""

    id: int
    guid: str
    message: NewMessage
    created: int
    due: int
    watched: bool
    state: State = State.QUEUED
    counters: Counters = NEVER_RUN
    fence: int = 0
    stage: int = 0
    reason: str = ""
    finished: int = 0
    result: bytes = b""
    lease: Lease | None = None
    outputs: dict[int, bytes] = field(default_factory=dict)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    deeds: list[Deed] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in ENDS

    @property
    def waits(self) -> bool:
        """It neither runs nor has ended."""
        return self.lease is None and not self.ended

    def may_run(self, now: int) -> bool:
        return self.waits and self.state is not State.BLOCKED and self.due <= now

    def claim(self, node: int, holder: int, now: int) -> Task:
        """It runs: the fence grows, the run counts."""
        old = self.counters
        self.counters = Counters(old.runs + 1, old.attempts + 1, old.crashes, old.locks, old.polls, old.auths)
        self.fence += 1
        self.state, self.reason = State.RUNNING, ""
        self.lease = Lease(node, holder, now)
        message, routing = self.message, self.message.routing
        return Task(
            self.id, self.fence, message.kind, message.args, self.counters, self.guid, self.stage, self.bodies(),
            message.priority, self.created, self.due, now, message.deadline, message.key, message.max_attempts,
            message.notify, len(message.payload), routing.tracking_id, routing.parent_id, routing.sender, holder,
        )  # fmt: skip

    def settle(self, one: Settlement, now: int) -> None:
        """A run has come to this. What an operator has cancelled does not run again."""
        if self.lease and self.lease.cancelling and one.state not in ENDS:
            one = replace(one, state=State.CANCELLED, reason="")
        self.lease = None
        self.state, self.counters, self.reason = one.state, one.counters, one.reason
        self.stage = max(self.stage, one.stage)
        if one.attempt is not None:
            self.attempts[one.fence] = one.attempt
        if self.ended:
            self.finished, self.result = now, one.result
        elif one.due:
            self.due = one.due

    def tell_late(self, attempt: Attempt, now: int) -> None:
        """A run ends whose lease is no more; what says that of a lease that never was is not kept."""
        if 0 < attempt.fence <= self.fence - (self.lease is not None):
            there = self.attempts.get(attempt.fence, attempt)
            self.attempts[attempt.fence] = replace(there, late=late_word(attempt, now))

    def end(self, state: State, reason: str, now: int) -> None:
        """It ends without running."""
        self.state, self.reason, self.finished = state, reason, now

    def revive(self, now: int) -> None:
        """It is queued again; the fence goes on."""
        self.state, self.reason, self.finished, self.result = State.QUEUED, "", 0, b""
        self.counters, self.due, self.watched = Counters(self.counters.runs), now, False

    def bodies(self) -> list[bytes]:
        """Outputs of the stages that are finished, in their order."""
        return [body for _, body in sorted(self.outputs.items())]

    def found(self) -> Receipt:
        """The receipt of somebody who wanted to store it, or one like it, again."""
        return Receipt(self.id, self.guid, created=False, state=self.state)

    def matches(self, filter: Filter, now: int) -> bool:
        """Whether it is one of those."""
        last = self.attempts[max(self.attempts)] if self.attempts else None
        return all(
            (
                not (filter.ids or filter.guids) or self.id in filter.ids or self.guid in filter.guids,
                not filter.states or self.state in filter.states,
                not filter.kinds or self.message.kind in filter.kinds,
                not filter.fault or (last is not None and last.fault == filter.fault),
                not filter.reason or self.reason == filter.reason,
                not filter.older or self.created <= now - filter.older,
                not filter.newer or self.created >= now - filter.newer,
                self.counters.runs > filter.runs_over,
                not filter.where or args_match(self.message.args, filter.where),
            )
        )

    def row(self, nodes: Nodes) -> Row:
        """As operators see it."""
        lease = self.lease or Lease(0, 0, 0)
        last = self.attempts[max(self.attempts)] if self.attempts else None
        message, routing = self.message, self.message.routing
        return Row(
            self.id, self.guid, message.kind, self.state, self.stage, message.priority, self.created, self.due,
            self.counters, message.max_attempts, message.args, message.key, message.unique, self.reason, self.finished,
            self.result, nodes.worker(lease.holder),
            nodes.executor(lease.holder).pid, lease.leased, lease.progress, len(message.payload), message.deadline,
            routing.tracking_id, routing.parent_id, routing.sender, message.notify, lease.cancelling,
            last.fault if last else "", last.text if last else "",
        )  # fmt: skip

    def leased(self, nodes: Nodes) -> Leased:
        """Its lease, for whoever has to settle it."""
        assert self.lease is not None
        lease, message = self.lease, self.message
        executor = nodes.executor(lease.holder)
        return Leased(
            self.id, self.fence, message.kind, lease.holder, executor.slot, executor.pid, executor.start,
            nodes.name(lease.node), self.counters, self.stage, message.max_attempts, lease.leased, lease.began,
            message.notify,
        )  # fmt: skip

    def story(self, row: Row, locks: list[str]) -> Story:
        """All about it."""
        attempts = [self.attempts[fence] for fence in sorted(self.attempts)]
        notices = [f"{notice.to}: {notice.subject}" for notice in self.notices]
        return Story(row, attempts, list(self.deeds), self.bodies(), notices, locks)
