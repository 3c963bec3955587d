"""Taking back: what is wrong with a new release, rolls that are called off, and rolling back."""

import pytest

from bkd.supervisor import events
from bkd.supervisor.cluster import Loader, Origin, Stage
from bkd.supervisor.config.schema import PingSection
from bkd.supervisor.facts import RollAborted, RollDone, RolledBack
from bkd.supervisor.rolls import kept, no_way_back

from .drive import Drive, command, kinds, python, rolling, settled, spawned, web

# -- what is wrong with it

DEATHS = {"crash": 1, "exit 78": 78, "signal": -11}


def fail(drive: Drive, slot: str, how: str) -> None:
    """The slot's worker of release 2 turns out to be no good."""
    worker = drive.of(slot, 2)
    if how in DEATHS:
        drive.ends(worker, DEATHS[how])
    elif how == "out of memory":
        drive.ends(worker, -9, oom=True)
    elif how == "killed twice":
        drive.ends(worker, -9)
        drive.ends(drive.of(slot, 2), -9)
    elif how == "killed by nobody knows what":
        drive.ends(worker, None)
        drive.ends(drive.of(slot, 2), None)
    elif how == "zygote gone":
        drive.happen(events.LoaderGone("web", 2, "signal 9"))
    else:
        drive.serves(slot, 2)
        drive.happen(events.Pinged(worker.id, in_flight=1, oldest=61.0))


