"""What operators do and ask, over every store."""

import pytest

from bkd.ipc.durable.model import Counters, Fault, Result, Routing, State
from bkd.ipc.durable.wire import Held
from bkd.workers.store.protocol import Control, Filter, Lock, Stage


def test_cancel_ends_what_waits_and_marks_what_runs(desk):
    running = desk.put("b")
    desk.claim_one()
    now, later = desk.put(), desk.put(delay=50)
    ended = [now.id, later.id]

    waiting, marked = desk.store.cancel([*ended, running.id, 4711], "me", desk.now)

    assert (sorted(waiting), marked) == (ended, [running.id])
    assert {desk.state(id) for id in ended} == {State.CANCELLED}
    assert desk.row(running.id).cancelling
    assert desk.store.renew(desk.node.number, desk.now, desk.now + 9_000).cancels == [Held(running.id, 1)]
    assert [(deed.actor, deed.verb) for deed in desk.store.story(now.id).deeds] == [("me", "cancel")]
    assert desk.store.cancel(ended, "me", desk.now) == ([], [])
    assert desk.claim() == []


@pytest.mark.parametrize("state", [State.QUEUED, State.RETRY_SCHEDULED, State.WAITING_REMOTE, State.BLOCKED])
def test_a_run_that_was_cancelled_is_not_run_again_whatever_it_came_to(desk, state):
    receipt = desk.put(unique="u")
    task = desk.claim_one()
    desk.store.cancel([task.id], "me", desk.now)
    desk.end(task, state, due=desk.now, reason="why", result=Result.ERROR)

    row = desk.row(receipt.id)
    assert (row.state, row.reason, row.finished, row.cancelling) == (State.CANCELLED, "", desk.now, False)
    assert [attempt.result for attempt in desk.store.story(task.id).attempts] == [Result.ERROR]
    assert desk.store.renew(desk.node.number, desk.now, desk.now + 9_000).cancels == []
    assert desk.claim() == []
    assert desk.put(unique="u").created


def test_a_cancelled_run_that_was_done_in_time_is_done(desk):
    desk.put()
    task = desk.claim_one()
    desk.store.cancel([task.id], "me", desk.now)
    desk.end(task)

    assert desk.state(task.id) is State.SUCCEEDED


def test_retry_queues_dead_letters_again_with_what_they_have_finished(desk):
    receipt = desk.put(unique="u")
    task = desk.claim_one()
    desk.turn(stages=[Stage(task.id, task.fence, 0, b"[0]")])
    desk.kill(task, counters=Counters(1, 1, 2, 3), stage=1)

    assert desk.store.retry([task.id, 4711], "me", desk.now + 1) == [task.id]
    desk.now += 1
    row = desk.row(task.id)
    assert (row.state, row.guid, row.due, row.counters) == (State.QUEUED, receipt.guid, desk.now, Counters(1))
    assert (row.reason, row.finished, row.stage) == ("", 0, 1)
    again = desk.claim_one()
    assert (again.fence, again.counters, again.stage, again.outputs) == (2, Counters(2, 1), 1, [b"[0]"])
    assert [deed.verb for deed in desk.store.story(task.id).deeds] == ["retry"]


def test_retry_has_no_retry_wait(desk):
    desk.put()
    task = desk.claim_one()
    desk.end(task, State.RETRY_SCHEDULED, due=desk.now + 10_000)

    assert desk.store.retry([task.id], "me", desk.now) == [task.id]
    again = desk.claim_one()
    assert again.counters == Counters(2, 2)


def test_what_has_succeeded_or_runs_is_not_retried(desk):
    desk.put()
    task = desk.claim_one()

    assert desk.store.retry([task.id], "me", desk.now) == []
    desk.end(task)
    assert desk.store.retry([task.id], "me", desk.now) == []


