"""The end of the whole cluster and its exit code: 0 all drained, 3 something had to be killed, 1 something survived."""

import pytest

from bkd.supervisor import actions, events
from bkd.supervisor.facts import StopAsked

from .drive import Drive, command, kinds, web


def stopping(*groups, code: int = 0, **more) -> Drive:
    """Everything was ready, and now it is to end."""
    drive = Drive(*groups, **more).up(watched=False)
    drive.happen(events.StopAsked("bkd stop", code=code))
    return drive


def left(drive: Drive) -> list[int]:
    """The exit codes with which the cluster was left: one at most."""
    return [action.code for action in drive.did(actions.Leave)]


def test_everybody_is_asked_at_once_and_nobody_is_replaced():
    drive = stopping(web(count=2), command())
    assert kinds(drive.taken)[-6:] == ["Retire"] * 3 + ["Ask"] * 3 or kinds(drive.taken).count("Ask") == 3
    spawned = len(drive.did(actions.Spawn))
    drive.dies("web.1", 0)
    drive.later(5)
    assert len(drive.did(actions.Spawn)) == spawned


def test_all_drained_is_0():
    drive = stopping(web(count=2), command())
    for slot in ("web.1", "web.2", "cache.1"):
        assert left(drive) == []
        drive.dies(slot, 0)
    assert kinds(drive.taken)[-2:] == ["DropLoader", "Leave"]
    assert left(drive) == [0]


def test_the_zygotes_go_last():
    drive = stopping(web())
    assert not drive.did(actions.DropLoader)
    drive.dies("web.1", 0)
    assert len(drive.did(actions.DropLoader)) == 1


def test_a_worker_that_had_to_be_killed_is_3():
    drive = stopping(web(drain=5.0, term=2.0))
    drive.later(7.1)
    pid = drive.slot("web.1").workers[0].pid
    drive.dies("web.1", -9)
    assert left(drive) == [3]
    assert drive.cluster.closing.killed == (f"web.1 (pid {pid})",)


def test_a_worker_that_survived_is_1():
    drive = stopping(web(drain=5.0, term=2.0))
    drive.later(60)
    assert left(drive) == [1]
    assert len(drive.cluster.closing.survived) == 1


def test_a_leftover_that_had_to_be_killed_is_3_and_one_that_survived_is_1():
    for swept, code in (((55,), ()), 3), (((55,), (55,)), 1):
        drive = Drive(web()).up(watched=False)
        drive.sweeps = False
        drive.happen(events.StopAsked("bkd stop"))
        worker = drive.slot("web.1").workers[0].id
        drive.dies("web.1", 0)
        assert left(drive) == []
        drive.happen(events.Swept(worker, *swept))
        assert left(drive) == [code]


def test_the_stop_of_a_failure_keeps_its_code():
    drive = stopping(web(), code=1)
    drive.dies("web.1", 0)
    assert left(drive) == [1]


@pytest.mark.parametrize("hasty", [False, True])
def test_a_second_stop_starts_nothing_anew(hasty):
    drive = stopping(web(count=2))
    drive.later(3)
    drive.happen(events.StopAsked("again", hasty=hasty))
    assert drive.cluster.closing.why == "bkd stop"
    assert len(drive.told(StopAsked)) == 1
    assert len(drive.did(actions.Retire)) == 2


def test_a_failure_during_the_stop_is_not_forgotten():
    drive = stopping(web())
    drive.happen(events.StopAsked("the keeper is gone", code=1))
    drive.dies("web.1", 0)
    assert left(drive) == [1]


def test_stopping_while_everything_boots():
    drive = Drive(web(count=2, term=2.0))
    drive.load()
    drive.happen(events.StopAsked("bkd stop"))
    assert kinds(drive.taken)[-2:] == ["Terminate"] * 2
    drive.dies("web.1", -15)
    drive.dies("web.2", -15)
    assert left(drive) == [0]


def test_stopping_while_the_app_is_imported():
    drive = Drive(web())
    done = drive.happen(events.StopAsked("bkd stop"))
    assert kinds(done) == ["DropLoader", "Leave"]


def test_stopping_with_an_unanswered_order_is_no_failure():
    drive = Drive(web(), births=False)
    drive.load()
    drive.happen(events.StopAsked("bkd stop"))
    drive.later(10)
    for action in drive.did(actions.Spawn):
        drive.happen(events.SpawnFailed(action.worker, "the zygote is gone"))
    assert left(drive) == [0]


def test_held_failed_and_finished_slots_stop_too():
    drive = Drive(web(count=2), command()).up(watched=False)
    drive.happen(events.Held("web.1", True))
    drive.dies("web.2", 78)
    drive.dies("cache.1", 0)
    drive.happen(events.StopAsked("bkd stop"))
    drive.dies("web.1", 0)
    assert left(drive) == [0]


def test_a_loader_that_reports_late_is_ended_too():
    drive = stopping(web())
    drive.happen(events.LoaderGone("web", 1, "signal 9"))
    drive.dies("web.1", 0)
    assert left(drive) == [0]


def test_nothing_is_done_after_the_end():
    drive = stopping(web())
    drive.dies("web.1", 0)
    assert drive.later(3600) == []
    assert drive.happen(events.StopAsked("again", hasty=True)) == []
