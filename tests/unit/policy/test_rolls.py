"""A roll from its request to its end: stages, the canary, second requests."""

import pytest

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Loader, Phase, Stage
from bkd.supervisor.config.schema import PingSection
from bkd.supervisor.facts import RollAborted, RollDone, RolledBack, RollMoved, RollStarted

from .drive import Drive, command, kinds, python, rolling, settled, spawned, web

STAGES = ["canary", "rolling", "settling"]


# -- stages


def test_a_roll_from_beginning_to_end():
    drive = settled(web(count=4))
    drive.asks()
    assert drive.stage() == Stage.LOADING
    drive.goes_well()
    assert [fact.stage for fact in drive.told(RollMoved)] == STAGES
    assert drive.releases() == [(2,)] * 4
    assert (drive.group().current, drive.group().newest) == (2, 2)
    outcome = drive.group().outcome
    assert (outcome.done, outcome.ticket, outcome.release, outcome.old) == (True, 1, 2, 1)
    assert drive.told(RollStarted)[0].release == 2
    assert drive.told(RollDone)[0].workers == 4
    assert not drive.told(RollDone)[0].left
    assert drive.group().rolled_at == drive.now
    assert not drive.told(RolledBack)


def test_a_roll_is_charged_to_nobody():
    drive = rolling(Stage.SETTLING).goes_well()
    assert {(slot.score, slot.restarts, slot.failed) for slot in drive.slots()} == {(0.0, 0, "")}
    assert drive.group().breaker.deaths == ()


def test_nothing_is_started_before_the_release_is_loaded():
    drive = settled()
    assert kinds(drive.asks()) == ["LoadRelease"]
    assert drive.later(60) == []
    assert drive.releases() == [(1,)] * 4
    assert kinds(drive.loads(2)) == ["AdvanceRoll", "Spawn"]


def test_one_slot_goes_first():
    drive = rolling(Stage.CANARY)
    assert drive.group().roll.canary == "web.1"
    assert drive.releases() == [(1, 2), (1,), (1,), (1,)]
    assert drive.group().current == 1
    assert drive.told(RollMoved)[0].slot == "web.1"


def test_the_canary_passes_after_min_ready_and_not_before():
    drive = rolling(Stage.CANARY, web(count=2, min_ready=3.0))
    drive.later(50)
    drive.serves("web.1", 2)
    assert kinds(drive.later(2.99)) == ["Admit"]
    done = drive.later(0.01)
    assert kinds(done) == ["AdvanceRoll", "Retire", "Ask", "Spawn"]
    assert drive.group().current == 2
    assert drive.releases() == [(2,), (1, 2)]


def test_a_canary_that_says_nothing_any_more_has_not_passed():
    drive = rolling(Stage.CANARY, web(count=2, min_ready=3.0))
    canary = drive.of("web.1", 2)
    drive.happen(events.BecameReady(canary.id))
    drive.happen(events.Pinged(canary.id, 0.001))
    drive.later(6)
    assert drive.stage() == Stage.CANARY
    drive.happen(events.Pinged(canary.id, 0.001))
    drive.later(1)
    assert drive.stage() == Stage.ROLLING


def test_the_canary_takes_no_work_for_most_of_its_time():
    """What dies of itself costs nobody a request; what dies of its work does so while the others are still the old."""
    drive = rolling(Stage.CANARY, web(count=2, min_ready=10.0))
    drive.serves("web.1", 2)
    assert drive.of("web.1", 2).quiet
    assert drive.later(7.9) == []
    assert kinds(drive.later(0.2)) == ["Admit"]
    assert not drive.of("web.1", 2).quiet
    drive.later(2.0)
    assert not drive.of("web.2", 2).quiet


@pytest.mark.parametrize("settings", [{"max_surge": 0, "max_unavailable": 1}, {"min_ready": 0.0}])
def test_a_canary_that_the_group_needs_takes_work_at_once(settings):
    drive = rolling(Stage.CANARY, web(count=2, **settings))
    drive.obeys()
    assert not drive.of("web.1", 2).quiet


def test_a_quiet_canary_is_not_counted_as_serving():
    drive = rolling(Stage.CANARY, web(count=1, min_ready=10.0))
    drive.serves("web.1", 2)
    drive.ends(drive.of("web.1", 1), -9)
    assert not drive.slot("web.1").serves
    drive.serves("web.1", 1)
    assert drive.slot("web.1").serves