def test_no_retry_makes_two_of_one_unique_key(desk):
    dead = desk.put(unique="u")
    desk.kill(desk.claim_one())
    living = desk.put(unique="u")

    assert desk.store.retry([dead.id], "me", desk.now) == []
    desk.store.cancel([living.id], "me", desk.now)
    assert desk.store.retry([dead.id], "me", desk.now) == [dead.id]
    assert desk.put(unique="u").id == dead.id


def test_a_clone_is_another_message_of_the_same_arguments(desk):
    original = desk.put("a", b"[1]", payload=b"p", priority=3, key="k", notify="n", routing=Routing(tracking_id="t"))
    desk.end(desk.claim_one())

    clone, none = desk.store.clone([original.id, 4711], "me", desk.now)

    row = desk.row(clone.id)
    assert clone.created
    assert clone.guid != original.guid
    assert (row.args, row.priority, row.parent_id, row.notify, row.tracking_id) == (b"[1]", 3, original.id, "n", "t")
    assert (row.key, row.state, desk.store.payload(clone.id)) == ("", State.QUEUED, b"p")
    assert (none.id, bool(none.refused)) == (0, True)
    assert [deed.verb for deed in desk.store.story(clone.id).deeds] == ["clone"]


def test_purge_deletes_what_has_ended_and_nothing_else(desk):
    ended = desk.put(payload=b"p", key="k")
    task = desk.claim_one()
    desk.turn(stages=[Stage(task.id, task.fence, 0, b"[0]")])
    desk.end(task)
    waiting = desk.put("b")

    assert desk.store.purge([ended.id, waiting.id, 4711], "me", desk.now) == [ended.id]
    assert desk.store.story(ended.id) is None
    assert desk.store.payload(ended.id) == b""
    assert [row.id for row in desk.store.find(Filter(), 10)] == [waiting.id]
    assert desk.put().id > waiting.id


def test_what_is_purged_leaves_no_lock(desk):
    desk.put()
    task = desk.claim_one()
    desk.turn(locks=[Lock(task.id, task.fence, "l")])
    desk.end(task)
    assert desk.store.check() == []

    assert desk.store.purge([task.id], "me", desk.now) == [task.id]
    assert desk.store.check() == []


def test_numbers_are_not_used_again(desk):
    last = desk.put()
    desk.store.cancel([last.id], "me", desk.now)
    desk.store.purge([last.id], "me", desk.now)

    assert desk.put().id > last.id


def test_those_that_have_ended_can_be_asked_for(desk):
    done, waiting = desk.put(), desk.put(priority=90)
    desk.end(desk.claim(1)[0], body=b"1")

    rows = desk.store.ended([done.id, waiting.id, 4711])

    assert [(row.id, row.state, row.result) for row in rows] == [(done.id, State.SUCCEEDED, b"1")]


def test_controls_are_kept_for_kinds_that_nobody_has_seen(desk):
    said = Control("new", paused=True, max_running=3, by="me", at=desk.now, reason="why")
    desk.store.control(said)

    assert desk.store.controls() == [said]
    assert desk.store.renew(desk.node.number, desk.now, desk.now + 9_000).controls == [said]
    desk.put("new")
    assert desk.claim(kinds=["new"]) == []


@pytest.fixture
def shelf(desk):
    """Messages of all sorts, by name."""
    ids = {
        "done": desk.put("a", b'{"document_id":5000}').id,
        "dead": desk.put("a", b'{"document_id":5001,"order":{"id":"x"}}').id,
        "retried": desk.put("b", b'{"document_id":"5000","items":[{"n":1}]}').id,
    }
    tasks = {task.id: task for task in desk.claim()}
    desk.end(tasks[ids["done"]])
    failed = desk.attempt(tasks[ids["dead"]], Result.REJECTED, fault=Fault.FINAL, text="bad")
    desk.end(tasks[ids["dead"]], State.DEAD_LETTER, reason="rejected", attempt=failed)
    desk.end(tasks[ids["retried"]], State.RETRY_SCHEDULED)
    desk.end(desk.claim_one(), State.RETRY_SCHEDULED, due=desk.now + 60_000)
    ids["broken"] = desk.put("b", b"no json").id
    ids["running"] = desk.put("a", b"[]", priority=1).id
    desk.claim(1)
    ids["delayed"] = desk.put("a", b"{}", delay=50_000).id
    desk.shelf = ids
    return desk


