"""Nodes, executors and leases, over every store."""

from bkd.ipc.durable.model import Result, State
from bkd.ipc.durable.policy import KindPolicy
from bkd.ipc.durable.wire import Held

from .desk import Desk


def test_a_node_keeps_its_number_and_its_generation_grows(desk):
    again = desk.store.register("h1/shop", desk.now, desk.now + 30_000)
    other = desk.store.register("h2", desk.now, desk.now + 30_000)

    assert (again.number, again.generation) == (desk.node.number, desk.node.generation + 1)
    assert other.number != again.number


def test_an_executor_is_the_same_by_slot_and_process(desk):
    enlist, node = desk.store.enlist, desk.node.number

    assert enlist(node, "jobs.1", 100, 7, desk.now) == desk.holder
    assert len({enlist(node, "jobs.1", 100, 8, desk.now), enlist(node, "jobs.2", 100, 7, desk.now), desk.holder}) == 3


def test_the_next_dispatcher_finds_what_the_last_one_held(desk):
    desk.put(max_attempts=4, notify="n")
    task = desk.claim_one()
    node = desk.store.register("h1/shop", desk.now, desk.now + 30_000)

    (lease,) = desk.store.leases(node.number)
    assert (lease.id, lease.fence, lease.kind, lease.holder) == (task.id, task.fence, "a", desk.holder)
    assert (lease.slot, lease.pid, lease.start, lease.node) == ("jobs.1", 100, 7, "h1/shop")
    assert (lease.counters, lease.stage, lease.max_attempts) == (task.counters, 0, 4)
    assert (lease.leased, lease.began, lease.notify) == (desk.now, False, "n")
    assert desk.end(task).stale == []
    assert desk.store.leases(node.number) == []


def test_leases_of_a_node_that_is_not_renewed_are_orphans(desk):
    desk.put()
    task = desk.claim_one()
    other = Desk(desk.store, "h2")

    assert other.store.orphans(desk.now + 30_000, 10) == []
    (lease,) = other.store.orphans(desk.now + 30_001, 10)
    assert (lease.id, lease.fence, lease.slot) == (task.id, task.fence, "jobs.1")
    other.turn(settled=[other.settlement(task, State.RETRY_SCHEDULED, result=Result.LOST)])
    assert other.store.orphans(desk.now + 30_001, 10) == []
    assert not desk.store.renew(desk.node.number, desk.now, desk.now + 60_000).known
    assert desk.claim() == []
    assert desk.end(task).stale == [Held(task.id, task.fence)]


def test_a_renewed_node_keeps_its_leases(desk):
    desk.put()
    desk.claim_one()

    assert desk.store.renew(desk.node.number, desk.now + 29_000, desk.now + 59_000).known
    assert desk.store.orphans(desk.now + 31_000, 10) == []


def test_a_node_that_was_declared_dead_begins_anew(desk):
    desk.store.orphans(desk.now + 30_001, 10)
    node = desk.store.register("h1/shop", desk.now + 30_002, desk.now + 60_000)

    assert desk.store.renew(node.number, desk.now + 30_003, desk.now + 60_000).known


def test_who_leaves_holds_nothing(desk):
    desk.put()
    task = desk.claim_one()
    desk.store.leave(desk.node.number, desk.now)

    assert not desk.store.renew(desk.node.number, desk.now, desk.now + 1_000).known
    assert [lease.id for lease in desk.store.orphans(desk.now, 10)] == [task.id]


def test_an_executor_that_was_idle_for_days_is_still_known(desk):
    desk.now += 2 * 86_400_000
    desk.store.renew(desk.node.number, desk.now, desk.now + 30_000)
    desk.store.sweep(desk.now, 100)
    desk.put()
    task = desk.claim_one()

    assert [(lease.slot, lease.pid, lease.start) for lease in desk.store.leases(desk.node.number)] == [
        ("jobs.1", 100, 7)
    ]
    assert desk.row(task.id).worker == "jobs.1@h1"


def test_the_newest_policy_of_a_kind_counts(desk):
    newer = KindPolicy("a", ("send", "apply"), max_attempts=9)
    desk.store.declare(desk.node.number, [newer], desk.now)

    assert desk.store.policies() == {"a": newer, "b": KindPolicy("b")}
