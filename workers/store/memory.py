"""Durable messages that are not durable: the whole store in memory, plainly. For tests of applications and of bkd; what
the other stores do is compared with it. See protocol.Store for what its methods promise."""

import time
from collections.abc import Iterable, Sequence

import msgspec

from ...ipc.durable.guid import new_guid
from ...ipc.durable.model import Conflict, Dead, NewMessage, Notice, Receipt, Settlement, State, Task
from ...ipc.durable.policy import KindPolicy
from ...ipc.durable.wire import Held
from .admission import digest, due_at, refusal
from .deadlines import KEPT, deadline_notice, expired_notice, kept_since
from .memoryitem import Item
from .memorynodes import Nodes
from .protocol import (
    Control,
    Deed,
    Demand,
    Filter,
    Leased,
    Lock,
    Node,
    Renewal,
    Row,
    Store,
    Story,
    Swept,
    Tally,
    Turn,
    Turned,
)


class MemoryStore(Store):
    """A store that lives as long as this object."""

    def __init__(self) -> None:
        self._items: dict[int, Item] = {}
        self._next = 1
        self._nodes = Nodes()
        self._handled: dict[int, set[str]] = {}
        self._policies: dict[str, KindPolicy] = {}
        self._controls: dict[str, Control] = {}
        self._keys: dict[tuple[str, str], tuple[int, bytes]] = {}
        self._locks: dict[str, Held] = {}

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def migrate(self) -> list[str]:
        return []

    def check(self) -> list[str]:
        return []

    def clock(self) -> int:
        return time.time_ns() // 1_000_000

    # -- of the dispatcher

    def register(self, name: str, now: int, until: int) -> Node:
        return self._nodes.register(name, until)

    def enlist(self, node: int, slot: str, pid: int, start: int, now: int) -> int:
        return self._nodes.enlist(node, slot, pid, start)

    def declare(self, node: int, kinds: Sequence[KindPolicy], now: int) -> None:
        self._handled[node] = {policy.name for policy in kinds}
        self._policies |= {policy.name: policy for policy in kinds}

    def policies(self) -> dict[str, KindPolicy]:
        return dict(self._policies)

    def renew(self, node: int, now: int, until: int) -> Renewal:
        cancels = [Held(item.id, item.fence) for item in self._held(node) if item.lease and item.lease.cancelling]
        return Renewal(self._nodes.renew(node, until), cancels, self.controls())

    def leases(self, node: int) -> list[Leased]:
        return [item.leased(self._nodes) for item in self._held(node)]

    def orphans(self, now: int, limit: int) -> list[Leased]:
        self._nodes.lose(now)
        found = [item for item in self._items.values() if item.lease and not self._nodes.is_known(item.lease.node)]
        return [item.leased(self._nodes) for item in found[:limit]]

    def leave(self, node: int, now: int) -> None:
        self._nodes.leave(node)

    def turn(self, turn: Turn) -> Turned:
        receipts = self.enqueue(turn.new, turn.now)
        kept = self._keep_stages(turn)
        for held in turn.began:
            if (run := self._running(held)) and run.lease:
                run.lease.began = True
        for held, word in turn.progress:
            if (run := self._running(held)) and run.lease:
                run.lease.progress = word
        stale = [Held(one.id, one.fence) for one in turn.settled if not self._settle(one, turn.now)]
        granted = [Held(lock.id, lock.fence) for lock in turn.locks if self._lock(lock)]
        if not self._nodes.is_known(turn.node):
            return Turned([[] for _ in turn.demands], stale, granted, kept, receipts=receipts)
        claimed = [self._claim(turn, demand) for demand in turn.demands]
        more = any(len(tasks) == len(demand.holders) > 0 for tasks, demand in zip(claimed, turn.demands, strict=True))
        return Turned(claimed, stale, granted, kept, self._next_due(turn), more, receipts)

    def enqueue(self, messages: Sequence[NewMessage], now: int) -> list[Receipt]:
        return [self._enqueue(message, now) for message in messages]

    def payload(self, id: int) -> bytes:
        return self._items[id].message.payload if id in self._items else b""

    def ended(self, ids: Sequence[int]) -> list[Row]:
        return [self._row(self._items[id]) for id in sorted(set(ids)) if id in self._items and self._items[id].ended]

    def sweep(self, now: int, limit: int) -> Swept:
        late = [item for item in self._items.values() if item.watched and item.message.deadline < now]
        late = [item for item in late if not item.ended]
        alerting = [item for item in late if item.message.on_deadline == "alert"][:limit]
        for item in alerting:
            item.watched = False
            self._notify(item, deadline_notice(item.id, item.message.kind, self._addressee(item)))
        expiring = [item for item in late if item.waits and item.message.on_deadline != "alert"][:limit]
        for item in expiring:
            item.watched = False
            self._end(item, State.DEAD_LETTER, Dead.EXPIRED, now)
            self._notify(item, expired_notice(item.id, item.message.kind, self._addressee(item)))
        outlived = [item.id for item in self._items.values() if self._is_outlived(item, now)][:limit]
        return Swept(len(expiring), len(alerting), len(self.purge(outlived, "", now)))

    # -- of operators

    def find(self, filter: Filter, limit: int, after: int = 0) -> list[Row]:
        found = [item for item in self._matching(filter) if item.id > after]
        return [self._row(item) for item in found[:limit]]

    def count(self, filter: Filter) -> int:
        return len(self._matching(filter))

    def story(self, id: int) -> Story | None:
        item = self._items.get(id)
        if item is None:
            return None
        locks = sorted(key for key, held in self._locks.items() if held.id == id and self._running(held))
        return item.story(self._row(item), locks)

    def stats(self, now: int) -> list[Tally]:
        kinds = {item.message.kind for item in self._items.values()} | self._policies.keys() | self._controls.keys()
        return [self._tally(kind, now) for kind in sorted(kinds)]

    def retry(self, ids: Sequence[int], actor: str, now: int) -> list[int]:
        done = [id for id in dict.fromkeys(ids) if id in self._items and self._retry(self._items[id], now)]
        self._note(done, Deed(now, actor, "retry"))
        return done

    def cancel(self, ids: Sequence[int], actor: str, now: int) -> tuple[list[int], list[int]]:
        living = [self._items[id] for id in dict.fromkeys(ids) if id in self._items and not self._items[id].ended]
        waiting = [item.id for item in living if item.waits]
        running = [item.id for item in living if not item.waits]
        for item in living:
            if item.lease is None:
                self._end(item, State.CANCELLED, "", now)
            else:
                item.lease.cancelling = True
        self._note(waiting + running, Deed(now, actor, "cancel"))
        return waiting, running

    def clone(self, ids: Sequence[int], actor: str, now: int) -> list[Receipt]:
        return [self._clone(id, actor, now) for id in ids]

    def purge(self, ids: Sequence[int], actor: str, now: int) -> list[int]:
        ended = [id for id in dict.fromkeys(ids) if id in self._items and self._items[id].ended]
        for id in ended:
            del self._items[id]
        self._keys = {key: row for key, row in self._keys.items() if row[0] in self._items}
        return ended

    def control(self, control: Control) -> None:
        self._controls[control.kind] = control

    def controls(self) -> list[Control]:
        return [control for _, control in sorted(self._controls.items())]

    # -- runs

    def _running(self, held: Held | Settlement | Lock) -> Item | None:
        item = self._items.get(held.id)
        return item if item and item.lease and item.fence == held.fence else None

    def _held(self, node: int) -> list[Item]:
        return [item for item in self._items.values() if item.lease and item.lease.node == node]

    def _keep_stages(self, turn: Turn) -> list[Held]:
        kept = []
        for stage in turn.stages:
            item = self._running(Held(stage.id, stage.fence))
            if item is not None:
                item.stage = max(item.stage, stage.stage + 1)
                item.outputs.setdefault(stage.stage, stage.output)
                kept.append(Held(stage.id, stage.fence))
        return kept

    def _settle(self, one: Settlement, now: int) -> bool:
        item = None if one.late else self._running(one)
        if item is None:
            return self._is_repeated(one, now)
        item.settle(one, now)
        if one.notice is not None:
            self._notify(item, one.notice)
        if item.ended:
            self._release(item)
        return True

    def _is_repeated(self, one: Settlement, now: int) -> bool:
        item = self._items.get(one.id)
        if item is None or one.attempt is None:
            return False
        there = item.attempts.get(one.fence)
        if there is not None and (there.result, there.late) == (one.attempt.result, ""):
            return True
        item.tell_late(one.attempt, now)
        return False

    def _lock(self, lock: Lock) -> bool:
        if self._running(lock) is None:
            return False
        holder = self._locks.get(lock.key)
        if holder is not None and holder.id != lock.id and self._running(holder) is not None:
            return False
        self._locks[lock.key] = Held(lock.id, lock.fence)
        return True

    def _claim(self, turn: Turn, demand: Demand) -> list[Task]:
        waiting = [
            item for item in self._items.values() if item.message.kind in demand.kinds and item.may_run(turn.now)
        ]
        waiting.sort(key=lambda item: (0 if demand.aged else item.message.priority, item.due, item.id))
        tasks: list[Task] = []
        for item in waiting:
            if len(tasks) == len(demand.holders):
                break
            if self._is_open(item.message.kind):
                tasks.append(item.claim(turn.node, demand.holders[len(tasks)], turn.now))
        return tasks

    def _is_open(self, kind: str) -> bool:
        limit = self._limit(kind)
        running = (
            sum(item.lease is not None and item.message.kind == kind for item in self._items.values()) if limit else 0
        )
        return not self._is_paused(kind) and (not limit or running < limit)

    def _next_due(self, turn: Turn) -> int:
        kinds = {kind for demand in turn.demands for kind in demand.kinds if not self._is_paused(kind)}
        waiting = (item for item in self._items.values() if item.waits and item.state is not State.BLOCKED)
        return min((item.due for item in waiting if item.message.kind in kinds and item.due > turn.now), default=0)

    def _limit(self, kind: str) -> int:
        said = self._controls.get(kind)
        return said.max_running if said else self._policy(kind).max_running

    def _is_paused(self, kind: str) -> bool:
        return kind in self._controls and self._controls[kind].paused

    def _policy(self, kind: str) -> KindPolicy:
        return self._policies.get(kind) or KindPolicy(kind)

    # -- enqueueing

    def _enqueue(self, message: NewMessage, now: int) -> Receipt:
        refused = refusal(message)
        if refused:
            return Receipt(refused=refused)
        return (
            self._by_guid(message) or self._by_key(message) or self._by_unique(message, now) or self._add(message, now)
        )

    def _by_guid(self, message: NewMessage) -> Receipt | None:
        same = (item for item in self._items.values() if message.guid and item.guid == message.guid)
        return next((item.found() for item in same), None)

    def _by_key(self, message: NewMessage) -> Receipt | None:
        row = self._keys.get((message.routing.sender, message.key)) if message.key else None
        if row is None:
            return None
        id, known = row
        if known != digest(message):
            return Receipt(id, created=False, refused=f"the key {message.key!r} was used for another message ({id})")
        return self._items[id].found()

    def _by_unique(self, message: NewMessage, now: int) -> Receipt | None:
        other = self._last_in_line(message.kind, message.unique)
        if other is None:
            return None
        if message.conflict is Conflict.REJECT:
            refused = f"message {other.id} of {message.kind} lives and has the unique key {message.unique!r}"
            return msgspec.structs.replace(other.found(), refused=refused)
        if message.conflict is Conflict.AGAIN and not other.waits:
            return self._add(message, now, blocked=True)
        if message.conflict is Conflict.REPLACE and other.waits:
            other.message = msgspec.structs.replace(other.message, args=message.args, payload=message.payload)
        self._keep_key(message, other)
        return other.found()

    def _last_in_line(self, kind: str, unique: str) -> Item | None:
        same = [item for item in self._items.values() if (item.message.kind, item.message.unique) == (kind, unique)]
        living = [item for item in same if unique and not item.ended]
        return next((item for item in living if item.reason == "unique"), living[0] if living else None)

    def _add(self, message: NewMessage, now: int, *, blocked: bool = False) -> Receipt:
        guid = message.guid or new_guid()
        item = Item(self._next, guid, message, now, due_at(message, now), watched=message.deadline > 0)
        if blocked:
            item.state, item.reason = State.BLOCKED, "unique"
        self._items[item.id] = item
        self._next += 1
        self._keep_key(message, item)
        return Receipt(item.id, guid, state=item.state)

    def _keep_key(self, message: NewMessage, item: Item) -> None:
        if message.key:
            self._keys.setdefault((message.routing.sender, message.key), (item.id, digest(message)))

    # -- ends

    def _end(self, item: Item, state: State, reason: str, now: int) -> None:
        item.end(state, reason, now)
        self._release(item)

    def _release(self, item: Item) -> None:
        """Whoever waits for the unique key of one that has ended may run."""
        after = self._last_in_line(item.message.kind, item.message.unique)
        if after is not None and after.reason == "unique" and after.state is State.BLOCKED:
            after.state, after.reason = State.QUEUED, ""

    def _retry(self, item: Item, now: int) -> bool:
        if item.state is State.RETRY_SCHEDULED:
            item.due = min(item.due, now)
            return True
        if item.state not in (State.DEAD_LETTER, State.CANCELLED):
            return False
        if self._last_in_line(item.message.kind, item.message.unique) is not None:
            return False
        item.revive(now)
        return True

    def _clone(self, id: int, actor: str, now: int) -> Receipt:
        item = self._items.get(id)
        if item is None:
            return Receipt(refused=f"there is no message {id}")
        old = item.message
        routing = msgspec.structs.replace(old.routing, parent_id=id)
        message = NewMessage(
            old.kind, old.args, old.payload, old.priority, unique=old.unique, conflict=Conflict.REJECT,
            max_attempts=old.max_attempts, notify=old.notify, routing=routing,
        )  # fmt: skip
        receipt = self._enqueue(message, now)
        if receipt.created:
            self._note([id], Deed(now, actor, "clone", f"as {receipt.id}"))
            self._note([receipt.id], Deed(now, actor, "clone", f"of {id}"))
        return receipt

    def _is_outlived(self, item: Item, now: int) -> bool:
        return item.state in KEPT and item.finished < kept_since(self._policy(item.message.kind), item.state, now)

    def _addressee(self, item: Item) -> str:
        return item.message.notify or self._policy(item.message.kind).notify

    def _notify(self, item: Item, notice: Notice) -> None:
        told = {other.dedup for each in self._items.values() for other in each.notices}
        if notice.to and notice.dedup not in told:
            item.notices.append(notice)

    # -- rows

    def _row(self, item: Item) -> Row:
        return item.row(self._nodes)

    def _matching(self, filter: Filter) -> list[Item]:
        now = self.clock()
        return [item for item in self._items.values() if item.matches(filter, now)]

    def _note(self, ids: Iterable[int], deed: Deed) -> None:
        for id in ids:
            self._items[id].deeds.append(deed)

    def _tally(self, kind: str, now: int) -> Tally:
        items = [item for item in self._items.values() if item.message.kind == kind]
        states = [item.state for item in items]
        oldest = min((item.due for item in items if item.may_run(now)), default=now)
        handlers = [node for node, kinds in self._handled.items() if kind in kinds]
        handled = any(self._nodes.is_living(node, now) for node in handlers)
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        return Tally(kind, counts, now - oldest, self._is_paused(kind), self._limit(kind), handled)
