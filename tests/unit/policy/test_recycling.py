"""Healthy workers that are to be replaced: limits with a spread, the successor first, few at a time, or on demand."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor import events
from bkd.supervisor.cluster import Phase, Pulse, Release, Stage, Worker
from bkd.supervisor.config.schema import (
    AppSection,
    BusSection,
    Config,
    ControlSection,
    LogSection,
    PingSection,
    StoreSection,
)
from bkd.supervisor.facts import LimitRefused, WorkerExited, WorkerWorn
from bkd.supervisor.memorytrend import Trend
from bkd.supervisor.recycling import MEASURED, ROOM, SPREAD, least, limit_of, limit_refused, outlived, too_small, worn
from bkd.supervisor.status import document, reason, table
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
        ({"max_requests": 1}, {"served": 2}, "2 requests served (max_requests = 1)"),
        ({"max_requests": 1000}, {"served": 1200}, "1,200 requests served (max_requests = 1000)"),
        ({"max_memory": 100 << 20}, {"pss": 120 << 20}, "120 MB of memory (max_memory = 100 MB)"),
    ],
)
def test_a_heartbeat_too_many(settings, pulse, why):
    drive = settled(web(**settings))
    drive.ping("web.1", pss=30 << 20)
    wear(drive, **pulse)
    assert why in drive.told(WorkerWorn)[0].why
    wear(drive, ["web.1"], **pulse)
    assert len(drive.told(WorkerWorn)) == 1
    assert len(spawned(drive.taken)) == 2


@pytest.mark.parametrize("pulse", [{"served": 10**9}, {"rss": 10**12}, {"pss": 10**12}])
def test_without_limits_nobody_is_replaced(pulse):
    drive = settled(web())
    wear(drive, **pulse)
    assert drive.later(10**6) == []


def test_below_its_limit_nobody_is_replaced():
    drive = settled(web(max_requests=1000, max_memory=10**8))
    wear(drive, served=899, pss=89_000_000, rss=10**12)
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


# -- memory


def measured(drive: Drive, slot: str = "web.1", **pulse: float) -> None:
    """A later heartbeat with another measurement."""
    drive.now += 20.0
    drive.ping(slot, **pulse)
    drive.settle()


def test_until_it_is_measured_memory_does_not_count():
    drive = settled(web(max_memory=10))
    wear(drive, rss=10**9)
    assert not drive.told(WorkerWorn)
    assert drive.worker("web.1").trend is None


@pytest.mark.parametrize(
    ("served", "growth"),
    [
        (40_000, "; it grew from 80 MB, 9.5 KB a request over 39,990 requests"),
        (109, "; it grew from 80 MB in 30 s"),
    ],
)
def test_it_is_said_how_a_worker_came_to_its_size(served, growth):
    drive = settled(web(max_memory=400 << 20))
    drive.ping("web.1", pss=80 << 20, served=10)
    measured(drive, pss=450 << 20, served=served)
    assert drive.told(WorkerWorn)[0].why == "450 MB of memory (max_memory = 400 MB)" + growth


def test_a_heartbeat_that_comes_before_its_worker_counts_as_ready_is_none_of_a_fresh_one():
    """Heartbeats are taken up at once, everything else in the next turn."""
    drive = Drive(web(max_memory=100 << 20))
    drive.load()
    drive.ping("web.1", pss=120 << 20)
    drive.ready("web.1")
    assert drive.group().release.fresh == 0
    drive.ping("web.1", pss=80 << 20)
    assert drive.group().release.fresh == 80 << 20
    assert not drive.told(WorkerWorn)


def test_who_was_not_measured_when_fresh_is_recycled_without_a_word_on_growth():
    drive = settled(web(max_memory=400 << 20))
    drive.now += 30.0
    drive.ping("web.1", pss=80 << 20)
    measured(drive, pss=450 << 20, served=10_000)
    assert drive.told(WorkerWorn)[0].why == "450 MB of memory (max_memory = 400 MB)"
    assert drive.group().release.fresh == 0


def test_a_limit_below_the_fresh_size_is_refused_once_and_nobody_is_recycled():
    drive = settled(web(count=3, max_memory=50 << 20))
    for slot in drive.slot_names():
        drive.ping(slot, pss=62 << 20)
        measured(drive, slot, pss=200 << 20, served=10_000)
    assert not drive.told(WorkerWorn)
    assert drive.releases() == [(1,)] * 3
    (refused,) = drive.told(LimitRefused)
    text = "max_memory = 50 MB is not applied: a fresh worker of release 1 has 62 MB; at least 75 MB makes sense"
    assert refused.describe() == f"web: {text}"
    assert reason(drive.group(), drive.now) == text


def shown(drive: Drive) -> dict[str, Any]:
    """The cluster's status."""
    config = Config(
        "", "", AppSection(), ControlSection(), PingSection(), LogSection(), BusSection(), StoreSection(), {}
    )
    status = document(drive.cluster, config, began=0.0, keeper=1, dropped=lambda _worker: 0)
    return {**status, "bus": {"url": "local:"}}