HOW = [*DEATHS, "out of memory", "killed twice", "killed by nobody knows what", "zygote gone", "hang"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("stage", [Stage.CANARY, Stage.ROLLING, Stage.SETTLING])
def test_a_release_that_is_no_good_is_taken_back_in_every_stage(stage, how):
    drive = rolling(stage, web(count=4, request_timeout=60.0))
    fail(drive, "web.1", how)
    aborted = drive.told(RollAborted)
    assert len(aborted) == 1
    assert (aborted[0].stage, aborted[0].release, aborted[0].old) == (stage, 2, 1)
    assert aborted[0].reason
    assert drive.group().current == 1
    drive.goes_well()
    outcome = drive.group().outcome
    assert (outcome.done, outcome.stage, outcome.reason) == (False, stage, aborted[0].reason)
    assert drive.releases() == [(1,)] * 4
    assert list(drive.group().releases) == [1]
    assert len(drive.told(RolledBack)) == 1
    assert not drive.told(RollDone)


@pytest.mark.parametrize("how", HOW)
def test_deaths_on_trial_are_charged_to_nobody(how):
    drive = rolling(Stage.CANARY, web(count=2, max_restarts=1, request_timeout=60.0))
    fail(drive, "web.1", how)
    drive.goes_well()
    assert [(slot.score, slot.charged, slot.failed) for slot in drive.slots()] == [(0.0, (), "")] * 2
    assert drive.group().breaker.deaths == ()


@pytest.mark.parametrize("how", HOW)
def test_a_bad_canary_costs_no_healthy_worker(how):
    drive = rolling(Stage.CANARY, web(count=4, request_timeout=60.0))
    before = [drive.of(slot, 1).id for slot in drive.slot_names()]
    fail(drive, "web.1", how)
    drive.goes_well()
    assert [drive.worker(slot).id for slot in drive.slot_names()] == before


def test_a_canary_that_falls_silent_is_taken_back():
    drive = settled(web(count=2), ping=PingSection(interval=0.5, kill=1.0))
    drive.asks()
    drive.loads(2)
    drive.happen(events.BecameReady(drive.of("web.1", 2).id))
    drive.later(2)
    assert drive.told(RollAborted)[0].reason == "web.1 hung"
    assert drive.goes_well().releases() == [(1,), (1,)]
    assert drive.slot("web.1").score == 0.0


def test_a_failed_import_is_told_with_its_trace():
    drive = settled()
    drive.asks()
    drive.happen(events.LoaderFailed("web", 2, "SyntaxError: invalid syntax", "Traceback …"))
    fact = drive.told(RollAborted)[0]
    assert (fact.stage, fact.reason, fact.trace) == ("loading", "SyntaxError: invalid syntax", "Traceback …")
    assert drive.stage() is None
    assert drive.group().outcome.trace == "Traceback …"
    assert drive.later(3600) == []


def test_a_loader_that_may_not_fork_though_it_must_is_a_failed_import():
    drive = settled(web(count=2, preload="true"))
    drive.asks()
    drive.loads(2, unsafe=("2 threads",))
    assert "2 threads" in drive.group().outcome.reason
    assert 2 not in drive.group().releases


def test_an_import_that_takes_too_long_takes_the_roll_back():
    drive = settled(web(start_timeout=5.0))
    drive.asks()
    drive.later(4.9)
    assert drive.stage() == Stage.LOADING
    drive.later(0.2)
    assert "start_timeout" in drive.group().outcome.reason
    assert drive.group().outcome.stage == Stage.LOADING


def test_a_loader_that_dies_before_it_is_used_takes_the_roll_back():
    drive = settled()
    drive.asks()
    drive.happen(events.LoaderGone("web", 2, "signal 11"))
    assert drive.group().outcome.reason == "signal 11"


def test_a_slow_boot_takes_the_roll_back():
    drive = rolling(Stage.CANARY, web(count=2, start_timeout=5.0))
    drive.later(5.1)
    assert drive.told(RollAborted)[0].reason == "web.1 was not ready in time"
    assert drive.goes_well().releases() == [(1,), (1,)]


def test_a_process_that_cannot_be_made_takes_the_roll_back():
    drive = settled(web(count=2))
    drive.births = False
    drive.asks()
    drive.loads(2)
    drive.happen(events.SpawnFailed(drive.of("web.1", 2).id, "fork: Resource temporarily unavailable"))
    assert "fork: Resource temporarily unavailable" in drive.told(RollAborted)[0].reason
    assert drive.slot("web.1").score == 0.0


def test_a_process_that_could_not_be_made_through_nobody_s_fault_is_made_again():
    drive = settled(web(count=2))
    drive.births = False
    drive.asks()
    drive.loads(2)
    done = drive.happen(events.SpawnFailed(drive.of("web.1", 2).id, "the zygote is gone", blameless=True))
    assert spawned(done) == [("web.1", 2)]
    assert drive.stage() == Stage.CANARY


def test_a_wedged_loader_takes_the_roll_back():
    drive = settled(web(count=2))
    drive.births = False
    drive.asks()
    drive.loads(2)
    assert drive.later(4.9) == []
    drive.later(0.2)
    assert "did not answer" in drive.told(RollAborted)[0].reason
    assert kinds(drive.taken).count("DropLoader") == 1
    drive.later(10)
    assert drive.stage() is None
    assert drive.releases() == [(1,), (1,)]


def test_the_words_of_a_canary_that_cannot_start_are_the_reason():
    drive = rolling(Stage.CANARY)
    drive.happen(events.BootFailed(drive.of("web.1", 2).id, "KeyError: 'DATABASE_URL'"))
    drive.ends(drive.of("web.1", 2), 3)
    assert drive.told(RollAborted)[0].reason.endswith("before it was ready: KeyError: 'DATABASE_URL'")


@pytest.mark.parametrize("stage", [Stage.CANARY, Stage.ROLLING, Stage.SETTLING])
def test_the_first_kill_from_outside_is_forgiven_once_per_slot(stage):
    drive = rolling(stage)
    for slot in ("web.1", "web.2") if stage == Stage.SETTLING else ("web.1",):
        assert (slot, 2) in spawned(drive.ends(drive.of(slot, 2), -9))
        assert not drive.told(RollAborted)
        drive.serves(slot, 2)
    drive.ends(drive.of("web.1", 2), -9)
    assert drive.told(RollAborted)[0].reason == "web.1 was killed from outside twice"


def test_the_first_reason_counts():
    drive = rolling(Stage.SETTLING)
    drive.happen(
        events.Exited(drive.of("web.2", 2).id, 3),
        events.Exited(drive.of("web.3", 2).id, 4),
        events.LoaderGone("web", 2, "signal 9"),
    )
    assert drive.told(RollAborted)[0].reason.startswith("web.2 ended (exit code 3)")


def test_a_death_after_the_roll_is_over_is_the_slot_s_own_again():
    drive = rolling(Stage.SETTLING).goes_well()
    drive.ends(drive.of("web.1", 2), 1)
    assert drive.slot("web.1").score == 1.0
    assert not drive.told(RollAborted)


def test_a_death_that_bkd_wanted_takes_nothing_back():
    drive = rolling(Stage.CANARY)
    drive.happen(events.Signalled(drive.of("web.1", 2).id, 15))
    drive.ends(drive.of("web.1", 2), -15)
    assert drive.stage() == Stage.CANARY
    assert drive.goes_well().group().outcome.done


# -- and slots that cannot go back


@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (0, 1)])
def test_a_slot_that_has_failed_does_not_stop_the_way_back(surge, unavailable):
    drive = rolling(Stage.SETTLING, web(count=3, max_surge=surge, max_unavailable=unavailable))
    drive.obeys()
    drive.ends(drive.of("web.1", 2), 1)
    drive.ends(drive.of("web.1", 1), 78)
    drive.goes_well()
    assert drive.releases() == [(), (1,), (1,)]


