"""Executors and their dispatcher: what counts against them, and how they are ended and replaced."""

import pytest

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Cause, Stage, Step, Verdict
from bkd.supervisor.config.schema import GroupSection, PingSection
from bkd.supervisor.facts import (
    GroupRemoved,
    WorkerExited,
    WorkerHung,
    WorkerKilled,
    WorkerLate,
    WorkerRetired,
    WorkerWorn,
)
from bkd.supervisor.rows import find, has_siblings

from .drive import Drive, kinds, settled, spawned, web

OVERDUE = "message 17 is 5.0 s over its deadline"


def messages(name: str = "jobs", count: int = 1, **settings: object) -> GroupSection:
    """A group of executors."""
    return GroupSection(name=name, kind="messages", count=count, **settings)


def dispatching(**settings: object) -> GroupSection:
    """The group of the dispatcher."""
    return GroupSection("dispatcher", "dispatcher", preload="false", max_surge=0, max_unavailable=1, **settings)


def without_messages(drive: Drive) -> list[actions.Action]:
    """The configuration has no group of messages any more."""
    return drive.happen(events.Reconfigured({"web": web()}, drive.cluster.ping, {}))


def overdue(drive: Drive, slot: str = "jobs.1") -> list[actions.Action]:
    """The dispatcher says that this executor does not let go."""
    return drive.happen(events.Tripped(drive.worker(slot).id, 0.0, OVERDUE))


# -- heartbeats


def test_a_loop_that_does_not_turn_is_no_hang_as_long_as_heartbeats_come():
    drive = Drive(messages()).up()
    for second in range(2, 3600, 2):
        drive.later(2)
        drive.ping("jobs.1", lag=float(second), behind=float(second), in_flight=1, oldest=float(second))
    assert not drive.did(actions.Observe)


def test_one_that_sends_no_heartbeats_hangs():
    drive = Drive(messages()).up()
    drive.later(40)
    assert [fact.verdict for fact in drive.told(WorkerHung)] == ["stuck"]


def until_hung(drive: Drive, slot: str) -> float:
    """Seconds without a word of anybody until this one is taken for hung, or a minute."""
    begun = drive.now
    while not any(fact.slot == slot for fact in drive.told(WorkerHung)) and drive.now < begun + 60.0:
        drive.later(0.1)
    return drive.now - begun


@pytest.mark.parametrize(
    ("ping", "seconds"), [(PingSection(), 5.0), (PingSection(1.0, 3.0), 3.0), (PingSection(10.0, 0.0), 60.0)]
)
def test_the_dispatcher_is_given_less_time_to_be_silent_than_others_and_never_more(ping, seconds):
    drive = Drive(dispatching(), messages(), ping=ping).up()
    assert until_hung(drive, "dispatcher.1") == pytest.approx(seconds, abs=0.5)
    assert ping.kill == 0 or until_hung(drive, "jobs.1") == pytest.approx(ping.kill - seconds, abs=0.5)


def test_a_dispatcher_whose_loop_stands_still_is_killed_at_once_for_it_hears_no_sigterm():
    drive = Drive(dispatching(), messages()).up()
    for tenth in range(2, 80, 4):
        drive.later(0.4)
        drive.ping("dispatcher.1", behind=tenth / 10)
        drive.ping("jobs.1", behind=tenth / 10)
    assert [fact.slot for fact in drive.told(WorkerHung)] == ["dispatcher.1"]
    assert [fact.slot for fact in drive.told(WorkerKilled)] == ["dispatcher.1"]


def test_a_dispatcher_that_slept_along_with_the_master_is_not_judged_for_it():
    drive = Drive(dispatching(), messages()).up()
    drive.now += 3600.0
    drive.happen(events.Overslept(3600.0))
    drive.later(1.9)
    assert not drive.told(WorkerHung)
    assert not drive.told(WorkerLate)


