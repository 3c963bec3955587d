"""Which worker goes when: room for successors, who replaces the dead, what operators do in the middle of a roll."""

import pytest

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Loader, Stage
from bkd.supervisor.facts import RollAborted, RollDone

from .drive import Drive, command, kinds, rolling, settled, spawned, web

# -- room


def drained(drive: Drive) -> int:
    """How many workers drain."""
    return sum(1 for _, _, worker in drive.cluster.workers() if worker.ending is not None)


def doubled(drive: Drive) -> int:
    """How many slots have two workers that are to stay."""
    return sum(len(slot.staying) > 1 for slot in drive.slots())


@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (2, 0), (9, 0), (0, 1), (0, 2), (1, 1), (2, 3)])
@pytest.mark.parametrize("count", [1, 4, 9, 12])
def test_a_roll_keeps_its_limits(count, surge, unavailable):
    drive = settled(web(count=count, max_surge=surge, max_unavailable=unavailable, preload="false"))
    drive.asks()
    for _ in range(300):
        assert sum(slot.serves for slot in drive.slots()) >= count - unavailable
        assert doubled(drive) <= surge
        assert drained(drive) <= max(2, count // 4)
        if drive.stage() is None:
            break
        drive.goes_on()
    assert drive.releases() == [(2,)] * count


def test_surge_is_how_many_slots_have_two_at_a_time():
    drive = rolling(Stage.ROLLING, web(count=6, max_surge=3))
    drive.obeys()
    assert doubled(drive) == 3
    drive.serves("web.3", 2)
    assert doubled(drive) == 3
    assert drive.releases()[2:5] == [(2,), (1, 2), (1, 2)][:3]


@pytest.mark.parametrize("stage", [Stage.CANARY, Stage.ROLLING])
def test_without_surge_the_old_one_is_gone_first(stage):
    """It may hold what its successor needs, such as a port."""
    drive = settled(command(count=2, max_surge=0, max_unavailable=1))
    assert kinds(drive.asks("cache")) == ["AdvanceRoll", "Retire", "Ask"]
    done = drive.obeys()
    if stage == Stage.ROLLING:
        drive.serves("cache.1", 2)
        assert kinds(drive.later(3)) == ["AdvanceRoll", "Retire", "Ask"]
        done = drive.obeys()
    assert spawned(done) == [("cache.1" if stage == Stage.CANARY else "cache.2", 2)]


@pytest.mark.parametrize(("unavailable", "gone"), [(1, 1), (2, 2), (5, 2)])
def test_unavailable_is_how_many_slots_have_none(unavailable, gone):
    drive = rolling(Stage.CANARY, web(count=6, max_surge=0, max_unavailable=unavailable))
    drive.obeys()
    drive.serves("web.1", 2)
    assert kinds(drive.later(3)).count("Retire") == gone


def test_without_surge_only_the_canary_ends_before_it_has_passed():
    drive = rolling(Stage.CANARY, web(count=6, max_surge=0, max_unavailable=3))
    drive.obeys()
    drive.serves("web.1", 2)
    assert drive.later(2.9) == []
    assert drive.releases() == [(2,), *[(1,)] * 5]


@pytest.mark.parametrize(("count", "most"), [(4, 2), (9, 2), (16, 4)])
def test_so_many_drain_at_once(count, most):
    """The next successor is not even started while its slot could not be handed over."""
    drive = rolling(Stage.ROLLING, web(count=count, max_surge=count))
    for number in range(2, count + 1):
        drive.serves(f"web.{number}", 2)
    assert drained(drive) == most
    drive.obeys()
    assert drained(drive) == min(most, count - most)


@pytest.mark.parametrize("code", [1, -9])
def test_a_crash_loop_can_be_repaired_without_surge(code):
    """A slot that dies again and again must not use up what the canary needs."""
    drive = settled(command(count=2, max_surge=0, max_unavailable=1))
    drive.dies("cache.2", code)
    drive.asks("cache")
    for _ in range(60):
        for worker in drive.slot("cache.2").staying:
            if worker.release == 1:
                drive.ends(worker, code)
        drive.goes_on("cache")
    assert drive.releases("cache") == [(2,), (2,)]


# -- who replaces whom


def test_before_the_canary_has_passed_the_dead_are_replaced_by_the_old_release():
    drive = rolling(Stage.CANARY)
    assert spawned(drive.ends(drive.of("web.3", 1), -9)) == [("web.3", 1)]
    assert spawned(drive.ends(drive.of("web.2", 1), 1)) == [("web.2", 1)]
    assert drive.slot("web.2").score == 1.0


@pytest.mark.parametrize("code", [1, -9])
def test_in_the_canary_s_slot_as_well(code):
    """Until it has passed, the old release serves there beside it."""
    drive = rolling(Stage.CANARY)
    assert spawned(drive.ends(drive.of("web.1", 1), code)) == [("web.1", 1)]
    drive.serves("web.1", 1)
    drive.serves("web.1", 2)
    drive.later(2.9)
    assert sorted(drive.releases()[0]) == [1, 2]
    drive.later(0.1)
    assert drive.releases()[0] == (2,)


def test_an_old_worker_that_came_back_in_the_canary_s_slot_is_there_when_the_canary_fails():
    drive = rolling(Stage.CANARY, web())
    drive.ends(drive.of("web.1", 1), -9)
    drive.serves("web.1", 1)
    old = drive.of("web.1", 1).id
    drive.ends(drive.of("web.1", 2), 1)
    drive.goes_well()
    assert [worker.id for worker in drive.slot("web.1").workers] == [old]


def test_after_the_canary_has_passed_the_dead_are_replaced_by_the_new_release():
    drive = rolling(Stage.ROLLING)
    assert spawned(drive.ends(drive.of("web.4", 1), 1)) == [("web.4", 2)]
    assert drive.slot("web.4").score == 0.0
    assert drive.goes_well().releases() == [(2,)] * 4


def test_an_old_worker_that_dies_where_its_successor_comes_up_is_not_replaced_twice():
    drive = rolling(Stage.ROLLING)
    assert drive.releases()[1] == (1, 2)
    done = drive.ends(drive.of("web.2", 1), 1)
    assert ("web.2", 2) not in spawned(done)
    assert drive.releases()[1] == (2,)


def test_an_old_worker_that_hangs_costs_the_roll_nothing():
    drive = settled(web(count=2, request_timeout=60.0))
    drive.asks()
    drive.goes_well(Stage.ROLLING)
    drive.happen(events.Pinged(drive.of("web.2", 1).id, in_flight=1, oldest=61.0))
    assert drive.slot("web.2").score == 0.0
    assert drive.goes_well().releases() == [(2,), (2,)]


def test_while_the_new_loader_is_away_for_a_moment_nobody_of_the_old_release_goes():
    drive = rolling(Stage.CANARY)
    drive.happen(events.LoaderGone("web", 1, "signal 9"))
    drive.serves("web.1", 2)
    assert drive.later(3)
    assert not drive.told(RollAborted)
    assert drive.stage() == Stage.ROLLING


# -- the way back


def test_slots_that_had_moved_come_back_from_the_release_that_is_still_loaded():
    """One at a time, and nobody who serves goes before the successor does."""
    drive = rolling(Stage.SETTLING)
    drive.obeys()
    loads = kinds(drive.taken).count("LoadRelease")
    drive.ends(drive.of("web.3", 2), 1)
    for _ in range(60):
        serving = [slot.name for slot in drive.slots() if slot.serves]
        assert len(serving) >= 3
        assert sum(len(slot.staying) > 1 for slot in drive.slots()) <= 1
        drive.goes_on()
    assert drive.releases() == [(1,)] * 4
    assert kinds(drive.taken).count("LoadRelease") == loads


def test_slots_that_lost_their_worker_come_back_all_at_once():
    drive = rolling(Stage.SETTLING)
    drive.obeys()
    workers = [drive.of(slot, 2).id for slot in drive.slot_names()]
    done = drive.happen(*(events.Exited(worker, 1) for worker in workers))
    assert spawned(done) == [(f"web.{number}", 1) for number in range(1, 5)]


def test_what_is_coming_up_is_not_waited_for_on_the_way_back():
    drive = rolling(Stage.ROLLING)
    drive.ends(drive.of("web.1", 2), 1)
    ending = [worker for worker in drive.slot("web.2").workers if worker.release == 2]
    assert [worker.ending.step for worker in ending] == ["termed"]


def test_a_loader_that_is_given_up_is_ended_at_once():
    drive = rolling(Stage.ROLLING)
    assert "DropLoader" in kinds(drive.ends(drive.of("web.1", 2), 1))
    assert drive.group().releases[2].loader == Loader.ABSENT
    assert drive.group().releases[1].loader == Loader.READY


def test_deaths_of_new_workers_on_the_way_back_are_charged_to_nobody():
    drive = rolling(Stage.SETTLING)
    drive.obeys()
    drive.ends(drive.of("web.1", 2), 1)
    drive.ends(drive.of("web.3", 2), 1)
    drive.ends(drive.of("web.4", 2), 78)
    assert {(slot.score, slot.failed) for slot in drive.slots()} == {(0.0, "")}
    assert drive.goes_well().releases() == [(1,)] * 4


def test_deaths_of_old_workers_on_the_way_back_are_their_slots_own():
    drive = rolling(Stage.SETTLING)
    drive.obeys()
    drive.ends(drive.of("web.1", 2), 1)
    drive.ends(drive.of("web.1", 1), 1)
    assert drive.slot("web.1").score == 1.0
    drive.goes_well()
    drive.later(1)
    assert drive.releases() == [(1,)] * 4


def test_the_way_back_loads_the_old_release_again_if_it_has_to():
    drive = rolling(Stage.ROLLING)
    assert "LoadRelease" not in kinds(drive.happen(events.LoaderGone("web", 1, "signal 9")))
    done = drive.ends(drive.of("web.1", 2), 1)
    assert [action.release for action in done if kinds([action]) == ["LoadRelease"]] == [1]
    assert drive.goes_well().releases() == [(1,)] * 4


def test_a_way_back_that_leads_nowhere_ends_as_well_and_what_serves_goes_on():
    drive = rolling(Stage.SETTLING, web(count=2, start_timeout=10.0, drain=5.0))
    drive.obeys()
    drive.happen(events.LoaderGone("web", 1, "signal 9"))
    drive.ends(drive.of("web.1", 2), 1)
    for _ in range(30):
        if drive.group().releases[1].loader == Loader.LOADING:
            drive.happen(events.LoaderFailed("web", 1, "ImportError"))
        drive.later(5)
    assert drive.stage() is None
    assert not drive.group().outcome.done
    assert drive.slot("web.2").serves


def test_a_second_fault_on_the_way_back_is_not_told():
    drive = rolling(Stage.SETTLING)
    drive.ends(drive.of("web.1", 2), 1)
    drive.ends(drive.of("web.2", 2), 1)
    drive.goes_well()
    assert len(drive.told(RollAborted)) == 1
    assert drive.group().outcome.reason.startswith("web.1")


# -- scaling in the middle


@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.CANARY, Stage.ROLLING, Stage.SETTLING])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_scaling_in_the_middle_of_a_roll(stage, count):
    drive = rolling(stage)
    drive.happen(events.Scaled("web", count))
    drive.goes_well()
    drive.obeys()
    assert drive.releases() == [(2,)] * count
    assert drive.group().outcome.done