@pytest.mark.parametrize("stays", [True, False])
def test_a_failed_slot_that_went_first_is_empty_again(stays):
    drive = settled(web(count=2, max_restarts=1))
    drive.dies("web.2", 78)
    drive.asks()
    drive.loads(2)
    if stays:
        drive.serves("web.2", 2)
    drive.happen(events.RollCalledOff("web", "a rollback was asked for"))
    drive.goes_well()
    drive.obeys()
    assert drive.releases() == [(1,), ()]
    assert drive.slot("web.2").failed
    assert list(drive.group().releases) == [1]


@pytest.mark.parametrize(("group", "code"), [(web(count=2), 78), (python("web", count=2), 0)])
def test_a_canary_whose_old_worker_ended_for_good_beside_it_goes_all_the_same(group, code):
    drive = rolling(Stage.CANARY, group)
    drive.serves("web.1", 2)
    drive.ends(drive.of("web.1", 1), code)
    drive.happen(events.RollCalledOff("web", "a rollback was asked for"))
    drive.goes_well()
    drive.obeys()
    assert 2 not in [number for pair in drive.releases() for number in pair]


# -- called off


@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.CANARY, Stage.ROLLING, Stage.SETTLING])
def test_a_roll_is_called_off_in_every_stage(stage):
    drive = rolling(stage)
    drive.happen(events.RollCalledOff("web", "a rollback was asked for"))
    drive.goes_well()
    assert drive.releases() == [(1,)] * 4
    outcome = drive.group().outcome
    assert (outcome.done, outcome.stage, outcome.reason) == (False, stage, "a rollback was asked for")
    assert list(drive.group().releases) == [1]
    assert len(drive.told(RolledBack)) == 1


def test_what_waited_is_called_off_too():
    drive = rolling(Stage.ROLLING)
    drive.asks()
    drive.happen(events.RollCalledOff("web", "a rollback was asked for"))
    drive.goes_well()
    assert drive.releases() == [(1,)] * 4
    assert (drive.group().outcome.ticket, drive.group().newest) == (2, 2)


def test_calling_off_what_is_being_taken_back_leaves_the_reason():
    drive = rolling(Stage.ROLLING)
    drive.ends(drive.of("web.1", 2), 1)
    drive.asks()
    drive.happen(events.RollCalledOff("web", "a rollback was asked for"))
    drive.goes_well()
    assert drive.group().outcome.reason.startswith("web.1 ended")
    assert drive.group().newest == 2


def test_without_a_roll_there_is_nothing_to_call_off():
    drive = settled()
    before = drive.cluster
    assert drive.happen(events.RollCalledOff("web", "x"), events.RollCalledOff("gone", "x")) == []
    assert drive.cluster.groups == before.groups


# -- back to the release before


def rolled(*groups) -> Drive:
    """Release 2 is live."""
    return rolling(Stage.CANARY, *(groups or (web(count=4),))).goes_well()


def test_back_out_of_memory_and_without_a_canary():
    drive = rolled()
    loads = kinds(drive.taken).count("LoadRelease")
    before, began = len(drive.taken), drive.now
    done = drive.asks(release=1)
    assert drive.stage() == Stage.ROLLING
    assert spawned(done) == [("web.1", 1)]
    while drive.stage() == Stage.ROLLING:
        drive.goes_on()
    assert drive.now == began
    drive.goes_well()
    assert kinds(drive.taken).count("LoadRelease") == loads
    assert drive.releases() == [(1,)] * 4
    assert "LoadRelease" not in kinds(drive.taken[before:])
    assert (drive.group().outcome.done, drive.group().outcome.release, drive.group().outcome.old) == (True, 1, 2)