def test_finished_messages_count_for_recycling():
    drive = Drive(messages(max_requests=100)).up()
    drive.ping("jobs.1", served=120)
    assert drive.worker("jobs.1").stale == "120 messages run (max_requests = 100)"


def test_one_that_says_so_itself_is_replaced_by_a_fresh_one_with_a_warning():
    drive = settled(messages())
    old = drive.worker("jobs.1")
    drive.ping("jobs.1", worn="3 of 1,024 descriptors left")
    drive.ping("jobs.1", worn="3 of 1,024 descriptors left")
    drive.settle()
    old_one, fresh = drive.slot("jobs.1").staying
    assert old_one.id == old.id
    drive.happen(events.BecameReady(fresh.id, watched=True))
    [fact] = drive.told(WorkerWorn)
    assert fact.level() == "warning"
    assert fact.describe().startswith("jobs.1 is to be replaced: 3 of 1,024 descriptors left (pid ")
    assert drive.told(WorkerRetired)[-1].pid == old.pid


# -- messages that are overdue


def test_an_overdue_executor_is_replaced_at_once_and_ended_after_the_evidence():
    drive = settled(messages(term=3.0))
    drive.gathers = False
    done = overdue(drive)

    assert kinds(done) == ["Condemn", "Spawn"]
    [condemned] = drive.did(actions.Condemn)
    assert (condemned.verdict, condemned.why) == (Verdict.OVERDUE, OVERDUE)
    old = drive.slot("jobs.1").workers[0]
    assert kinds(drive.happen(events.Gathered(old.id))) == ["Terminate"]
    assert kinds(drive.later(3.1)) == ["Kill"]
    drive.ends(old, -9)
    [end] = drive.told(WorkerExited)
    assert (end.cause, end.reason) == (Cause.HUNG, OVERDUE)


def test_the_fact_says_which_message():
    drive = settled(messages())
    overdue(drive)
    [fact] = drive.told(WorkerHung)
    assert fact.describe().startswith(f"jobs.1 is overdue: {OVERDUE} (pid ")


def test_in_exclusive_mode_nothing_else_is_there_to_end_in_peace():
    drive = settled(messages(mode="exclusive"))
    assert "Kill" in kinds(overdue(drive))
    assert "Terminate" not in kinds(drive.taken)
    [fact] = drive.told(WorkerKilled)
    assert fact.describe().startswith(f"jobs.1 gets SIGKILL: {OVERDUE}")


def test_the_message_is_to_blame_and_not_the_slot():
    drive = settled(messages(max_restarts=2))
    for _ in range(5):
        old = drive.worker("jobs.1")
        assert spawned(overdue(drive)) == [("jobs.1", 1)]
        drive.ends(old, -15)
        drive.ready("jobs.1")
    slot, group = drive.slot("jobs.1"), drive.group("jobs")
    assert (slot.failed, slot.charged, group.breaker.open_since, slot.restarts) == ("", (), None, 5)


def test_a_release_on_trial_is_not_judged_by_it():
    drive = settled(messages(count=2))
    drive.asks("jobs")
    drive.goes_well(Stage.ROLLING, group="jobs")
    overdue(drive, "jobs.1")
    assert drive.group("jobs").roll.fault == ""


def test_said_again_it_changes_nothing():
    drive = settled(messages())
    old = drive.worker("jobs.1")
    overdue(drive)
    assert drive.happen(events.Tripped(old.id, 0.0, OVERDUE)) == []


def test_a_held_executor_is_left_alone():
    drive = settled(messages())
    drive.happen(events.Held("jobs.1", True))
    assert overdue(drive) == []


# -- the dispatcher


def test_a_fresh_dispatcher_comes_when_the_old_one_has_ended():
    drive = settled(dispatching(), messages())
    old = drive.worker("dispatcher.1")

    assert kinds(drive.happen(events.Replaced("dispatcher.1"))) == ["Retire", "Ask"]
    assert spawned(drive.ends(old)) == [("dispatcher.1", 1)]


