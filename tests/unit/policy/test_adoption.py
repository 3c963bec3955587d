"""What the death of a master leaves half done, and the next one ends."""

import pytest

from bkd.supervisor import events
from bkd.supervisor.actions import Leave
from bkd.supervisor.apply import GREETING, HEARING
from bkd.supervisor.facts import WorkerExited

from .drive import Drive, kinds, settled, web


def stopping() -> Drive:
    """A stop that has come to SIGKILL, of which nothing was heard yet."""
    drive = settled(web(drain=1.0, term=1.0))
    drive.happen(events.StopAsked("bkd stop"))
    assert kinds(drive.later(2.0)) == ["Terminate", "Kill"]
    return drive


def test_a_kill_that_the_last_master_ordered_counts():
    """A stop that needed SIGKILL says so, whoever hears of it."""
    drive = stopping()
    drive.happen(events.Adopted(1.0))
    drive.dies("web.1", -9)
    drive.later(1)
    assert drive.did(Leave)[0].code == 3


def test_a_kill_that_the_last_master_did_not_get_done_is_done_again():
    drive = stopping()
    drive.happen(events.Adopted(1.0))
    assert kinds(drive.later(3.0)) == ["Kill"]


# -- limits, and those who have not said hello yet


def test_a_limit_waits_only_for_the_time_without_a_master():
    """However long ago the state was written: four seconds of ten had passed, and three were nobody's."""
    drive = settled(web(drain=10.0, term=2.0))
    drive.happen(events.StopAsked("bkd stop"))
    drive.later(4.0 + 3.0)
    drive.happen(events.Adopted(3.0))
    left = 10.0 - 4.0 + HEARING
    assert drive.later(left - 0.1) == []
    assert kinds(drive.later(0.1)) == ["Terminate"]


def starting() -> Drive:
    """A worker that was starting when the master died, and a new master that is to stop it."""
    drive = Drive(web(term=1.0))
    drive.load()
    drive.born("web.1")
    drive.later(0.5)
    drive.happen(events.Adopted(0.5), events.StopAsked("bkd stop"))
    assert kinds(drive.taken)[-1] == "Retire"
    return drive


def test_who_became_ready_meanwhile_is_asked_to_leave():
    """It serves, though the state says that it starts: SIGTERM would cut its requests off."""
    drive = starting()
    worker = drive.slot("web.1").workers[0]
    drive.later(GREETING - 0.1)
    assert kinds(drive.happen(events.BecameReady(worker.id))) == ["Ask"]


def test_who_is_not_ready_yet_has_nothing_to_finish():
    drive = starting()
    assert kinds(drive.later(GREETING)) == ["Terminate"]


# -- deaths that are told late


@pytest.mark.parametrize("told", [0.0, 1.0])
def test_a_delay_counts_from_the_death(told):
    """Whoever has been dead for longer than its delay is started at once."""
    drive = settled(web())
    drive.dies("web.1", 1)
    worker = drive.worker("web.1")
    drive.later(0.2)
    died = drive.now
    drive.later(told)
    drive.happen(events.Exited(worker.id, 1, chance=0.9, at=died))
    slot = drive.slot("web.1")
    assert (slot.next_try > died, slot.last_exit.at, slot.scored_at) == (True, died, died)
    assert [worker.id for worker in slot.staying] == ([] if slot.next_try > drive.now else [worker.id + 1])


def test_a_death_says_how_long_ago_it_was():
    """In its fact; its time to live ends with it. What is told at once says nothing of the kind."""
    drive = settled(web())
    worker, since = drive.worker("web.1"), drive.now
    drive.later(9.0)
    drive.happen(events.Exited(worker.id, -9, at=since + 5.0))
    drive.dies("web.1", -9)
    late, prompt = drive.told(WorkerExited)
    assert (late.ago, late.uptime) == (4.0, round(since + 5.0 - worker.ready_at, 3))
    assert ", 4.0 s ago" in late.describe()
    assert (prompt.ago, "ago" in prompt.describe()) == (0.0, False)


def test_who_dies_while_it_starts_dies_then():
    """Its order counts from the coming of the next master, its death from when that was."""
    drive = Drive(web())
    drive.load()
    drive.born("web.1")
    drive.later(0.3)
    died = drive.now
    drive.later(4.0)
    drive.happen(events.Adopted(4.0), events.Exited(drive.worker("web.1").id, 3, at=died))
    assert (drive.slot("web.1").last_exit.at, drive.told(WorkerExited)[0].ago) == (died, 4.0)
    assert drive.told(WorkerExited)[0].uptime == 0.0


def test_nobody_dies_later_than_now():
    drive = settled(web())
    drive.happen(events.Exited(drive.worker("web.1").id, -9, at=drive.now + 5.0))
    assert drive.slot("web.1").last_exit.at == drive.now


def test_a_delay_stays_over_the_death_of_a_master():
    """The slot is tried when it would have been, and the score behind the delay is the same."""
    drive = Drive(web(count=1))
    drive.load()
    for _ in range(6):
        drive.born("web.1")
        drive.dies("web.1", 1, chance=0.99)
        drive.later(drive.slot("web.1").next_try - drive.now)
    drive.born("web.1")
    drive.dies("web.1", 1, chance=0.99)
    before = drive.slot("web.1")
    assert before.next_try > drive.now + 5.0
    drive.later(2.0)
    assert drive.happen(events.Adopted(1.5)) == []
    after = drive.slot("web.1")
    assert (after.next_try, after.score, after.charged) == (before.next_try, before.score, before.charged)
    drive.later(before.next_try - drive.now - 0.1)
    assert drive.slot("web.1").staying == []
    assert kinds(drive.later(0.1)) == ["Spawn"]
