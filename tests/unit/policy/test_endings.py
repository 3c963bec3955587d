"""Every step of an ending and its deadline: ask, SIGTERM after `drain`, SIGKILL after `term`, given up 5 s later."""

import pytest

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Phase
from bkd.supervisor.facts import Survivor, WorkerKilled, WorkerRetired

from .drive import START, Drive, Look, command, kinds, python, web

LIMITS = {"drain": 10.0, "term": 2.0}


def course(drive: Drive, seconds: float = 60, since: float = START) -> list[tuple[float, str]]:
    """Sleep from wake to wake; what was done when, in seconds since `since`."""
    done = [(round(drive.now - since, 3), kind) for kind in kinds(drive.settle())]
    while (wake := drive.plan().wake) <= since + seconds:
        drive.now = wake
        done += [(round(drive.now - since, 3), kind) for kind in kinds(drive.settle())]
    return done


def scaled_away(drive: Drive, group: str = "web") -> Drive:
    drive.happen(events.Scaled(group, 0))
    return drive


def test_a_planned_end_has_its_steps():
    drive = scaled_away(Drive(web(**LIMITS)).up(watched=False))
    assert kinds(drive.taken)[-2:] == ["Retire", "Ask"]
    assert drive.slot("web.1").workers[0].phase == Phase.DRAINING
    assert course(drive, 20) == [(10.0, "Terminate"), (12.0, "Kill"), (17.0, "GiveUp")]
    assert drive.told(WorkerRetired)[0].why == "the group was scaled down"
    assert len(drive.told(WorkerKilled)) == len(drive.told(Survivor)) == 1


@pytest.mark.parametrize("seconds", [0.1, 9.9, 11.9])
def test_a_worker_that_ends_in_time_is_left_alone_from_then_on(seconds):
    drive = scaled_away(Drive(web(**LIMITS)).up(watched=False))
    drive.later(seconds)
    drive.dies("web.1", 0)
    assert drive.slot_names() == []
    assert not drive.did(actions.Kill)
    assert drive.later(60) == []


def test_a_booting_worker_has_nothing_to_finish():
    drive = Drive(web(**LIMITS))
    drive.load()
    scaled_away(drive)
    assert course(drive, 20) == [(2.0, "Kill"), (7.0, "GiveUp")]
    assert kinds(drive.taken)[-4:-2] == ["Retire", "Terminate"]


def test_a_foreign_program_gets_its_stop_signal_even_while_it_boots():
    drive = scaled_away(Drive(command(**LIMITS)), "cache")
    assert kinds(drive.taken)[-2:] == ["Retire", "Ask"]
    assert course(drive, 20) == [(10.0, "Terminate"), (12.0, "Kill"), (17.0, "GiveUp")]


def test_a_worker_that_is_not_born_yet_is_ended_when_it_is():
    drive = Drive(web(**LIMITS), births=False)
    drive.load()
    worker = drive.worker("web.1").id
    scaled_away(drive)
    assert kinds(drive.taken)[-1] == "Retire"
    drive.later(1)
    assert kinds(drive.happen(events.Spawned(worker, 200, 1))) == ["Terminate"]


def test_an_order_that_failed_while_its_end_was_wanted_is_over():
    drive = Drive(web(**LIMITS), births=False)
    drive.load()
    worker = drive.worker("web.1").id
    scaled_away(drive)
    drive.happen(events.SpawnFailed(worker, "the zygote is gone"))
    assert drive.slot_names() == []
    assert drive.group().breaker.deaths == ()


def test_an_order_that_is_never_answered_is_not_waited_for_for_ever():
    drive = Drive(web(**LIMITS), births=False)
    drive.load()
    scaled_away(drive)
    drive.later(6)
    assert drive.plan().wake > drive.now
    assert {"GiveUp", "DropLoader"} & set(kinds(drive.taken))


def test_what_never_had_a_process_survived_nothing():
    drive = Drive(web(**LIMITS), births=False)
    drive.load()
    scaled_away(drive)
    drive.later(6)
    assert not drive.told(Survivor)


# -- the hung


def hung(look: Look, *, gathers: bool = True, **settings: object) -> list[tuple[float, str]]:
    """What is done to a worker that was given up, from that moment on; its replacement serves unwatched."""
    drive = Drive(web(**{**LIMITS, **settings})).up()
    drive.looks["web.1"] = look
    drive.gathers = gathers
    drive.at(29)
    done = course(drive, 8, START + 30)
    begin = done.index((0.0, "Condemn"))
    return [(at, kind) for at, kind in done[begin + 1 :] if kind in ("Ask", "Terminate", "Kill", "GiveUp")]


@pytest.mark.parametrize("look", [Look("S"), Look("R", busy=0.9)])
def test_the_hung_get_no_drain(look):
    assert hung(look) == [(0.0, "Terminate"), (2.0, "Kill"), (7.0, "GiveUp")]


@pytest.mark.parametrize("state", ["T", "D"])
def test_the_stopped_and_the_uninterruptible_get_sigkill_once_and_no_sigterm(state):
    assert hung(Look(state)) == [(0.0, "Kill"), (5.0, "GiveUp")]


def test_evidence_has_half_a_second():
    assert hung(Look("S"), gathers=False) == [(0.5, "Terminate"), (2.5, "Kill"), (7.5, "GiveUp")]
    assert hung(Look("T"), gathers=False) == [(0.5, "Kill"), (5.5, "GiveUp")]


def test_the_kill_does_not_wait_for_drain():
    assert hung(Look("S"), drain=3600.0, term=1.0)[1] == (1.0, "Kill")


def test_the_replacement_is_not_touched_by_the_end_of_the_old_one():
    drive = Drive(web(**LIMITS)).up()
    drive.at(30)
    old, new = drive.slot("web.1").workers
    drive.ready("web.1")
    drive.happen(events.Exited(old.id, -9))
    assert [worker.id for worker in drive.slot("web.1").workers] == [new.id]
    assert drive.worker("web.1").ending is None


def test_heartbeats_of_a_condemned_worker_do_not_save_it():
    drive = Drive(web(**LIMITS)).up()
    drive.at(30)
    old = drive.slot("web.1").workers[0].id
    drive.happen(events.Pinged(old, 0.0))
    assert (2.0, "Kill") in course(drive, 3, START + 30)


def test_a_slow_boot_is_ended_like_a_hang():
    drive = Drive(python(start_timeout=5.0, preload="false", **LIMITS))
    first = drive.worker("jobs.1").id
    drive.at(7.1)
    told = [(type(action).__name__, action.worker) for action in drive.taken if getattr(action, "worker", 0) == first]
    assert [kind for kind, _ in told] == ["Spawn", "Condemn", "Terminate", "Kill"]


# -- hasty


def test_hasty_means_sigkill_at_once_to_everybody():
    drive = Drive(web(count=3, **LIMITS)).up()
    done = drive.happen(events.StopAsked("Ctrl-C twice", hasty=True))
    assert kinds(done) == ["Retire"] * 3 + ["Kill"] * 3


def test_hasty_overtakes_a_drain():
    drive = Drive(web(**LIMITS)).up()
    drive.happen(events.StopAsked("Ctrl-C"))
    drive.later(1)
    assert kinds(drive.happen(events.StopAsked("Ctrl-C", hasty=True))) == ["Kill"]


def test_nobody_is_killed_twice():
    drive = Drive(web(**LIMITS)).up()
    drive.happen(events.StopAsked("Ctrl-C", hasty=True))
    drive.happen(events.StopAsked("Ctrl-C", hasty=True))
    drive.later(4)
    assert len(drive.did(actions.Kill)) == 1
