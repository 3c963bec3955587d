"""What the death of a master leaves half done, and the next one ends."""

from bkd.supervisor import events
from bkd.supervisor.actions import Leave

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