def test_a_roll_of_it_ends_the_old_one_first():
    drive = settled(dispatching(), messages())
    old = drive.worker("dispatcher.1")
    done = drive.asks("dispatcher")

    assert spawned(done) == []
    assert drive.slot("dispatcher.1").staying == []
    drive.ends(old)
    assert drive.releases("dispatcher") == [(2,)]
    drive.goes_well(group="dispatcher")
    assert drive.group("dispatcher").current == 2


def test_only_the_last_dispatcher_waits_for_its_executors():
    drive = settled(dispatching(), messages(), web())
    place = find(drive.cluster, drive.worker("dispatcher.1").id)
    assert place is not None
    assert has_siblings(place)

    without_messages(drive)
    place = find(drive.cluster, place.worker.id)
    assert place is not None
    assert has_siblings(place)
    drive.ends(drive.slot("jobs.1").workers[0])
    place = find(drive.cluster, place.worker.id)
    assert place is not None
    assert not has_siblings(place)


def test_a_store_that_cannot_be_used_fails_the_start_with_the_reason():
    drive = Drive(dispatching(), messages(), exit_when_failed=True)
    for _ in range(3):
        worker = drive.worker("dispatcher.1")
        drive.happen(events.BootFailed(worker.id, "the schema is newer than this bkd"))
        drive.ends(worker, 1)
        drive.later(10)
    assert [stop.why for stop in drive.did(actions.Stop)] == [
        "dispatcher has failed: dispatcher.1 could not start 3 times in a row: the schema is newer than this bkd"
    ]


# -- its end


def stopping(*more: GroupSection, hasty: bool = False) -> Drive:
    """A cluster with one executor, and all of these, that is to stop."""
    drive = settled(dispatching(drain=5.0, term=3.0), messages(drain=10.0, term=2.0), *more)
    drive.happen(events.StopAsked("bkd stop", hasty=hasty))
    return drive


def test_in_a_stop_the_dispatcher_is_asked_when_all_others_have_ended():
    drive = stopping(web())
    assert {fact.slot for fact in drive.told(WorkerRetired)} == {"jobs.1", "web.1"}

    drive.dies("jobs.1", 0)
    assert drive.slot("dispatcher.1").staying
    assert kinds(drive.dies("web.1", 0))[:3] == ["Retire", "Sweep", "Ask"]
    assert drive.told(WorkerRetired)[-1].slot == "dispatcher.1"
    drive.dies("dispatcher.1", 0)
    assert [action.code for action in drive.did(actions.Leave)] == [0]


@pytest.mark.parametrize(("waits", "code", "named"), [(0.0, 0, ()), (10.5, 3, ("jobs.1",))])
def test_an_executor_whose_messages_were_interrupted_was_not_drained(waits, code, named):
    """It may have ended in peace at SIGTERM: what it ran has to be run again."""
    drive = stopping()
    drive.later(waits)
    drive.dies("jobs.1", 0)
    assert tuple(entry.split()[0] for entry in drive.cluster.closing.interrupted) == named
    assert drive.cluster.closing.killed == ()
    drive.dies("dispatcher.1", 0)
    assert [action.code for action in drive.did(actions.Leave)] == [code]


def test_one_that_dies_in_a_stop_is_replaced_and_ends_last():
    drive = stopping()
    assert spawned(drive.dies("dispatcher.1", -9)) == [("dispatcher.1", 1)]
    drive.ready("dispatcher.1")
    assert drive.slot("dispatcher.1").staying

    assert kinds(drive.dies("jobs.1", 0))[:3] == ["Retire", "Sweep", "Ask"]
    drive.dies("dispatcher.1", 0)
    assert [action.code for action in drive.did(actions.Leave)] == [0]