def test_only_the_canary_s_own_word_counts():
    """Its sibling of the old release, a successor elsewhere, a second word: none of them is the canary's ready."""
    drive = rolling(Stage.CANARY, web(count=2))
    canary = drive.of("web.1", 2)
    for worker in (drive.of("web.1", 1), drive.of("web.2", 1)):
        drive.happen(events.BecameReady(worker.id, False))
    drive.ends(drive.of("web.2", 1), -9)
    drive.serves("web.2", 1)
    drive.happen(events.BecameReady(canary.id + 50, False))
    drive.later(30)
    assert drive.stage() == Stage.CANARY
    assert drive.of("web.1", 2).phase == Phase.STARTING


def test_a_canary_that_was_replaced_has_to_prove_itself_anew():
    drive = rolling(Stage.CANARY, web(min_ready=3.0))
    drive.serves("web.1", 2)
    drive.later(2)
    drive.ends(drive.of("web.1", 2), -9)
    drive.serves("web.1", 2)
    assert kinds(drive.later(2.9)) == ["Admit"]
    drive.later(0.2)
    assert drive.stage() == Stage.ROLLING or drive.group().current == 2


def test_rolling_ends_when_every_slot_has_a_ready_worker_of_the_new_release():
    drive = rolling(Stage.ROLLING, web(count=2))
    assert drive.stage() == Stage.ROLLING
    drive.serves("web.2", 2)
    assert drive.stage() == Stage.SETTLING


def test_settling_lasts_min_ready():
    drive = rolling(Stage.SETTLING, web(count=2, min_ready=3.0))
    drive.obeys()
    assert drive.later(2.9) == []
    assert kinds(drive.later(0.1))[0] == "FinishRoll"
    assert drive.group().outcome.done


def test_a_roll_is_not_over_before_the_last_old_worker_is_gone():
    drive = rolling(Stage.SETTLING, web(count=2, drain=60.0))
    drive.later(20)
    assert drive.stage() == Stage.SETTLING
    drive.obeys()
    assert drive.stage() is None


def test_the_old_release_stays_loaded_until_the_roll_is_over():
    drive = rolling(Stage.SETTLING, web(count=2, keep_releases=0))
    assert drive.group().releases[1].loader == Loader.READY
    drive.goes_well()
    assert list(drive.group().releases) == [2]


def test_what_happens_to_a_settling_worker_that_is_killed_from_outside():
    """It is replaced, once, and the new one has to settle as well."""
    drive = rolling(Stage.SETTLING, web(count=2, min_ready=3.0))
    drive.obeys()
    assert ("web.2", 2) in spawned(drive.ends(drive.of("web.2", 2), -9))
    drive.later(10)
    assert drive.stage() == Stage.SETTLING
    drive.serves("web.2", 2)
    drive.later(2.9)
    assert drive.stage() == Stage.SETTLING
    assert drive.goes_well().group().outcome.done


# -- other ways to begin


@pytest.mark.parametrize("first", ["failed", "backing off"])
def test_a_slot_with_nothing_to_lose_goes_first_and_neither_back_off_nor_failure_stop_it(first):
    drive = settled(web(count=3))
    drive.dies("web.2", 78 if first == "failed" else 1)
    if first != "failed":
        drive.dies("web.2", 1, chance=0.99)
    assert drive.slot("web.2").active is None
    drive.asks()
    assert spawned(drive.loads(2)) == [("web.2", 2)]
    drive.goes_well()
    assert drive.releases() == [(2,)] * 3
    assert not drive.slot("web.2").failed


def test_a_breaker_does_not_stop_a_release_that_may_be_the_remedy():
    drive = settled(web(count=2))
    for slot in ("web.1", "web.2", "web.1", "web.2"):
        if drive.slot(slot).active:
            drive.dies(slot, 1, chance=0.99)
    drive.later(0.2)
    for slot in ("web.1", "web.2"):
        if drive.slot(slot).active:
            drive.dies(slot, 1, chance=0.99)
    assert drive.group().breaker.open_since is not None
    drive.asks()
    drive.loads(2)
    assert drive.group().roll.canary == "web.1"
    drive.serves("web.1", 2)
    drive.later(3)
    assert drive.group().breaker.open_since is None
    assert drive.releases()[1] == (2,)


