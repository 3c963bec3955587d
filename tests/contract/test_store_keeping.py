"""What is kept and for how long, over every store: deadlines, ends, and all of it after it was opened again."""

from pathlib import Path

import pytest

from bkd.ipc.durable.model import State
from bkd.ipc.durable.policy import KindPolicy
from bkd.workers.store.protocol import Control, Filter

from .desk import Desk
from .stores import STORES, make_store, quick_folder


def test_what_waits_beyond_its_deadline_is_dead_and_told(desk):
    expiring, fine = desk.put(deadline=desk.now + 100, notify="ops"), desk.put(deadline=desk.now + 9_000)
    silent = desk.put(deadline=desk.now + 100, delay=50_000)

    assert desk.store.sweep(desk.now + 50, 10).expired == 0
    assert desk.store.sweep(desk.now + 101, 10).expired == 2
    assert (desk.state(expiring.id), desk.row(expiring.id).reason) == (State.DEAD_LETTER, "expired")
    assert (desk.state(silent.id), desk.state(fine.id)) == (State.DEAD_LETTER, State.QUEUED)
    assert len(desk.store.story(expiring.id).notices) == 1
    assert desk.store.story(silent.id).notices == []
    assert desk.store.sweep(desk.now + 200, 10).expired == 0
    assert [task.id for task in desk.claim()] == [fine.id]


def test_a_run_is_left_to_its_end(desk):
    desk.put(deadline=desk.now + 100)
    task = desk.claim_one()

    assert desk.store.sweep(desk.now + 101, 10).expired == 0
    desk.now += 102
    desk.end(task, State.RETRY_SCHEDULED, due=desk.now + 50_000)
    assert desk.store.sweep(desk.now + 5_000, 10).expired == 1


def test_a_deadline_may_only_be_told_of(desk):
    receipt = desk.put(deadline=desk.now + 100, on_deadline="alert", notify="ops")

    assert desk.store.sweep(desk.now + 101, 10).alerted == 1
    assert desk.store.sweep(desk.now + 202, 10).alerted == 0
    assert len(desk.store.story(receipt.id).notices) == 1
    assert desk.state(receipt.id) is State.QUEUED


def test_an_expired_message_can_be_retried(desk):
    receipt = desk.put(deadline=desk.now + 100)
    desk.store.sweep(desk.now + 101, 10)
    desk.now += 200
    desk.store.retry([receipt.id], "me", desk.now)

    assert desk.store.sweep(desk.now + 1, 10).expired == 0
    assert desk.claim_one().id == receipt.id


def test_ends_are_kept_as_long_as_their_kind_says(desk):
    policies = [KindPolicy("a", keep=10, keep_dead=100), KindPolicy("b", keep=-1)]
    desk.store.declare(desk.node.number, policies, desk.now)
    done, dead, forever = desk.put(), desk.put(), desk.put("b")
    one, two, three = desk.claim()
    desk.end(one), desk.kill(two), desk.end(three)

    assert desk.store.sweep(desk.now + 9_000, 10).removed == 0
    assert desk.store.sweep(desk.now + 11_000, 10).removed == 1
    assert desk.state(done.id) is None
    assert desk.store.sweep(desk.now + 101_000, 10).removed == 1
    assert desk.state(dead.id) is None
    assert desk.store.sweep(desk.now + 9_000_000, 10).removed == 0
    assert desk.state(forever.id) is State.SUCCEEDED


def test_housekeeping_goes_in_steps(desk):
    for _ in range(5):
        desk.put(deadline=desk.now + 1)

    assert [desk.store.sweep(desk.now + 2, 2).expired for _ in range(4)] == [2, 2, 1, 0]


@pytest.mark.parametrize("name", [name for name in STORES if name != "memory"])
def test_everything_is_there_after_it_was_opened_again(name):
    with quick_folder() as folder:
        store = make_store(name, Path(folder))
        store.open()
        desk = Desk(store)
        desk.put(delay=100), desk.put("b", key="k"), desk.put("b", unique="u")
        task = desk.claim(1)[0]
        store.control(Control("a", paused=True, by="me", at=desk.now))
        before = store.find(Filter(), 10)
        store.close()
        store.open()

        assert store.find(Filter(), 10) == before
        assert [lease.id for lease in store.leases(desk.node.number)] == [task.id]
        assert store.controls()[0].paused
        assert store.migrate() == []
        assert not desk.put("b", key="k").created
        store.close()