def test_new_slots_get_what_the_others_have_proven():
    drive = rolling(Stage.CANARY)
    assert spawned(drive.happen(events.Scaled("web", 5))) == [("web.5", 1)]
    drive = rolling(Stage.ROLLING)
    assert spawned(drive.happen(events.Scaled("web", 5))) == [("web.5", 2)]


def test_the_canary_s_slot_can_be_scaled_away():
    drive = settled(web(count=2))
    drive.dies("web.2", 78)
    drive.asks()
    drive.loads(2)
    assert drive.group().roll.canary == "web.2"
    drive.happen(events.Scaled("web", 1))
    assert (drive.stage(), drive.group().roll.canary) == (Stage.CANARY, "web.1")
    drive.obeys()
    assert drive.goes_well().releases() == [(2,)]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_scaling_on_the_way_back(count):
    drive = rolling(Stage.SETTLING)
    drive.obeys()
    drive.ends(drive.of("web.1", 2), 1)
    drive.happen(events.Scaled("web", count))
    drive.goes_well()
    drive.obeys()
    for slot in drive.slot_names():
        drive.ready(slot, watched=False)
    assert drive.releases() == [(1,)] * count
    assert not drive.group().outcome.done


# -- holding in the middle


def test_a_held_slot_keeps_the_old_release_and_that_is_told():
    drive = settled()
    drive.happen(events.Held("web.2", True))
    drive.asks()
    drive.goes_well()
    assert drive.releases() == [(2,), (1,), (2,), (2,)]
    assert drive.group().outcome.left == ("web.2",)
    assert list(drive.told(RollDone)[0].left) == ["web.2"]
    assert 1 in drive.group().releases
    drive.happen(events.Held("web.2", False))
    drive.serves("web.2", 2)
    drive.obeys()
    assert drive.releases() == [(2,)] * 4


