"""Zygotes that die while their release serves: loaded again when their files are the same, else the release is lost."""

import pytest

from bkd.supervisor import events
from bkd.supervisor.cluster import Loader, Stage
from bkd.supervisor.facts import ReleaseFailed, ReleaseLost, RollAborted, RollStarted
from bkd.supervisor.rolls import kept, no_way_back
from bkd.supervisor.status import reason

from .drive import Drive, kinds, spawned, web

SAME, OTHER = "a1", "b2"
EDITED = "app.py was edited since"


def comes_up(drive: Drive, release: int, prints: str = SAME) -> list[str]:
    """The loader of this release has imported these files; what is done about it."""
    edits = EDITED if prints != SAME else ""
    return kinds(drive.happen(events.LoaderReady("web", release, 0.5, (), prints, edits)))


def dies(drive: Drive, release: int) -> list[str]:
    """The zygote of this release is killed."""
    return kinds(drive.happen(events.LoaderGone("web", release, "signal 9")))


def serving(count: int = 2, **settings: object) -> Drive:
    """A group that serves from files which are known."""
    drive = Drive(web(count=count, **settings))
    comes_up(drive, 1)
    drive.up(watched=False)
    drive.later(100)
    return drive


def lost(count: int = 2, **settings: object) -> Drive:
    """The same, whose zygote has been killed after an edit; the heir is not loaded yet."""
    drive = serving(count, **settings)
    dies(drive, 1)
    comes_up(drive, 1, OTHER)
    return drive


def rolled(count: int = 2, **settings: object) -> Drive:
    """The same after a roll onto release 2."""
    drive = serving(count, **settings)
    drive.asks()
    comes_up(drive, 2, OTHER)
    drive.goes_well()
    drive.later(100)
    assert drive.releases() == [(2,)] * count
    return drive


# -- the current release


def test_the_same_files_are_the_same_release():
    drive = serving()
    assert dies(drive, 1) == ["LoadRelease"]
    assert comes_up(drive, 1) == []
    assert drive.group().release.loader == Loader.READY
    assert not drive.told(ReleaseLost)
    assert spawned(drive.dies("web.1", -9)) == [("web.1", 1)]


@pytest.mark.parametrize("prints", [("", OTHER), (SAME, "")])
def test_files_that_are_not_known_are_not_compared(prints):
    first, then = prints
    drive = Drive(web())
    comes_up(drive, 1, first)
    drive.up(watched=False)
    dies(drive, 1)
    comes_up(drive, 1, then)
    assert drive.group().release.loader == Loader.READY


def test_other_files_are_another_release():
    drive = serving()
    dies(drive, 1)
    assert comes_up(drive, 1, OTHER) == ["DropLoader", "LoadRelease"]
    fact = drive.told(ReleaseLost)[0]
    assert "release 1 is not restorable: app.py was edited since; its workers serve on" in fact.describe()
    assert EDITED in reason(drive.group(), drive.now)
    assert (drive.group().current, drive.group().heir) == (1, 2)
    assert comes_up(drive, 2, OTHER) == []
    assert drive.later(1000) == []
    assert drive.releases() == [(1,), (1,)]
    assert len(drive.told(ReleaseLost)) == 1


def test_the_next_death_starts_a_roll():
    drive = lost()
    assert spawned(drive.dies("web.2", -9)) == []
    comes_up(drive, 2, OTHER)
    assert drive.stage() == Stage.CANARY
    assert drive.group().roll.canary == "web.2"
    assert "web.2 needs a worker" in drive.told(RollStarted)[0].why
    drive.goes_well()
    assert drive.releases() == [(2,), (2,)]
    assert not reason(drive.group(), drive.now)
    assert drive.group().heir == 0


@pytest.mark.parametrize(("count", "quiet"), [(2, True), (1, False)])
def test_the_first_of_the_heir_takes_work_at_once_where_nobody_else_does(count, quiet):
    drive = lost(count)
    comes_up(drive, 2, OTHER)
    drive.dies("web.1", -9)
    assert drive.of("web.1", 2).quiet == quiet


def test_a_worn_worker_counts_as_one_that_is_needed():
    drive = lost()
    comes_up(drive, 2, OTHER)
    drive.happen(events.Replaced("web.1"))
    assert drive.stage() == Stage.CANARY


def test_a_held_slot_starts_no_roll():
    drive = lost()
    comes_up(drive, 2, OTHER)
    drive.happen(events.Held("web.1", True))
    drive.dies("web.1", -9)
    assert drive.stage() is None
    drive.happen(events.Held("web.1", False))
    assert drive.stage() == Stage.CANARY


def test_a_slot_in_back_off_waits_its_time():
    drive = lost(min_ready=200.0)
    comes_up(drive, 2, OTHER)
    drive.dies("web.1", 1, chance=0.9)
    assert drive.slot("web.1").next_try > drive.now
    assert drive.stage() is None
    drive.later(30)
    assert drive.stage() == Stage.CANARY


def test_a_restart_takes_what_is_there_then():
    drive = lost()
    comes_up(drive, 2, OTHER)
    assert "DropLoader" in kinds(drive.asks())
    assert drive.group().roll.new == 3
    comes_up(drive, 3, "c3")
    drive.goes_well()
    assert drive.releases() == [(3,), (3,)]
    assert 2 not in drive.group().releases


