"""A dispatcher in few words: what tests of stores do again and again."""

import msgspec

from bkd.ipc.durable.model import Attempt, Counters, NewMessage, Result, Settlement, State
from bkd.ipc.durable.policy import KindPolicy
from bkd.workers.store.protocol import Demand, Turn

KINDS = ("a", "b")


class Desk:
    """A store with one node and one executor; `now` stands still until somebody moves it."""

    def __init__(self, store, name="h1/shop", kinds=KINDS):
        self.store = store
        self.now = store.clock() - 10_000_000
        self.node = store.register(name, self.now, self.now + 30_000)
        self.holder = store.enlist(self.node.number, "jobs.1", 100, 7, self.now)
        store.declare(self.node.number, [KindPolicy(kind) for kind in kinds], self.now)

    def put(self, kind="a", args=b"{}", **rest):
        (receipt,) = self.store.enqueue([NewMessage(kind, args, **rest)], self.now)
        return receipt

    def turn(self, **rest):
        return self.store.turn(Turn(self.now, self.node.number, **rest))

    def claim(self, places=10, kinds=KINDS, aged=False):
        return self.turn(demands=[Demand(tuple(kinds), (self.holder,) * places, aged)]).claimed[0]

    def claim_one(self):
        (task,) = self.claim()
        return task

    def end(self, task, state=State.SUCCEEDED, **rest):
        """Settle one run; the turn it took."""
        return self.turn(settled=[self.settlement(task, state, **rest)])

    def settlement(self, task, state=State.SUCCEEDED, result=Result.OK, body=b"", **rest):
        attempt = self.attempt(task, result)
        values = {"counters": task.counters, "stage": task.stage, "attempt": attempt, "result": body} | rest
        return Settlement(**{"id": task.id, "fence": task.fence, "state": state} | values)

    def attempt(self, task, result=Result.OK, **rest):
        made = Attempt(
            task.id, task.fence, task.counters.attempts, task.stage, "jobs.1@h1", 100, self.now, self.now, result
        )
        return msgspec.structs.replace(made, **rest)

    def kill(self, task, reason="rejected", **rest):
        """A dead letter of this one."""
        return self.end(task, State.DEAD_LETTER, result=Result.REJECTED, reason=reason, **rest)

    def give_back(self, task):
        """It was not begun: as if it had never been claimed."""
        counters = msgspec.structs.replace(
            task.counters, runs=task.counters.runs - 1, attempts=task.counters.attempts - 1
        )
        return self.end(task, State.QUEUED, counters=counters, attempt=None, due=task.due)

    def row(self, id):
        story = self.store.story(id)
        return story.row if story else None

    def state(self, id):
        row = self.row(id)
        return row.state if row else None


NEW = Counters()