def test_deaths_over_and_over_in_a_stop_are_held_up_by_back_off_and_hold_nothing_up():
    drive = stopping()
    births, begun = [], drive.now
    while drive.slot("jobs.1").workers[0].ending.step != Step.KILLED:
        if drive.slot("dispatcher.1").staying:
            drive.dies("dispatcher.1", 1, chance=0.99)
            births.append(drive.now)
        drive.later(0.1)

    assert drive.now - begun == pytest.approx(12.0, abs=0.2)
    assert 3 < len(births) < 12
    drive.dies("jobs.1", -9)
    if drive.slot("dispatcher.1").workers:
        drive.dies("dispatcher.1", -15)
    assert [action.code for action in drive.did(actions.Leave)] == [3]


def test_nobody_waits_for_a_dispatcher_that_is_still_starting():
    drive = stopping()
    drive.dies("dispatcher.1", -9)
    assert "Terminate" in kinds(drive.dies("jobs.1", 0))


def test_when_all_others_have_ended_it_is_not_replaced():
    drive = stopping()
    drive.dies("jobs.1", 0)
    assert spawned(drive.dies("dispatcher.1", -9)) == []
    assert [action.code for action in drive.did(actions.Leave)] == [0]


def test_one_that_does_not_end_is_waited_for_its_own_time_only():
    drive = stopping()
    drive.later(9.0)
    drive.dies("jobs.1", 0)
    assert drive.later(4.9) == []
    assert kinds(drive.later(0.2)) == ["Terminate"]
    assert kinds(drive.later(3.0)) == ["Kill"]


def test_who_kills_at_once_leaves_the_dispatcher_a_moment_to_write_what_it_was_told():
    drive = stopping(hasty=True)
    assert [drive.cluster.places[action.worker] for action in drive.did(actions.Kill)] == ["jobs.1"]

    assert kinds(drive.dies("jobs.1", -9))[:3] == ["Retire", "Sweep", "Ask"]
    assert drive.later(0.9) == []
    assert kinds(drive.later(0.2)) == ["Terminate"]
    assert kinds(drive.later(1.0)) == ["Kill"]


def test_a_second_stop_shortens_the_time_it_has():
    drive = stopping()
    drive.dies("jobs.1", 0)
    drive.later(2.0)
    assert kinds(drive.happen(events.StopAsked("Ctrl-C", hasty=True))) == ["Terminate"]


def test_who_kills_at_once_waits_for_no_new_dispatcher():
    drive = stopping(hasty=True)
    assert spawned(drive.dies("dispatcher.1", -9)) == []


def test_when_the_last_group_of_messages_goes_the_dispatcher_follows_it():
    drive = settled(dispatching(), messages(), web())
    without_messages(drive)
    assert spawned(drive.dies("dispatcher.1", -9)) == [("dispatcher.1", 1)]
    drive.ready("dispatcher.1")

    drive.ends(drive.slot("jobs.1").workers[0])
    assert [fact.group for fact in drive.told(GroupRemoved)] == ["jobs", "dispatcher"]
    assert [fact.describe() for fact in drive.told(GroupRemoved)] == [
        "jobs is no longer in the configuration and is drained",
        "dispatcher is drained: no group runs messages any more; what is stored waits for one",
    ]
    assert drive.told(WorkerRetired)[-1].slot == "dispatcher.1"
    drive.dies("dispatcher.1", 0)
    assert list(drive.cluster.groups) == ["web"]


def test_messages_that_come_back_before_it_has_gone_keep_it():
    drive = settled(dispatching(), messages(), web())
    without_messages(drive)
    old = drive.slot("jobs.1").workers[0]
    sections = {group.name: group for group in (dispatching(), messages("mail"), web())}
    drive.happen(events.Reconfigured(sections, drive.cluster.ping, {}))
    drive.ends(old)

    assert drive.slot("dispatcher.1").staying
    assert "dispatcher" not in [fact.group for fact in drive.told(GroupRemoved)]