def test_an_heir_that_dies_is_loaded_again_whatever_it_is_by_then():
    drive = lost()
    comes_up(drive, 2, OTHER)
    assert dies(drive, 2) == ["LoadRelease"]
    comes_up(drive, 2, "c3")
    assert len(drive.told(ReleaseLost)) == 1
    drive.dies("web.1", -9)
    assert drive.stage() == Stage.CANARY


def test_an_heir_that_is_no_good_is_taken_back_and_tried_less_and_less_often():
    """What still serves goes on; between the tries it is looked whether the files are the old ones again."""
    drive = lost()
    waits = []
    for heir in (2, 3, 4, 5):
        comes_up(drive, heir, OTHER)
        drive.dies("web.1", -9) if heir == 2 else None
        drive.ends(drive.of("web.1", heir), 1)
        assert drive.told(RollAborted)[-1].release == heir
        assert drive.stage() is None
        began = drive.now
        while drive.group().release.loader != Loader.LOADING:
            drive.now = drive.plan().wake
            drive.settle()
        waits.append(drive.now - began)
        comes_up(drive, 1, OTHER)
    assert waits == sorted(waits)
    assert waits[-1] > waits[0] > 0.0
    assert drive.releases()[1] == (1,)


def test_files_that_are_the_old_ones_again_bring_the_release_back():
    drive = lost()
    comes_up(drive, 2, OTHER)
    drive.dies("web.1", -9)
    drive.ends(drive.of("web.1", 2), 1)
    drive.later(60)
    assert drive.group().release.loader == Loader.LOADING
    comes_up(drive, 1)
    assert drive.releases() == [(1,), (1,)]
    assert not drive.group().release.lost
    assert drive.group().heir == 0


# -- in the middle of a roll


def test_the_old_release_is_lost_while_the_new_one_is_on_trial():
    drive = serving()
    drive.asks()
    comes_up(drive, 2, OTHER)
    dies(drive, 1)
    comes_up(drive, 1, OTHER)
    assert len(drive.told(ReleaseLost)) == 1
    assert drive.group().heir == 0
    drive.goes_well()
    assert drive.releases() == [(2,), (2,)]


@pytest.mark.parametrize("stage", [Stage.ROLLING, Stage.SETTLING])
def test_a_roll_that_cannot_be_taken_back_leaves_what_serves(stage):
    """The old release is gone for good, so the slot that lost its worker goes on with another try."""
    drive = serving()
    drive.asks()
    comes_up(drive, 2, OTHER)
    drive.goes_well(stage)
    dies(drive, 1)
    drive.ends(drive.of("web.1", 2), 1)
    assert drive.told(RollAborted)
    drive.obeys()
    comes_up(drive, 1, OTHER)
    assert drive.stage() is None
    drive.later(60)
    comes_up(drive, 1, OTHER)
    comes_up(drive, drive.group().heir, OTHER)
    drive.goes_well()
    assert len(set(drive.releases())) == 1
    assert all(slot.serves for slot in drive.slots())


# -- releases that are kept


def test_a_release_to_roll_back_to_is_loaded_again():
    drive = rolled()
    assert kept(drive.group()) == [1]
    assert dies(drive, 1) == ["LoadRelease"]
    assert kept(drive.group()) == []
    assert "is being loaded again" in no_way_back(drive.group())
    comes_up(drive, 1)
    assert kept(drive.group()) == [1]
    assert not no_way_back(drive.group())


def test_a_rollback_to_a_release_that_is_lost_is_refused():
    drive = rolled()
    dies(drive, 1)
    assert comes_up(drive, 1, OTHER) == ["DropLoader"]
    assert drive.told(ReleaseLost)[0].describe().endswith("app.py was edited since; no rollback goes to it")
    assert no_way_back(drive.group()) == f"release 1 is not restorable: {EDITED}"
    assert drive.later(1000) == []
    drive.asks(release=1)
    assert drive.group().outcome.reason
    assert drive.releases() == [(2,), (2,)]


def test_a_lost_release_is_forgotten_with_the_next_roll():
    drive = rolled()
    dies(drive, 1)
    comes_up(drive, 1, OTHER)
    drive.asks()
    comes_up(drive, 3, "c3")
    drive.goes_well()
    assert list(drive.group().releases) == [2, 3]


def test_what_nobody_needs_does_not_come_back():
    drive = rolled(keep_releases=0)
    assert list(drive.group().releases) == [2]


def test_a_release_that_was_taken_back_does_not_come_back():
    drive = serving()
    drive.asks()
    comes_up(drive, 2, OTHER)
    drive.happen(events.Held("web.2", True))
    drive.ends(drive.of("web.1", 2), 1)
    drive.goes_well()
    assert list(drive.group().releases) == [1]


# -- imports that do not end


def test_an_import_that_does_not_end_has_failed():
    drive = Drive(web(start_timeout=10.0))
    assert kinds(drive.later(10.0)) == ["DropLoader"]
    assert drive.group().release.loader == Loader.FAILED
    assert "took longer than start_timeout (10 s)" in drive.told(ReleaseFailed)[0].reason
    tries = [drive.now]
    for _ in range(3):
        while drive.group().release.loader != Loader.LOADING:
            drive.now = drive.plan().wake
            drive.settle()
        tries.append(drive.now - tries[0])
        drive.later(10.0)
    assert drive.group().release.failures == 4
