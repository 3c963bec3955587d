"""Healthy workers that are to be replaced: limits with a spread, the successor first, few at a time, or on demand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor import events
from bkd.supervisor.cluster import Phase, Pulse, Stage, Worker
from bkd.supervisor.facts import WorkerExited, WorkerWorn
from bkd.supervisor.recycling import SPREAD, outlived, worn
from bkd.supervisor.watch import Watch

from .drive import START, Drive, kinds, python, rolling, settled, spawned, web


def wear(drive: Drive, slots: list[str] | None = None, **pulse: float) -> None:
    """Heartbeats that say of these slots that they have done a lot."""
    for slot in slots or drive.slot_names():
        drive.ping(slot, **(pulse or {"served": 10_000}))
    drive.settle()


def group(**settings: object):
    """A group of this configuration, as the rules see it."""
    return Drive(web(**settings)).group()


# -- limits


@given(st.integers(1, 10_000), st.integers(1, 500))
def test_every_worker_has_a_limit_of_its_own_near_the_one_that_was_set(limit, number):
    worker = Worker(number, f"web.{number}", 1, 0.0, phase=Phase.READY)
    row = group(max_requests=limit)
    assert not worn(row, worker, Pulse(0.0, served=int(limit * (1 - SPREAD)) - 1))
    assert worn(row, worker, Pulse(0.0, served=int(limit * (1 + SPREAD)) + 1))


def test_siblings_do_not_end_together():
    row = group(count=8, max_requests=1000)
    workers = [Worker(number, f"web.{number}", 1, 0.0, phase=Phase.READY) for number in range(1, 9)]
    ends = [next(n for n in range(800, 1200) if worn(row, worker, Pulse(0.0, served=n))) for worker in workers]
    assert len(set(ends)) >= 6
    assert max(ends) - min(ends) > 50


def test_the_successor_in_the_same_slot_has_another_limit():
    row = group(max_lifetime=1000.0)
    ends = set()
    for number in range(1, 20):
        watch = Watch(0.0)
        outlived(row, Worker(number, "web.1", 1, 0.0, phase=Phase.READY), watch)
        ends.add(round(watch.wake))
    assert len(ends) > 10


@pytest.mark.parametrize(
    ("settings", "pulse", "why"),
    [
        ({"max_requests": 1000}, {"served": 1200}, "1200 requests served (max_requests = 1000)"),
        ({"max_memory": 100_000_000}, {"rss": 120_000_000}, "max_memory"),
    ],
)
def test_a_heartbeat_too_many(settings, pulse, why):
    drive = settled(web(**settings))
    wear(drive, **pulse)
    assert why in drive.told(WorkerWorn)[0].why
    wear(drive, ["web.1"], **pulse)
    assert len(drive.told(WorkerWorn)) == 1
    assert len(spawned(drive.taken)) == 2


@pytest.mark.parametrize("pulse", [{"served": 10**9}, {"rss": 10**12}])
def test_without_limits_nobody_is_replaced(pulse):
    drive = settled(web())
    wear(drive, **pulse)
    assert drive.later(10**6) == []


def test_below_its_limit_nobody_is_replaced():
    drive = settled(web(max_requests=1000, max_memory=10**8))
    wear(drive, served=899, rss=89_000_000)
    assert not drive.told(WorkerWorn)


def test_a_lifetime_counts_from_the_ready_on():
    drive = Drive(web(max_lifetime=1000.0))
    drive.load()
    drive.later(100)
    drive.ready("web.1", watched=False)
    drive.at(100 + 899)
    assert not drive.told(WorkerWorn)
    drive.at(100 + 1101)
    assert "max_lifetime = " in drive.told(WorkerWorn)[0].why


def test_a_lifetime_wakes_the_master():
    drive = Drive(web(max_lifetime=1000.0)).up(watched=False)
    assert START + 900 <= drive.plan().wake <= START + 1100


# -- one after the other


def test_the_successor_comes_first():
    drive = settled(web(max_requests=10))
    old = drive.worker("web.1")
    wear(drive)
    assert drive.releases() == [(1, 1)]
    drive.later(60)
    assert drive.worker("web.1").id == old.id
    assert kinds(drive.happen(events.BecameReady(drive.slot("web.1").staying[-1].id, False))) == ["Retire", "Ask"]
    drive.obeys()
    assert drive.worker("web.1").id != old.id
    assert (drive.slot("web.1").score, drive.slot("web.1").restarts) == (0.0, 0)
    assert drive.told(WorkerExited)[-1].cause == "planned"


@pytest.mark.parametrize(("count", "most"), [(1, 1), (4, 1), (10, 1), (19, 1), (20, 2), (30, 3)])
def test_at_most_a_tenth_at_once_and_never_below_count(count, most):
    drive = settled(web(count=count, max_requests=10, preload="false"))
    old = {worker.id for _, _, worker in drive.cluster.workers()}
    wear(drive)
    assert sum(len(slot.staying) > 1 for slot in drive.slots()) == most
    for _ in range(4 * count):
        assert sum(slot.serves for slot in drive.slots()) == count
        assert sum(len(slot.staying) > 1 for slot in drive.slots()) <= most
        assert sum(w.ending is not None for _, _, w in drive.cluster.workers()) <= max(2, count // 4)
        drive.goes_on()
    assert not old & {worker.id for _, _, worker in drive.cluster.workers()}


@pytest.mark.parametrize(("surge", "unavailable"), [(0, 1), (0, 4), (1, 2), (3, 0)])
@pytest.mark.parametrize("count", [4, 20])
def test_recycling_is_bounded_whatever_a_roll_may_do(count, surge, unavailable):
    """A roll is wanted now; this is not."""
    drive = settled(web(count=count, max_surge=surge, max_unavailable=unavailable, max_requests=10))
    old = {worker.id for _, _, worker in drive.cluster.workers()}
    wear(drive)
    most = max(1, count // 10)
    for _ in range(5 * count):
        moving = sum(len(slot.staying) > 1 or not slot.serves for slot in drive.slots())
        assert moving <= most
        assert sum(slot.serves for slot in drive.slots()) >= count - (most if not surge else 0)
        drive.goes_on()
    assert not old & {worker.id for _, _, worker in drive.cluster.workers()}


def test_a_worn_worker_that_dies_is_replaced_like_any_other():
    drive = settled(web(count=2, max_requests=10))
    wear(drive)
    assert spawned(drive.ends(drive.worker("web.2"), 1)) == [("web.2", 1)]
    assert drive.slot("web.2").score == 1.0


def test_a_successor_that_dies_is_the_slot_s_affair_and_the_worn_one_goes_on():
    drive = settled(web(max_requests=10))
    old = drive.worker("web.1").id
    wear(drive)
    drive.dies("web.1", 1, chance=0.99)
    assert drive.worker("web.1").id == old
    assert drive.slot("web.1").next_try > drive.now
    drive.later(1)
    assert len(drive.slot("web.1").staying) == 2


@pytest.mark.parametrize("code", [78, 1])
def test_a_slot_whose_successor_fails_for_good_keeps_what_serves(code):
    drive = settled(web(max_requests=10, max_restarts=1))
    old = drive.worker("web.1").id
    wear(drive)
    drive.dies("web.1", code)
    assert drive.later(3600) == []
    assert drive.worker("web.1").id == old


@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (0, 1), (2, 1)])
def test_a_slot_that_has_failed_does_not_stop_the_others(surge, unavailable):
    drive = settled(web(count=3, max_requests=10, max_surge=surge, max_unavailable=unavailable))
    drive.dies("web.1", 78)
    old = {drive.worker("web.2").id, drive.worker("web.3").id}
    wear(drive, ["web.2", "web.3"])
    for _ in range(20):
        drive.goes_on()
    assert not old & {worker.id for _, _, worker in drive.cluster.workers()}


def test_held_workers_are_not_recycled():
    drive = settled(web(max_requests=10, max_lifetime=100.0))
    drive.happen(events.Held("web.1", True))
    wear(drive)
    assert "Spawn" not in kinds(drive.later(600))
    drive.happen(events.Held("web.1", False))
    drive.happen(events.BecameReady(drive.slot("web.1").staying[-1].id, False))
    drive.obeys()
    assert [worker.stale for worker in drive.slot("web.1").workers] == [""]


def test_nobody_is_recycled_while_the_loader_is_away():
    drive = settled(web(max_requests=10))
    drive.happen(events.LoaderGone("web", 1, "signal 9"))
    wear(drive)
    assert drive.releases() == [(1,)]
    assert spawned(drive.load()) == [("web.1", 1)]


@pytest.mark.parametrize("which", ["web.1", "web.4"])
def test_a_roll_and_recycling_at_the_same_time_come_to_their_end(which):
    drive = settled(web(count=4, max_requests=10))
    wear(drive)
    drive.asks()
    drive.goes_well()
    assert drive.group().outcome.done
    drive = rolling(Stage.CANARY, web(count=4, max_requests=10))
    wear(drive, [which])
    drive.goes_well()
    assert drive.releases() == [(2,)] * 4


def test_a_new_limit_counts_from_the_next_heartbeat_on():
    drive = settled(web())
    wear(drive, served=500)
    drive.happen(events.Reconfigured({"web": web(max_requests=100)}, drive.cluster.ping, {}))
    assert not drive.told(WorkerWorn)
    wear(drive, served=501)
    assert drive.told(WorkerWorn)


def test_who_ends_already_is_not_worn_out():
    drive = settled(web(count=2, max_requests=10))
    drive.happen(events.Scaled("web", 1))
    ending = drive.slot("web.2").workers[0]
    drive.happen(events.Pinged(ending.id, served=10_000))
    assert not drive.told(WorkerWorn)


# -- a fresh worker for one slot


def goes_on_for_long(drive: Drive) -> None:
    """The world obeys for a while, roll or not."""
    for _ in range(60):
        drive.goes_on()


def test_a_slot_gets_a_fresh_worker_of_the_current_release():
    drive = settled()
    assert spawned(drive.happen(events.Replaced("web.2"))) == [("web.2", 1)]
    old = drive.worker("web.2").id
    drive.happen(events.BecameReady(drive.slot("web.2").staying[-1].id, False))
    assert drive.worker("web.2").id != old
    drive.obeys()
    assert drive.releases() == [(1,)] * 4
    assert drive.slot("web.2").restarts == 0


def test_hard_replacing_kills_first():
    drive = settled()
    done = drive.happen(events.Replaced("web.2", hard=True))
    assert kinds(done)[0] == "Kill"
    assert spawned([*done, *drive.obeys()]) == [("web.2", 1)]
    assert drive.slot("web.2").score == 0.0


@pytest.mark.parametrize("hard", [False, True])
def test_a_slot_asked_for_twice(hard):
    """Before the first fresh worker is ready, and after."""
    drive = settled(web(count=2))
    first = drive.worker("web.1").id
    drive.happen(events.Replaced("web.1", hard))
    drive.happen(events.Replaced("web.1", hard))
    goes_on_for_long(drive)
    assert [(worker.id != first, worker.stale) for worker in drive.slot("web.1").workers] == [(True, "")]


def test_all_slots_asked_for_at_once_never_miss_more_than_one():
    drive = settled()
    drive.happen(*(events.Replaced(slot) for slot in drive.slot_names()))
    old = {worker.id for _, _, worker in drive.cluster.workers() if worker.stale}
    for _ in range(60):
        assert sum(slot.serves for slot in drive.slots()) == 4
        drive.goes_on()
    assert not old & {worker.id for _, _, worker in drive.cluster.workers()}


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.CANARY, Stage.ROLLING, Stage.SETTLING])
@pytest.mark.parametrize("slot", ["web.1", "web.2", "web.4"])
def test_replaced_in_the_middle_of_a_roll(slot, stage, hard):
    drive = rolling(stage)
    drive.happen(events.Replaced(slot, hard))
    drive.goes_well()
    assert drive.group().outcome.done
    goes_on_for_long(drive)
    assert drive.releases() == [(2,)] * 4
    assert not any(worker.stale for _, _, worker in drive.cluster.workers())


def test_a_canary_that_is_worn_out_before_it_has_passed():
    drive = rolling(Stage.CANARY, web(count=4, max_requests=10))
    drive.serves("web.1", 2)
    drive.happen(events.Pinged(drive.of("web.1", 2).id, 0.001, served=50))
    drive.goes_well()
    assert drive.group().outcome.done
    goes_on_for_long(drive)
    assert drive.releases() == [(2,)] * 4


def test_a_fresh_worker_that_does_not_come_up_costs_the_old_one_nothing():
    drive = settled()
    old = drive.worker("web.1").id
    drive.happen(events.Replaced("web.1"))
    drive.dies("web.1", 1)
    drive.later(1)
    assert drive.worker("web.1").id == old
    assert drive.slot("web.1").score > 0
    assert drive.releases()[0] == (1, 1)


def test_a_function_asked_for_again_that_finishes():
    """What it was to take the place of is not needed any more either."""
    drive = settled(python())
    drive.happen(events.Replaced("jobs.1"))
    drive.dies("jobs.1", 0)
    drive.obeys()
    assert drive.slot("jobs.1").done
    assert drive.slot("jobs.1").workers == ()


def test_a_function_asked_for_again_is_run_again():
    drive = settled(python())
    drive.happen(events.Replaced("jobs.1"))
    drive.happen(events.BecameReady(drive.slot("jobs.1").staying[-1].id, False))
    drive.obeys()
    assert drive.releases("jobs") == [(1,)]