def test_the_canary_moves_on_when_its_slot_is_held():
    drive = rolling(Stage.CANARY)
    drive.happen(events.Held("web.1", True))
    assert (drive.stage(), drive.group().roll.canary) == (Stage.CANARY, "web.2")
    drive.goes_well()
    assert drive.releases() == [(1, 2), (2,), (2,), (2,)]
    assert drive.group().outcome.left == ("web.1",)
    drive.happen(events.Held("web.1", False))
    drive.obeys()
    assert drive.releases() == [(2,)] * 4


def hold_all(drive: Drive, held: bool) -> None:
    """Every slot is held, or given back."""
    drive.happen(*(events.Held(slot, held) for slot in drive.slot_names()))


@pytest.mark.parametrize("stage", [Stage.ROLLING, Stage.SETTLING])
def test_a_roll_ends_though_everything_is_held(stage):
    drive = rolling(stage)
    hold_all(drive, True)
    drive.goes_well()
    assert drive.group().outcome.done
    hold_all(drive, False)
    for _ in range(40):
        drive.goes_on()
    assert drive.releases() == [(2,)] * 4


@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.CANARY])
def test_where_everything_is_held_nothing_can_be_proven(stage):
    drive = rolling(stage)
    hold_all(drive, True)
    drive.goes_well()
    assert "held" in drive.told(RollAborted)[0].reason
    assert drive.group().current == 1
    hold_all(drive, False)
    for _ in range(40):
        drive.goes_on()
    assert drive.releases() == [(1,)] * 4


