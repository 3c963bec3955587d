"""Whatever is done in whatever order: every store does what the model does, and holds together."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from bkd.ipc.durable.model import (
    ENDS,
    Attempt,
    Conflict,
    Counters,
    Fault,
    NewMessage,
    Notice,
    Result,
    Settlement,
    State,
)
from bkd.ipc.durable.policy import KindPolicy
from bkd.ipc.durable.wire import Held
from bkd.workers.store.protocol import Control, Demand, Filter, Lock, Stage, Turn

from .store_model import Model, old_rest
from .stores import STORES, make_store, quick_folder

KINDS = ["a", "b", "c"]
LEASE_MS = 30_000
EXAMPLES = {"memory": 15, "sqlite": 15, "postgres": 5}

kinds = st.sampled_from(KINDS)
choices = st.integers(0, 9)
TRIED_AGAIN = 9


class StoreMachine(RuleBasedStateMachine):
    """Two dispatchers, three kinds. `runs`: leases that were given, living or not, with what they were given for."""

    name = ""

    def __init__(self):
        super().__init__()
        self.closing = ExitStack()
        self.store = make_store(self.name, Path(self.closing.enter_context(quick_folder())))
        self.closing.callback(self.store.close)
        self.store.open()
        self.model = Model()
        self.now = self.store.clock() - 50_000_000
        self.runs = []

    def teardown(self):
        self.closing.close()

    @initialize()
    def begin(self):
        self.nodes = []
        for name in ("h1", "h2"):
            node = self.store.register(name, self.now, self.now + LEASE_MS)
            holder = self.store.enlist(node.number, "jobs.1", 100, 7, self.now)
            self.store.declare(node.number, [KindPolicy(kind) for kind in KINDS], self.now)
            self.nodes.append((node.number, holder))
            self.model.until[node.number] = self.now + LEASE_MS

    @rule(ms=st.sampled_from([1, 40, 1_000, 20_000]))
    def time_passes(self, ms):
        self.now += ms

    @rule(kind=kinds, priority=st.sampled_from([10, 50, 50, 90]), delay=st.sampled_from([0, 0, 0, 30, 5_000]))
    def enqueue(self, kind, priority, delay):
        self.put(NewMessage(kind, b'{"n":1}', priority=priority, delay=delay))

    @rule(data=st.data())
    def enqueue_with_keys(self, data):
        draw = data.draw
        args = draw(st.sampled_from([b'{"n":1}', b'{"n":2}']))
        key = draw(st.sampled_from(["", "k1", "k2"]))
        unique = draw(st.sampled_from(["", "u1", "u2"]))
        conflict = draw(st.sampled_from(list(Conflict)))
        self.put(NewMessage(draw(kinds), args, key=key, unique=unique, conflict=conflict))

    @rule(kind=kinds, after=st.sampled_from([10, 2_000]), then=st.sampled_from(["expire", "alert"]))
    def enqueue_with_deadline(self, kind, after, then):
        self.put(NewMessage(kind, deadline=self.now + after, on_deadline=then, notify="ops@example.org"))

    @rule(which=st.integers(0, 1), places=st.integers(0, 4), of=st.sets(kinds, min_size=1), aged=st.booleans())
    def claim(self, which, places, of, aged):
        self.turn(which, demands=[(sorted(of), places, aged)])

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def end_runs_and_claim(self, data):
        """Some runs end, rightly or too late, and the places are filled again, in one turn."""
        picked = data.draw(st.lists(st.sampled_from(self.runs), min_size=1, max_size=4))
        settled = [self.settlement(run, data.draw(choices)) for run in picked]
        settled = [replace(one, late=data.draw(st.integers(0, 4)) == 4) for one in settled]
        self.turn(data.draw(st.integers(0, 1)), settled=settled, demands=[(KINDS, 2, False), (["a"], 1, True)])

    @precondition(lambda self: self.living())
    @rule(data=st.data())
    def end_a_run_once_more_while_its_message_runs_anew(self, data):
        """What is said of the older one changes nothing."""
        run = data.draw(st.sampled_from(self.living()))
        which, kind = data.draw(st.integers(0, 1)), self.model.messages[run[0][0]].kind
        self.turn(which, settled=[self.settlement(run, TRIED_AGAIN)])
        self.turn(which, demands=[([kind], 8, False)])
        self.turn(which, settled=[self.settlement(run, data.draw(choices))])

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def keep_stages_and_lock(self, data):
        run = data.draw(st.sampled_from(self.runs))
        key = data.draw(st.sampled_from(["l1", "l2"]))
        stages = [Stage(*run[0], data.draw(st.integers(0, 1)), b"[1]")] if data.draw(st.booleans()) else []
        other = data.draw(st.sampled_from(self.runs))
        locks = [Lock(*run[0], key), Lock(*other[0], key)]
        self.turn(0, stages=stages, locks=locks)

    @rule(which=st.integers(0, 1))
    def renew(self, which):
        node, _ = self.nodes[which]
        renewal = self.store.renew(node, self.now, self.now + LEASE_MS)
        assert renewal.known == (node not in self.model.lost)
        if renewal.known:
            self.model.until[node] = self.now + LEASE_MS
        marked = {(one.id, one.fence) for one in self.model.messages.values() if one.cancelling and one.node == node}
        assert {(held.id, held.fence) for held in renewal.cancels} >= marked

    @rule()
    def bury_the_dead(self):
        """Leases of nodes that were not renewed are settled as lost; the nodes begin anew."""
        expected = self.model.orphans(self.now)
        leased = self.store.orphans(self.now, 100)
        assert sorted(one.id for one in leased) == expected
        settled = []
        for one in leased:
            counters = Counters(one.counters.runs, one.counters.attempts, one.counters.crashes + 1)
            attempt = Attempt(one.id, one.fence, 1, 0, "jobs.1", 100, 0, self.now, Result.LOST, Fault.LOST)
            settled.append(
                Settlement(one.id, one.fence, State.RETRY_SCHEDULED, counters, due=self.now, attempt=attempt)
            )
        for number, (name, (node, holder)) in enumerate(zip(("h1", "h2"), self.nodes, strict=True)):
            if node in self.model.lost:
                again = self.store.register(name, self.now, self.now + LEASE_MS)
                assert again.number == node
                self.model.lost.discard(node)
                self.model.until[node] = self.now + LEASE_MS
                self.nodes[number] = (node, holder)
        self.turn(0, settled=settled)

    @precondition(lambda self: self.model.messages)
    @rule(data=st.data(), verb=st.sampled_from(["cancel", "retry", "purge", "clone"]))
    def operate(self, data, verb):
        ids = data.draw(st.lists(st.sampled_from(sorted(self.model.messages)), min_size=1, max_size=3, unique=True))
        if verb == "cancel":
            found = self.store.cancel(ids, "me", self.now)
            assert tuple(map(sorted, found)) == tuple(map(sorted, self.model.cancel(ids, self.now)))
        elif verb == "retry":
            assert sorted(self.store.retry(ids, "me", self.now)) == sorted(self.model.retry(ids, self.now))
        elif verb == "purge":
            assert sorted(self.store.purge(ids, "me", self.now)) == sorted(self.model.purge(ids))
        else:
            self.clone(ids[0])

    @rule(kind=kinds, paused=st.booleans(), limit=st.sampled_from([0, 0, 1, 2]))
    def control(self, kind, paused, limit):
        self.store.control(Control(kind, paused, limit, "me", self.now))
        self.model.limits[kind] = limit
        (self.model.paused.add if paused else self.model.paused.discard)(kind)

    @rule()
    def sweep(self):
        swept = self.store.sweep(self.now, 100)
        assert (swept.expired, swept.alerted) == self.model.sweep(self.now)

    @invariant()
    def both_hold_the_same(self):
        rows = self.store.find(Filter(), 1_000)
        seen = [as_the_model_says(row) for row in rows]
        assert seen == [self.model.messages[id].seen() for id in sorted(self.model.messages)]
        assert {row.id for row in rows if row.cancelling} == {
            one.id for one in self.model.messages.values() if one.cancelling
        }

    @invariant()
    def every_attempt_is_there(self):
        for one in self.model.messages.values():
            if one.attempts:
                told = {run.fence: (run.result, bool(run.late)) for run in self.store.story(one.id).attempts}
                assert told == {fence: (result, fence in one.late) for fence, result in one.attempts.items()}

    @invariant()
    def it_holds_together(self):
        assert self.store.check() == []

    # -- what rules are made of

    def living(self):
        """The leases that are in force."""
        return [run for run in self.runs if self.model.holds(*run[0])]

    def put(self, message):
        word, other = self.model.expect(message, self.now)
        (receipt,) = self.store.enqueue([message], self.now)
        assert bool(receipt.refused) == (word == "refused")
        assert receipt.created == (word in ("new", "blocked"))
        if receipt.created:
            assert receipt.id > max(self.model.messages, default=0)
            assert receipt.state is (State.BLOCKED if word == "blocked" else State.QUEUED)
            self.model.add(receipt.id, message, self.now, word)
        else:
            assert receipt.id == other.id
            assert receipt.refused or receipt.state == other.state

    def clone(self, id):
        original = self.model.messages[id]
        in_the_way = self.model.expect(
            NewMessage(original.kind, original.args, unique=original.unique, conflict=Conflict.REJECT), self.now
        )[0]
        (receipt,) = self.store.clone([id], "me", self.now)
        assert bool(receipt.refused) == (in_the_way == "refused")
        if receipt.created and not receipt.refused:
            copy = NewMessage(original.kind, original.args, priority=original.priority, unique=original.unique)
            self.model.add(receipt.id, copy, self.now)

    def turn(self, which, *, demands=(), settled=(), stages=(), locks=()):
        node, holder = self.nodes[which]
        asked = [Demand(tuple(of), (holder,) * places, aged) for of, places, aged in demands]
        turn = Turn(self.now, node, settled, stages, locks, demands=asked)
        turned = self.store.turn(turn)

        kept = [Held(one.id, one.fence) for one in stages if self.model.keep_stage(one.id, one.fence, one.stage)]
        stale = [Held(one.id, one.fence) for one in settled if not self.model.settle(one, self.now)]
        granted = [Held(one.id, one.fence) for one in locks if self.model.lock(one.id, one.fence, one.key)]
        claimed = [self.model.claim(node, of, places, aged, self.now) for of, places, aged in demands]
        assert (turned.kept, Counter(turned.stale), set(turned.granted)) == (kept, Counter(stale), set(granted))
        assert [[task.id for task in tasks] for tasks in turned.claimed] == claimed
        for task in (task for tasks in turned.claimed for task in tasks):
            one = self.model.messages[task.id]
            assert (task.fence, task.counters, task.stage, task.holder) == (one.fence, one.counters, one.stage, holder)
            self.runs.append(((task.id, task.fence), task.counters))

    def settlement(self, run, choice):
        """One of the ways a run may end."""
        (id, fence), counters = run
        attempt = Attempt(id, fence, counters.attempts, 0, "jobs.1@h1", 100, self.now, self.now, Result.OK)
        if choice <= 3:
            return Settlement(id, fence, State.SUCCEEDED, counters, result=b"1", attempt=attempt)
        given_back = Counters(counters.runs - 1, counters.attempts - 1, *old_rest(counters))
        if choice == 4:
            return Settlement(id, fence, State.QUEUED, given_back)
        if choice == 5:
            return Settlement(id, fence, State.BLOCKED, counters, reason="auth", attempt=attempt)
        failed = Attempt(*attempt_start(attempt), Result.ERROR, Fault.RETRYABLE, "ValueError", "no")
        if choice == 6:
            notice = Notice("ops@example.org", "dead", "it is dead", f"dead:{id}")
            return Settlement(id, fence, State.DEAD_LETTER, counters, reason="exhausted", attempt=failed, notice=notice)
        if choice == 7:
            return Settlement(id, fence, State.CANCELLED, counters, attempt=failed)
        due = self.now + (5_000 if choice == 8 else 0)
        return Settlement(id, fence, State.RETRY_SCHEDULED, counters, due=due, attempt=failed)


def attempt_start(attempt):
    return (
        attempt.message,
        attempt.fence,
        attempt.number,
        attempt.stage,
        attempt.worker,
        attempt.pid,
        attempt.started,
        attempt.ended,
    )


def as_the_model_says(row):
    due = None if row.state in ENDS else row.due
    return (row.id, row.kind, row.state, row.stage, row.priority, due, row.counters, row.reason, row.args)


@pytest.mark.parametrize("name", STORES)
def test_every_store_does_what_the_model_does(name):
    if name == "postgres":
        pytest.importorskip("psycopg")
    machine = type(f"{name}_machine", (StoreMachine,), {"name": name})
    slack = [HealthCheck.too_slow, HealthCheck.data_too_large]
    most = EXAMPLES[name] * settings().max_examples // 40
    chosen = settings(max_examples=most, stateful_step_count=40, deadline=None, suppress_health_check=slack)
    run_state_machine_as_test(machine, settings=chosen)
