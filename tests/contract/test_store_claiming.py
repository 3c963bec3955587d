"""What claiming promises, over every store: the order, limits, whose a message is."""

from bkd.ipc.durable.model import Counters, NewMessage
from bkd.ipc.durable.policy import KindPolicy
from bkd.workers.store.protocol import Control, Demand, Turn


def test_lower_priorities_go_first_then_the_longest_due_then_the_oldest(desk):
    slow = desk.put(priority=90)
    first, second = desk.put(), desk.put("b")
    desk.now += 10
    later, urgent = desk.put(), desk.put("b", priority=10)

    assert [task.id for task in desk.claim()] == [urgent.id, first.id, second.id, later.id, slow.id]


def test_the_aged_claim_takes_the_longest_due_whatever_its_priority(desk):
    slow = desk.put(priority=90)
    desk.now += 1
    urgent, same = desk.put("b", priority=10), desk.put("a", priority=95)

    assert [task.id for task in desk.claim(2, aged=True)] == [slow.id, urgent.id]
    assert [task.id for task in desk.claim(2, aged=True)] == [same.id]


def test_many_of_many_kinds_and_priorities_come_in_one_order(desk):
    messages = [NewMessage("ab"[i % 2], priority=10 * (i % 5), delay=i % 7) for i in range(200)]
    ids = [receipt.id for receipt in desk.store.enqueue(messages, desk.now)]
    desk.now += 10
    line = sorted(zip([m.priority for m in messages], [m.delay for m in messages], ids, strict=True))

    claimed = [task.id for _ in range(5) for task in desk.claim(40)]

    assert claimed == [id for _, _, id in line]


def test_a_task_holds_what_a_run_needs(desk):
    receipt = desk.put(
        "a", b"[1]", priority=7, key="k", max_attempts=9, notify="n", deadline=desk.now + 99, payload=b"xyz"
    )
    desk.now += 5
    task = desk.claim_one()

    assert (task.id, task.guid, task.kind, task.args) == (receipt.id, receipt.guid, "a", b"[1]")
    assert (task.fence, task.counters, task.stage, task.outputs) == (1, Counters(1, 1), 0, [])
    assert (task.priority, task.created, task.due, task.leased) == (7, desk.now - 5, desk.now - 5, desk.now)
    assert (task.key, task.max_attempts, task.notify, task.payload) == ("k", 9, "n", 3)
    assert (task.deadline, task.holder) == (desk.now + 94, desk.holder)


def test_holders_get_theirs_in_order(desk):
    other = desk.store.enlist(desk.node.number, "jobs.2", 101, 8, desk.now)
    for _ in range(3):
        desk.put()

    turned = desk.turn(demands=[Demand(("a",), (other, desk.holder)), Demand(("a", "b"), (desk.holder, other))])

    assert [[task.holder for task in tasks] for tasks in turned.claimed] == [[other, desk.holder], [desk.holder]]
    assert turned.more


def test_nothing_is_claimed_twice(desk):
    desk.put()

    assert len(desk.claim()) == 1
    assert desk.claim() == []


def test_only_kinds_that_were_asked_for(desk):
    desk.put("b")

    assert desk.claim(kinds=["a", "unheard of"]) == []
    assert desk.claim(0) == []
    assert len(desk.claim(kinds=["b", "b"])) == 1


def test_what_is_due_later_is_claimed_then_and_announced(desk):
    soon, later = desk.put(delay=100), desk.put(delay=900)
    desk.put("other", delay=10)

    turned = desk.turn(demands=[Demand(("a", "b"), (desk.holder,) * 5)])
    assert (turned.claimed, turned.next_due, turned.more) == ([[]], desk.now + 100, False)
    desk.now += 100
    turned = desk.turn(demands=[Demand(("a", "b"), (desk.holder,) * 5)])
    assert [task.id for task in turned.claimed[0]] == [soon.id]
    assert turned.next_due == desk.now + 800
    desk.now += 800
    turned = desk.turn(demands=[Demand(("a", "b"), (desk.holder,))])
    assert [task.id for task in turned.claimed[0]] == [later.id]
    assert (turned.next_due, turned.more) == (0, True)


def test_two_thousand_that_become_due_at_once_take_two_turns_at_most(desk):
    desk.store.enqueue([NewMessage("a", delay=100)] * 2_000, desk.now)
    desk.now += 100

    assert len(desk.claim(2_000)) + len(desk.claim(2_000)) == 2_000


def test_paused_kinds_wait(desk):
    desk.put("a")
    desk.store.control(Control("a", paused=True, by="me", at=desk.now, reason="broken"))

    assert desk.claim() == []
    desk.store.control(Control("a", by="me", at=desk.now))
    assert len(desk.claim()) == 1


def test_a_limited_kind_runs_so_often_and_no_more(desk):
    desk.store.control(Control("a", max_running=2))
    for _ in range(5):
        desk.put("a")
    last = desk.put("b")

    turned = desk.turn(demands=[Demand(("a",), (desk.holder,)), Demand(("a", "b"), (desk.holder,) * 9)])

    assert [[task.kind for task in tasks] for tasks in turned.claimed] == [["a"], ["a", "b"]]
    assert turned.claimed[1][1].id == last.id
    assert desk.claim(aged=True) == []
    desk.end(turned.claimed[0][0])
    assert len(desk.claim(aged=True)) == 1


def test_the_policy_limits_until_an_operator_says_otherwise(desk):
    desk.store.declare(desk.node.number, [KindPolicy("a", max_running=1)], desk.now)
    for _ in range(3):
        desk.put("a")

    assert len(desk.claim()) == 1
    desk.store.control(Control("a", max_running=0))
    assert len(desk.claim()) == 2


def test_a_node_that_is_gone_claims_nothing(desk):
    desk.put()
    desk.store.leave(desk.node.number, desk.now)

    assert desk.claim() == []
    assert desk.store.turn(Turn(desk.now, 4711, demands=[Demand(("a",), (1,))])).claimed == [[]]