def test_holding_and_giving_back_in_the_middle_changes_nothing():
    drive = rolling(Stage.ROLLING)
    drive.happen(events.Held("web.3", True), events.Held("web.3", False))
    drive.goes_well()
    assert drive.releases() == [(2,)] * 4
    assert drive.group().outcome.left == ()


def test_what_is_held_on_the_way_back_is_brought_back_later():
    drive = rolling(Stage.SETTLING)
    drive.obeys()
    drive.happen(events.Held("web.2", True))
    drive.ends(drive.of("web.1", 2), 1)
    drive.goes_well()
    assert drive.releases() == [(1,), (2,), (1,), (1,)]
    drive.happen(events.Held("web.2", False))
    drive.serves("web.2", 1)
    assert drive.releases() == [(1,)] * 4


# -- hard


def test_hard_kills_all_at_once_as_soon_as_the_release_is_loaded():
    drive = settled()
    assert kinds(drive.asks(hard=True)) == ["LoadRelease"]
    done = drive.loads(2)
    assert kinds(done).count("Kill") == 4
    assert "Ask" not in kinds(done)
    assert spawned([*done, *drive.obeys()]) == [(f"web.{number}", 2) for number in range(1, 5)]
    drive.goes_well()
    assert drive.group().outcome.done


def test_hard_costs_nothing_when_the_release_cannot_be_loaded():
    drive = settled()
    before = drive.group().slots
    drive.asks(hard=True)
    drive.happen(events.LoaderFailed("web", 2, "SyntaxError"))
    assert drive.group().slots == before


def test_a_hard_roll_that_fails_is_taken_back_in_peace():
    drive = rolling(Stage.ROLLING, web(count=4), hard=True)
    drive.obeys()
    drive.serves("web.2", 2)
    kills = len(drive.did(actions.Kill))
    drive.ends(drive.of("web.1", 2), 1)
    drive.goes_well()
    assert drive.releases() == [(1,)] * 4
    assert len(drive.did(actions.Kill)) == kills