def test_the_release_that_was_left_is_forgotten_and_its_number_not_given_again():
    drive = rolled()
    drive.asks(release=1)
    drive.goes_well()
    assert list(drive.group().releases) == [1]
    assert "no release before 1" in no_way_back(drive.group())
    drive.asks()
    assert drive.goes_well().releases() == [(3,)] * 4


@pytest.mark.parametrize(("keep", "left"), [(0, []), (1, [3]), (2, [3, 2]), (9, [3, 2, 1])])
def test_so_many_releases_are_kept(keep, left):
    drive = settled(web(count=2, keep_releases=keep))
    for _ in range(3):
        drive.asks()
        drive.goes_well()
    assert kept(drive.group()) == left
    assert sorted(drive.group().releases, reverse=True) == [4, *left]
    assert all(drive.group().releases[number].loader == Loader.READY for number in left)
    assert bool(no_way_back(drive.group())) == (not left)


def test_fewer_are_kept_when_the_configuration_says_so():
    drive = rolled()
    settings = web(count=4, keep_releases=0)
    assert "DropLoader" in kinds(drive.happen(events.Reconfigured({"web": settings}, PingSection(), {})))
    assert list(drive.group().releases) == [2]
    assert "keep_releases" in no_way_back(drive.group())


def test_a_kept_release_whose_loader_is_gone_is_no_way_back():
    drive = rolled()
    assert "LoadRelease" not in kinds(drive.happen(events.LoaderGone("web", 1, "signal 9")))
    assert "no release before 2 is loaded" in no_way_back(drive.group())
    assert list(drive.group().releases) == [2]


@pytest.mark.parametrize(("group", "why"), [(command("web"), "programs"), (web(preload="false"), "preload")])
def test_what_is_never_loaded_has_no_way_back(group, why):
    drive = rolled(group)
    assert why in no_way_back(drive.group())


def test_a_release_that_listened_elsewhere_is_not_gone_back_to():
    drive = settled(web(bind=["127.0.0.1:8000"]))
    drive.asks(bind=["127.0.0.1:9000"])
    drive.goes_well()
    assert kept(drive.group()) == []
    assert list(drive.group().releases) == [2]


def test_a_release_that_may_not_fork_is_not_kept():
    drive = settled(web())
    drive.asks()
    drive.loads(2, unsafe=("2 threads",))
    drive.goes_well()
    drive.asks()
    drive.goes_well()
    assert kept(drive.group()) == [1]
    assert list(drive.group().releases) == [1, 3]


@pytest.mark.parametrize("stage", [Stage.ROLLING, Stage.SETTLING])
def test_the_way_back_can_fail_as_well(stage):
    drive = rolled()
    drive.asks(release=1)
    drive.goes_well(stage)
    drive.serves("web.1", 1)
    drive.ends(drive.of("web.1", 1), 1)
    drive.goes_well()
    assert drive.releases() == [(2,)] * 4
    assert (drive.group().outcome.done, drive.group().outcome.old) == (False, 2)
    assert drive.slot("web.1").score == 0.0
    assert kept(drive.group()) == [1]


def gone_in_that_moment(drive: Drive) -> None:
    """The loader dies, and the roll back is asked for before anybody could look."""
    origin = Origin(drive.group().settings)
    drive.happen(events.LoaderGone("web", 1, "signal 9"), events.RollAsked("web", origin, "bkd rollback", 1))


def forgotten(drive: Drive) -> None:
    """The release has been forgotten."""
    drive.happen(events.LoaderGone("web", 1, "signal 9"))
    drive.asks(release=1)


@pytest.mark.parametrize("how", [gone_in_that_moment, forgotten])
def test_a_roll_back_to_what_is_no_longer_loaded_fails(how):
    """It would be made from the files as they are now: no way back, but another roll."""
    drive = rolled()
    before = len(drive.taken)
    how(drive)
    drive.goes_well()
    assert "LoadRelease" not in kinds(drive.taken[before:])
    assert drive.releases() == [(2,)] * 4
    assert (drive.group().outcome.done, drive.group().outcome.ticket) == (False, 2)
    assert drive.group().newest == 2