def test_the_status_says_how_memory_grows_and_when_it_will_be_too_much():
    drive = settled(web(max_memory=400 << 20))
    drive.ping("web.1", rss=90 << 20)
    before = shown(drive)
    drive.ping("web.1", rss=90 << 20, pss=80 << 20)
    measured(drive, rss=200 << 20, pss=100 << 20, served=1000, late=3)
    row = shown(drive)["groups"][0]["workers"][0]
    assert (row["rss"], row["pss"], row["late"], row["served"]) == (200 << 20, 100 << 20, 3, 1000)
    assert row["growth_per_request"] == pytest.approx((20 << 20) / 1000, abs=0.1)
    limit = limit_of(drive.group(), drive.worker("web.1"))
    assert row["limit_in"] == pytest.approx((limit - (100 << 20)) / (1 << 20), abs=0.01)
    assert re.search(r" 100MB limit in [45]m\S* ", table(shown(drive)))
    assert " 90MB " in table(before)
    row = before["groups"][0]["workers"][0]
    assert [row[name] for name in ("pss", "growth_per_request", "limit_in", "late")] == [None, None, None, 0]


def test_who_will_take_more_than_an_hour_is_not_told_of():
    drive = settled(web(max_memory=4 << 30))
    drive.ping("web.1", pss=80 << 20)
    measured(drive, pss=81 << 20)
    assert shown(drive)["groups"][0]["workers"][0]["limit_in"] > 3600
    assert "limit in" not in table(shown(drive))


def test_other_limits_count_when_one_is_refused():
    drive = settled(web(max_memory=50 << 20, max_requests=100))
    drive.ping("web.1", pss=62 << 20)
    measured(drive, pss=62 << 20, served=200)
    assert "max_requests" in drive.told(WorkerWorn)[0].why


@given(st.integers(1, 1 << 40), st.integers(0, 10**6))
def test_a_limit_that_makes_sense_leaves_every_fresh_worker_alone(fresh, number):
    release = Release(1, web(), fresh=fresh)
    limit = least(release)
    assert ROOM * fresh <= limit <= 1.1 * ROOM * fresh + 1
    assert not too_small(limit, release)
    assert too_small(int(ROOM * fresh / 1.01), release) or fresh < 100
    assert limit_of(group(max_memory=limit), Worker(number, "web.1", 1, 0.0, trend=Trend())) > fresh or fresh < 100


def limited(drive: Drive, limit: int) -> None:
    """The configuration has another `max_memory`."""
    drive.happen(events.Reconfigured({"web": web(max_memory=limit)}, drive.cluster.ping, {}))


def test_a_refused_limit_is_judged_again_when_another_one_is_set():
    drive = settled(web(max_memory=50 << 20))
    drive.later(MEASURED)
    drive.ping("web.1", pss=62 << 20)
    limited(drive, 60 << 20)
    assert [fact.limit >> 20 for fact in drive.told(LimitRefused)] == [50, 60]
    limited(drive, 80 << 20)
    assert reason(drive.group(), drive.now) == ""
    measured(drive, pss=90 << 20)
    assert drive.told(WorkerWorn)
    assert len(drive.told(LimitRefused)) == 2


def test_a_change_of_something_else_says_nothing_again():
    drive = settled(web(max_memory=50 << 20))
    drive.later(MEASURED)
    drive.ping("web.1", pss=62 << 20)
    drive.happen(events.Reconfigured({"web": web(max_memory=50 << 20, term=1.0)}, drive.cluster.ping, {}))
    assert len(drive.told(LimitRefused)) == 1
    assert limit_refused(drive.group(), 1)