def test_a_release_that_never_came_up_is_followed_by_one_that_does():
    drive = Drive(web(count=2))
    drive.happen(events.LoaderFailed("web", 1, "SyntaxError"))
    drive.asks()
    drive.goes_well()
    assert drive.releases() == [(2,), (2,)]


@pytest.mark.parametrize(
    ("group", "loads"),
    [
        (web(count=2, preload="false"), False),
        (python("web", count=2, preload="false"), False),
        (command("web", count=2), False),
        (web(count=2), True),
    ],
)
def test_what_does_not_fork_needs_no_loader(group, loads):
    drive = settled(group)
    before = len(drive.did(actions.LoadRelease))
    drive.asks()
    drive.goes_well()
    assert drive.releases() == [(2,), (2,)]
    assert (len(drive.did(actions.LoadRelease)) > before) == loads
    assert {action.fork for action in drive.did(actions.Spawn)} == {loads}


def test_a_release_that_may_not_fork_is_rolled_by_exec():
    drive = settled(web(count=2))
    drive.asks()
    done = drive.loads(2, unsafe=("2 threads",))
    assert "DropLoader" in kinds(done)
    assert drive.stage() == Stage.CANARY
    drive.goes_well()
    assert [action.fork for action in drive.did(actions.Spawn)] == [True, True, False, False]


def test_quick_waits_for_nobody_s_min_ready():
    drive = settled(web(count=2, min_ready=3.0))
    drive.asks(quick=True)
    drive.loads(2)
    before = drive.now
    drive.serves("web.1", 2)
    assert drive.stage() == Stage.ROLLING
    drive.serves("web.2", 2)
    drive.obeys()
    assert (drive.stage(), drive.now) == (None, before)


def test_a_group_without_slots_is_on_the_new_release_at_once():
    drive = settled(web(count=0))
    drive.asks()
    assert drive.group().outcome.done
    assert drive.group().current == 2
    drive.happen(events.Scaled("web", 1))
    assert spawned(drive.goes_well().loads(2)) == [("web.1", 2)]


# -- functions that finish


def test_a_function_that_finishes_as_canary_has_passed():
    drive = rolling(Stage.CANARY, python(count=1))
    drive.serves("jobs.1", 2)
    drive.ends(drive.of("jobs.1", 2), 0)
    drive.goes_well(group="jobs")
    assert drive.group("jobs").outcome.done
    assert drive.slot("jobs.1").done
    assert drive.slot("jobs.1").workers == ()


def test_functions_that_had_finished_are_run_again_by_the_new_release():
    drive = settled(python(count=2))
    drive.dies("jobs.1", 0)
    drive.dies("jobs.2", 0)
    drive.asks("jobs")
    assert spawned(drive.loads(2, "jobs")) == [("jobs.1", 2)]
    done = drive.ends(drive.of("jobs.1", 2), 0)
    assert spawned(done) == [("jobs.2", 2)]
    drive.ends(drive.of("jobs.2", 2), 0)
    assert drive.group("jobs").outcome.done
    assert drive.later(3600) == []


def test_a_function_that_finishes_while_it_is_rolled_has_arrived():
    drive = rolling(Stage.ROLLING, python(count=2))
    drive.serves("jobs.2", 2)
    drive.ends(drive.of("jobs.1", 2), 0)
    drive.goes_well(group="jobs")
    assert drive.group("jobs").outcome.done
    assert (drive.slot("jobs.1").done, drive.slot("jobs.2").done) == (True, False)


# -- a second request


@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.CANARY])
def test_what_has_moved_nothing_yet_makes_way_at_once(stage):
    drive = rolling(stage)
    drive.asks()
    assert (drive.group().roll.new, drive.stage()) == (3, Stage.LOADING)
    drive.loads(3)
    drive.obeys()
    drive.later(0)
    assert 2 not in drive.group().releases
    drive.goes_well()
    assert drive.releases() == [(3,)] * 4
    assert (drive.group().outcome.release, drive.group().outcome.ticket) == (3, 2)
    assert not drive.told(RollAborted)