@pytest.mark.parametrize(
    ("filter", "names"),
    [
        (Filter(), {"done", "dead", "retried", "broken", "running", "delayed"}),
        (Filter(states=(State.QUEUED,)), {"broken", "delayed"}),
        (Filter(states=(State.RUNNING, State.DEAD_LETTER)), {"running", "dead"}),
        (Filter(states=(State.RETRY_SCHEDULED,), kinds=("b",)), {"retried"}),
        (Filter(states=(State.BLOCKED,)), set()),
        (Filter(kinds=("b",)), {"retried", "broken"}),
        (Filter(kinds=("nobody",)), set()),
        (Filter(kinds=("nobody",), states=(State.QUEUED,)), set()),
        (Filter(fault="final"), {"dead"}),
        (Filter(reason="rejected"), {"dead"}),
        (Filter(runs_over=1), {"retried"}),
        (Filter(runs_over=0), {"done", "dead", "retried", "running"}),
        (Filter(where=(("document_id", 5000),)), {"done"}),
        (Filter(where=(("document_id", "5000"),)), {"retried"}),
        (Filter(where=(("order.id", "x"), ("document_id", 5001))), {"dead"}),
        (Filter(where=(("items.0.n", 1),)), {"retried"}),
        (Filter(where=(("items.0.n", True),)), set()),
        (Filter(where=(("nothing", None),)), set()),
        (Filter(older=5_000_000), {"done", "dead", "retried", "broken", "running", "delayed"}),
        (Filter(newer=5_000_000), set()),
        (Filter(older=1, newer=100_000_000, kinds=("b",)), {"retried", "broken"}),
    ],
)
def test_filters_select(shelf, filter, names):
    found = [row.id for row in shelf.store.find(filter, 100)]

    assert found == sorted(shelf.shelf[name] for name in names)
    assert shelf.store.count(filter) == len(names)


def test_messages_can_be_named_by_number_and_by_guid(shelf):
    done, dead = shelf.shelf["done"], shelf.shelf["dead"]
    guid = shelf.row(dead).guid

    assert [row.id for row in shelf.store.find(Filter(ids=(done,), guids=(guid, "none")), 9)] == [done, dead]
    assert shelf.store.count(Filter(ids=(done,), kinds=("b",))) == 0


def test_rows_come_in_pages(shelf):
    first = shelf.store.find(Filter(), 4)
    rest = shelf.store.find(Filter(), 4, after=first[-1].id)

    assert [row.id for row in first + rest] == sorted(shelf.shelf.values())


def test_numbers_of_every_kind(shelf):
    shelf.store.control(Control("b", paused=True, max_running=7))
    shelf.put("unhandled")
    tallies = {tally.kind: tally for tally in shelf.store.stats(shelf.now + 100)}

    assert tallies["a"].states == {
        State.SUCCEEDED: 1,
        State.DEAD_LETTER: 1,
        State.RUNNING: 1,
        State.QUEUED: 1,
    }
    assert tallies["b"].states == {State.RETRY_SCHEDULED: 1, State.QUEUED: 1}
    assert (tallies["a"].oldest, tallies["b"].oldest) == (0, 100)
    assert (tallies["b"].paused, tallies["b"].max_running) == (True, 7)
    assert (tallies["a"].handled, tallies["unhandled"].handled) == (True, False)


def test_a_kind_is_not_handled_when_its_host_is_gone(desk):
    desk.store.leave(desk.node.number, desk.now)

    assert [tally.handled for tally in desk.store.stats(desk.now)] == [False, False]


def test_there_is_no_story_of_nothing(desk):
    assert desk.store.story(4711) is None