def test_a_refused_limit_is_judged_again_for_a_new_release():
    """The new one is small enough."""
    drive = settled(web(max_memory=50 << 20, min_ready=0.0))
    drive.ping("web.1", pss=62 << 20)
    drive.asks()
    drive.goes_well()
    drive.ping("web.1", pss=30 << 20)
    assert reason(drive.group(), drive.now) == ""
    measured(drive, pss=60 << 20)
    assert "it grew from 30 MB" in drive.told(WorkerWorn)[0].why


def test_what_the_first_ones_do_not_share_yet_does_not_count():
    """A canary shares what was preloaded with its zygote alone, later with all siblings."""
    drive = Drive(web(count=4, max_memory=120 << 20)).up()
    drive.ping("web.1", pss=103 << 20)
    drive.later(MEASURED)
    for slot in drive.slot_names():
        drive.ping(slot, pss=44 << 20)
    assert not drive.told(LimitRefused)
    assert drive.group().release.fresh == 44 << 20
    measured(drive, "web.1", pss=140 << 20, served=1000)
    assert "it grew from 44 MB" in drive.told(WorkerWorn)[0].why


def test_nobody_is_recycled_while_the_limit_looks_too_small():
    """It may be the first one of a few that come and share."""
    drive = Drive(web(count=4, max_memory=120 << 20)).up()
    drive.ping("web.1", pss=103 << 20)
    drive.now += 1.0
    drive.ping("web.1", pss=140 << 20)
    assert not drive.told(WorkerWorn) + drive.told(LimitRefused)


def test_with_fewer_siblings_a_worker_is_larger_and_a_limit_may_be_too_small():
    drive = settled(web(count=2, max_memory=90 << 20))
    for slot in drive.slot_names():
        drive.ping(slot, pss=44 << 20)
    drive.happen(events.Scaled("web", 1))
    drive.ping("web.1", pss=103 << 20)
    assert len(drive.told(WorkerWorn)) == 1
    drive.settle()
    drive.happen(events.BecameReady(drive.slot("web.1").workers[-1].id))
    successor = drive.slot("web.1").workers[-1]
    drive.now += MEASURED
    drive.happen(events.Pinged(successor.id, 0.001, pss=103 << 20))
    drive.ends(drive.slot("web.1").workers[0], 0)
    drive.now += MEASURED
    drive.happen(events.Pinged(successor.id, 0.001, pss=103 << 20))
    assert len(drive.told(WorkerWorn)) == 1
    assert reason(drive.group(), drive.now).startswith("max_memory = 90 MB is not applied")


def test_the_fattest_goes_first():
    drive = settled(web(count=4, max_memory=100 << 20))
    for slot in drive.slot_names():
        drive.ping(slot, pss=30 << 20)
    sizes = {"web.1": 120, "web.2": 150, "web.3": 30, "web.4": 200}
    drive.now += 20.0
    for slot, size in sizes.items():
        drive.ping(slot, pss=size << 20)
    drive.settle()
    for _ in range(40):
        drive.goes_on()
    starts = [slot for slot, _ in spawned(drive.taken)]
    assert starts[4:] == ["web.4", "web.2", "web.1"]


def test_who_is_down_comes_before_the_fattest():
    drive = settled(web(count=4, max_memory=100 << 20))
    drive.ping("web.1", pss=30 << 20)
    drive.now += 20.0
    drive.ping("web.1", pss=300 << 20)
    assert spawned(drive.dies("web.3", 1)) == [("web.3", 1), ("web.1", 1)]


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


def test_a_worn_function_that_finishes_by_itself_leaves_the_slot_to_its_successor():
    drive = settled(python(max_lifetime=60.0))
    old = drive.worker("jobs.1")
    while len(drive.slot("jobs.1").staying) < 2:
        drive.later(5)
        drive.ping("jobs.1", lag=None)
    drive.ends(old, 0)
    (successor,) = drive.slot("jobs.1").staying
    assert not drive.slot("jobs.1").done
    drive.happen(events.BecameReady(successor.id, False))
    drive.ends(drive.slot("jobs.1").staying[0], 1)
    drive.later(60)
    assert drive.slot("jobs.1").staying
