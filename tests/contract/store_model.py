"""What a store of messages should do, in as few words as possible: what the real ones are compared with."""

from dataclasses import dataclass, field

from bkd.ipc.durable.model import ENDS, Conflict, Counters, State


@dataclass
class Message:
    id: int
    kind: str
    priority: int
    due: int
    args: bytes = b"{}"
    unique: str = ""
    deadline: int = 0
    alert: bool = False
    parent: int = 0
    state: State = State.QUEUED
    counters: Counters = field(default_factory=Counters)
    fence: int = 0
    stage: int = 0
    reason: str = ""
    node: int = 0
    cancelling: bool = False
    attempts: dict = field(default_factory=dict)
    late: set = field(default_factory=set)

    @property
    def ended(self):
        return self.state in ENDS

    @property
    def runs(self):
        return self.state is State.RUNNING

    def seen(self):
        """What `find` should tell of it."""
        due = self.due if not self.ended else None
        return (self.id, self.kind, self.state, self.stage, self.priority, due, self.counters, self.reason, self.args)


class Model:
    """A store. Each method returns what the real one's should."""

    def __init__(self):
        self.messages = {}
        self.keys = {}
        self.locks = {}
        self.paused = set()
        self.limits = {}
        self.lost = set()
        self.until = {}

    def expect(self, new, now):
        """What enqueueing comes to: (word, the message that is in the way)."""
        if new.key and new.key in self.keys:
            id, same = self.keys[new.key]
            return ("there" if same == (new.kind, new.args) else "refused"), self.messages[id]
        other = self._in_the_way(new.kind, new.unique)
        if other is None:
            return "new", None
        if new.conflict is Conflict.REJECT:
            return "refused", other
        if other.runs and new.conflict is Conflict.AGAIN:
            return "blocked", None
        if not other.runs and new.conflict is Conflict.REPLACE:
            other.args = new.args
        if new.key:
            self.keys[new.key] = (other.id, (new.kind, new.args))
        return "there", other

    def add(self, id, new, now, word="new"):
        message = Message(id, new.kind, new.priority, max(now + new.delay, new.due, now), new.args, new.unique)
        message.deadline, message.alert = new.deadline, new.on_deadline == "alert"
        if word == "blocked":
            message.state, message.reason = State.BLOCKED, "unique"
        self.messages[id] = message
        if new.key:
            self.keys[new.key] = (id, (new.kind, new.args))

    def claim(self, node, kinds, places, aged, now):
        """Ids in the order in which they are to be claimed."""
        found = []
        if node in self.lost:
            return found
        waiting = [one for one in self.messages.values() if one.kind in kinds and self._may_run(one, now)]
        for one in sorted(waiting, key=lambda one: (0 if aged else one.priority, one.due, one.id)):
            if len(found) < places and self._has_room(one.kind):
                one.state, one.node, one.reason = State.RUNNING, node, ""
                one.fence += 1
                old = one.counters
                one.counters = Counters(old.runs + 1, old.attempts + 1, *old_rest(old))
                found.append(one.id)
        return found

    def holds(self, id, fence):
        one = self.messages.get(id)
        return one if one is not None and one.runs and one.fence == fence else None

    def keep_stage(self, id, fence, stage):
        one = self.holds(id, fence)
        if one is not None:
            one.stage = max(one.stage, stage + 1)
        return one is not None

    def settle(self, settlement, now):
        """Whether it counts, or did before."""
        one = None if settlement.late else self.holds(settlement.id, settlement.fence)
        if one is None:
            return self._too_late(settlement)
        one.state, one.counters, one.reason = settlement.state, settlement.counters, settlement.reason
        if one.cancelling and not one.ended:
            one.state, one.reason = State.CANCELLED, ""
        one.node, one.cancelling = 0, False
        if settlement.attempt is not None:
            one.attempts[settlement.fence] = settlement.attempt.result
        if one.ended:
            self._release(one)
        else:
            one.due = settlement.due or one.due
        return True

    def lock(self, id, fence, key):
        if self.holds(id, fence) is None:
            return False
        owner = self.locks.get(key)
        if owner is not None and owner != (id, fence) and self.holds(*owner):
            return False
        self.locks[key] = (id, fence)
        return True

    def cancel(self, ids, now):
        living = [self.messages[id] for id in ids if id in self.messages and not self.messages[id].ended]
        waiting = [one.id for one in living if not one.runs]
        running = [one.id for one in living if one.runs]
        for one in living:
            if one.runs:
                one.cancelling = True
            else:
                self._end(one, State.CANCELLED)
        return waiting, running

    def retry(self, ids, now):
        return [id for id in ids if id in self.messages and self._retry(self.messages[id], now)]

    def purge(self, ids):
        gone = [id for id in ids if id in self.messages and self.messages[id].ended]
        for id in gone:
            del self.messages[id]
        self.keys = {key: row for key, row in self.keys.items() if row[0] in self.messages}
        return gone

    def sweep(self, now):
        """How many expire, and how many are told of."""
        late = [one for one in self.messages.values() if one.deadline and one.deadline < now and not one.ended]
        alerts = [one for one in late if one.alert]
        expiring = [one for one in late if not one.alert and not one.runs]
        for one in alerts + expiring:
            one.deadline = 0
        for one in expiring:
            self._end(one, State.DEAD_LETTER, "expired")
        return len(expiring), len(alerts)

    def orphans(self, now):
        self.lost |= {node for node, until in self.until.items() if until < now}
        return sorted(one.id for one in self.messages.values() if one.runs and one.node in self.lost)

    def _may_run(self, one, now):
        waits = one.state in (State.QUEUED, State.RETRY_SCHEDULED, State.WAITING_REMOTE)
        return waits and one.due <= now and one.kind not in self.paused

    def _has_room(self, kind):
        running = sum(one.runs and one.kind == kind for one in self.messages.values())
        return not self.limits.get(kind) or running < self.limits[kind]

    def _in_the_way(self, kind, unique):
        living = [one for one in self.messages.values() if (one.kind, one.unique) == (kind, unique) and not one.ended]
        return max(living, key=lambda one: (one.reason == "unique", one.id)) if unique and living else None

    def _too_late(self, settlement):
        one, attempt = self.messages.get(settlement.id), settlement.attempt
        if one is None or attempt is None:
            return False
        if one.attempts.get(settlement.fence) == attempt.result and settlement.fence not in one.late:
            return True
        if 0 < settlement.fence <= one.fence and self.holds(one.id, settlement.fence) is None:
            one.attempts.setdefault(settlement.fence, attempt.result)
            one.late.add(settlement.fence)
        return False

    def _end(self, one, state, reason=""):
        one.state, one.reason = state, reason
        self._release(one)

    def _release(self, ended):
        after = self._in_the_way(ended.kind, ended.unique)
        if after is not None and after.reason == "unique":
            after.state, after.reason = State.QUEUED, ""

    def _retry(self, one, now):
        if one.state is State.RETRY_SCHEDULED:
            one.due = min(one.due, now)
            return True
        if one.state not in (State.DEAD_LETTER, State.CANCELLED) or self._in_the_way(one.kind, one.unique):
            return False
        one.state, one.reason, one.due, one.deadline = State.QUEUED, "", now, 0
        one.counters = Counters(one.counters.runs)
        return True


def old_rest(counters):
    return (counters.crashes, counters.locks, counters.polls, counters.auths)