@pytest.mark.parametrize("stage", [Stage.ROLLING, Stage.SETTLING])
def test_later_a_request_waits_and_the_newest_wins(stage):
    drive = rolling(stage)
    drive.asks(env={"A": "1"})
    drive.asks(env={"A": "2"})
    assert drive.group().roll.new == 2
    while drive.group().outcome is None:
        drive.goes_on()
    assert (drive.group().outcome.release, drive.group().outcome.ticket) == (2, 1)
    assert drive.stage() == Stage.LOADING
    drive.goes_well()
    assert (drive.group().outcome.release, drive.group().outcome.ticket) == (3, 3)
    assert drive.group().release.settings.env == {"A": "2"}
    assert drive.releases() == [(3,)] * 4


def test_what_waits_begins_when_a_roll_was_taken_back():
    drive = rolling(Stage.ROLLING)
    drive.asks()
    drive.ends(drive.of("web.1", 2), 1)
    drive.asks()
    assert drive.stage() == Stage.ABORTING
    drive.goes_well()
    assert [(fact.release, fact.old) for fact in drive.told(RollDone)] == [(3, 1)]
    assert drive.group().outcome.ticket == 3


def test_everybody_who_asked_is_covered_by_an_outcome():
    """Whatever comes when, and whether it goes well or not: nobody waits for ever."""
    drive = settled(web(count=3))
    covered = 0
    for bad in range(12):
        drive.asks()
        for _ in range(bad):
            drive.goes_on()
        roll = drive.group().roll
        if roll is not None and bad % 3 == 0:
            drive.happen(events.LoaderGone("web", roll.new, "signal 9"))
        assert drive.group().outcome is None or drive.group().outcome.ticket >= covered
        covered = drive.group().outcome.ticket if drive.group().outcome else 0
    drive.goes_well()
    assert (drive.group().outcome.ticket, drive.group().asked) == (12, 12)


def test_numbers_are_never_given_twice():
    drive = settled()
    for number in range(2, 6):
        drive.asks()
        if number % 2:
            drive.happen(events.LoaderFailed("web", number, "SyntaxError"))
        drive.goes_well()
    assert [fact.release for fact in drive.told(RollStarted)] == [2, 3, 4, 5]


def test_who_stops_rolls_nothing():
    drive = settled()
    drive.happen(events.StopAsked("bkd stop"))
    before = drive.group()
    drive.asks()
    assert drive.group() == before


# -- the master itself


@pytest.mark.parametrize("event", [events.Adopted(3600.0), events.Overslept(3600.0)])
@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.CANARY, Stage.ROLLING, Stage.SETTLING])
def test_a_new_master_or_one_that_slept_goes_on_where_it_was(stage, event):
    drive = rolling(stage)
    before = (drive.stage(), drive.releases())
    drive.now += 3600.0
    drive.happen(event)
    if stage != Stage.SETTLING:
        assert (drive.stage(), drive.releases()) == before
    assert not drive.told(RollAborted)
    drive.goes_well()
    assert drive.group().outcome.done
    assert drive.releases() == [(2,)] * 4


def test_a_way_back_goes_on_with_a_new_master():
    drive = rolling(Stage.SETTLING)
    drive.ends(drive.of("web.1", 2), 1)
    drive.happen(events.Adopted())
    drive.goes_well()
    assert drive.releases() == [(1,)] * 4


def test_nobody_is_blamed_for_an_import_that_the_master_slept_through():
    drive = settled(web(start_timeout=5.0))
    drive.asks()
    drive.now += 60.0
    drive.happen(events.Overslept(60.0))
    assert not drive.told(RollAborted)
    drive.later(30)
    assert drive.told(RollAborted)


def test_a_canary_that_makes_no_progress_is_not_waited_for_where_nothing_kills_it():
    drive = Drive(web(count=2, start_timeout=20.0), ping=PingSection(10.0, 0.0)).up()
    drive.asks()
    drive.loads(2)
    canary = next(worker for slot in drive.slots() for worker in slot.staying if worker.release == 2)
    drive.happen(events.BecameReady(canary.id))
    drive.later(20.0)
    assert drive.stage() == Stage.CANARY
    drive.later(10.0)
    assert drive.told(RollAborted)[0].reason == f"{canary.slot} was ready and has made no progress since"
