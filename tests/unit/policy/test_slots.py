"""What becomes of a slot when its worker ends, and what operators do to slots."""

import pytest

from bkd.supervisor import events
from bkd.supervisor.cluster import Cause
from bkd.supervisor.facts import CrashLoop, SlotDone, SlotFailed, SlotReset, WorkerExited

from .drive import Drive, command, kinds, python, web


def settled(*groups, **more) -> Drive:
    """Everything has been ready for long enough to count as healthy."""
    drive = Drive(*groups, **more).up(watched=False)
    drive.later(10)
    return drive


# -- charged


@pytest.mark.parametrize(
    ("code", "oom", "cause"), [(1, False, "crash"), (-11, False, "crash"), (-9, True, "out of memory")]
)
def test_the_first_death_after_a_healthy_life_costs_no_delay(code, oom, cause):
    drive = settled(web())
    assert kinds(drive.dies("web.1", code, oom=oom)) == ["Spawn", "Sweep"]
    assert drive.slot("web.1").last_exit.cause == cause
    assert drive.slot("web.1").score == 1.0


def test_the_second_death_waits():
    drive = settled(web())
    drive.dies("web.1")
    drive.ready("web.1", watched=False)
    drive.later(4)
    assert kinds(drive.dies("web.1")) == ["Sweep"]
    assert 0 < drive.slot("web.1").next_try - drive.now <= 0.4


def test_a_worker_that_was_ready_for_a_moment_only_was_not_healthy():
    drive = Drive(web(min_ready=3.0)).up(watched=False)
    drive.later(2.9)
    assert "Spawn" not in kinds(drive.dies("web.1"))


def test_after_some_quiet_minutes_the_retry_is_free_again():
    drive = settled(web())
    drive.dies("web.1")
    drive.ready("web.1", watched=False)
    drive.later(61)
    assert "Spawn" in kinds(drive.dies("web.1"))


def test_a_slot_that_dies_again_and_again_is_named_once():
    drive = settled(web())
    for _ in range(8):
        drive.dies("web.1", chance=0.1)
        drive.later(8)
    assert len(drive.told(CrashLoop)) == 1
    assert drive.told(CrashLoop)[0].slot == "web.1"


@pytest.mark.parametrize("period", [35, 60, 100])
def test_a_slow_crash_loop_is_named(period):
    """It boots, works, and dies every minute or so for ever: no single death is remarkable."""
    drive = settled(web())
    for _ in range(1500 // period):
        drive.ready("web.1", watched=False)
        drive.later(period)
        drive.dies("web.1")
        drive.later(5)
    assert drive.told(CrashLoop)


def test_a_crash_now_and_then_is_no_loop():
    drive = settled(web())
    for _ in range(6):
        drive.dies("web.1")
        drive.ready("web.1", watched=False)
        drive.later(600)
    assert not drive.told(CrashLoop)


# -- killed from outside


def test_kills_from_outside_are_shown_but_neither_charged_nor_delayed_up_to_30_a_minute():
    drive = settled(web())
    for number in range(30):
        assert "Spawn" in kinds(drive.dies("web.1", -9)), number
        drive.later(1)
    assert drive.slot("web.1").score == 0.0
    assert {fact.cause for fact in drive.told(WorkerExited)} == {"killed from outside"}
    assert "Spawn" not in kinds(drive.dies("web.1", -9))
    assert drive.slot("web.1").next_try > drive.now


def test_thirty_kills_spread_over_more_than_a_minute_are_free():
    drive = settled(web())
    for _ in range(60):
        assert "Spawn" in kinds(drive.dies("web.1", -9))
        drive.later(2.1)


# -- failed and done


def test_exit_78_is_final():
    drive = settled(web())
    assert kinds(drive.dies("web.1", 78)) == ["Sweep"]
    assert drive.later(3600) == []
    assert "78" in drive.told(SlotFailed)[0].why


def test_max_restarts_deaths_in_ten_minutes_are_final():
    drive = settled(web(max_restarts=3))
    for number in range(3):
        assert not drive.slot("web.1").failed, number
        drive.dies("web.1")
        drive.later(31)
    assert "max_restarts = 3" in drive.slot("web.1").failed
    assert drive.later(3600) == []


def test_deaths_more_than_ten_minutes_apart_do_not_add_up():
    drive = settled(web(max_restarts=2))
    for _ in range(4):
        drive.dies("web.1")
        drive.ready("web.1", watched=False)
        drive.later(601)
    assert not drive.slot("web.1").failed


def test_kills_from_outside_do_not_count_as_restarts():
    drive = settled(web(max_restarts=1))
    drive.dies("web.1", -9)
    assert not drive.slot("web.1").failed


def test_one_death_is_enough_where_one_is_the_limit():
    drive = settled(web(max_restarts=1))
    drive.dies("web.1")
    assert drive.slot("web.1").failed == "1 death in 10 minutes (max_restarts = 1)"


@pytest.mark.parametrize("code", [78, 1])
def test_what_is_said_of_a_slot_that_stays_down_names_no_next_try(code):
    drive = settled(web(max_restarts=1))
    drive.dies("web.1", code)
    assert drive.told(WorkerExited)[0].delay is None


@pytest.mark.parametrize(
    ("restart", "code", "done", "failed", "goes_on"),
    [
        ("always", 0, False, False, True),
        ("always", 1, False, False, True),
        ("failure", 0, True, False, False),
        ("failure", 1, False, False, True),
        ("failure", -11, False, False, True),
        ("failure", -9, False, False, True),
        ("never", 0, True, False, False),
        ("never", 1, False, True, False),
        ("never", -11, False, True, False),
        ("never", -9, False, True, False),
    ],
)
@pytest.mark.parametrize("group", [python, command])
def test_restart(group, restart, code, done, failed, goes_on):
    drive = settled(group("x", restart=restart))
    drive.dies("x.1", code)
    drive.later(31)
    slot = drive.slot("x.1")
    assert (slot.done, bool(slot.failed), slot.active is not None) == (done, failed, goes_on)


def test_a_finished_worker_is_said_to_be_done():
    drive = settled(python())
    drive.dies("jobs.1", 0)
    assert drive.told(SlotDone)[0].slot == "jobs.1"
    assert drive.slot("jobs.1").last_exit.cause == Cause.FINISHED


def test_a_program_that_finishes_before_it_counts_as_ready_is_done_too():
    drive = Drive(command(restart="failure"))
    drive.dies("cache.1", 0)
    assert drive.slot("cache.1").done


def test_a_hung_worker_is_not_replaced_when_restart_is_never():
    drive = Drive(python(restart="never")).up()
    done = drive.later(40)
    assert kinds(done).count("Condemn") == 1
    assert "Spawn" not in kinds(done)
    assert drive.slot("jobs.1").failed


def test_a_worker_that_boots_too_slowly_and_obeys_sigterm_has_not_finished_its_work():
    drive = Drive(python(restart="failure", start_timeout=5.0, preload="false"))
    drive.later(5.1)
    old = drive.slot("jobs.1").workers[0]
    drive.happen(events.Exited(old.id, 0))
    assert not drive.slot("jobs.1").done
    drive.later(1)
    assert drive.slot("jobs.1").active is not None


def test_a_hung_worker_that_says_78_on_its_way_out_does_not_fail_its_replacement():
    drive = Drive(web()).up()
    drive.later(35)
    old = drive.slot("web.1").workers[0]
    assert old.ending is not None
    assert drive.slot("web.1").active is not None
    drive.happen(events.Exited(old.id, 78))
    assert not drive.slot("web.1").failed


def test_all_slots_failed_ends_a_cluster_that_is_told_so():
    drive = settled(web(count=2), exit_when_failed=True)
    drive.dies("web.1", 78)
    assert drive.cluster.closing is None
    assert kinds(drive.dies("web.2", 78))[-1] == "Leave"
    assert drive.did(type(drive.taken[-1]))[0].code == 1


# -- operators


def test_an_operators_signal_is_planned_and_free():
    drive = settled(web())
    drive.happen(events.Signalled(drive.worker("web.1").id, 15))
    assert "Spawn" in kinds(drive.dies("web.1", -15))
    assert (drive.slot("web.1").score, drive.slot("web.1").restarts) == (0.0, 0)


def test_a_worker_that_obeys_the_operators_sigterm_with_exit_0_is_planned_too():
    drive = settled(web())
    drive.happen(events.Signalled(drive.worker("web.1").id, 15))
    drive.dies("web.1", 0)
    assert drive.slot("web.1").score == 0.0


def test_a_held_slot_is_not_replaced_until_it_is_given_back():
    drive = settled(web())
    drive.happen(events.Held("web.1", True))
    assert kinds(drive.dies("web.1")) == ["Sweep"]
    assert drive.later(600) == []
    assert kinds(drive.happen(events.Held("web.1", False))) == ["Spawn"]


def test_holding_is_not_hurting():
    drive = settled(web())
    worker = drive.worker("web.1").id
    drive.happen(events.Held("web.1", True))
    drive.later(600)
    drive.happen(events.Held("web.1", False))
    drive.later(600)
    assert drive.worker("web.1").id == worker


def test_reset_ends_the_waiting():
    drive = settled(web())
    for _ in range(6):
        drive.dies("web.1", chance=0.99)
        drive.later(31)
    drive.dies("web.1", chance=0.99)
    assert drive.slot("web.1").active is None
    assert kinds(drive.happen(events.Cleared("web.1"))) == ["Spawn"]
    assert drive.slot("web.1").score == 0.0
    assert drive.told(SlotReset)


@pytest.mark.parametrize("name", ["web", "web.1"])
def test_reset_forgets_failures_by_slot_or_group(name):
    drive = settled(web(count=2))
    drive.dies("web.1", 78)
    assert kinds(drive.happen(events.Cleared(name))) == ["Spawn"]


def test_reset_of_a_slot_leaves_the_others_as_they_are():
    drive = settled(web(count=2))
    drive.dies("web.1", 78)
    drive.dies("web.2", 78)
    drive.happen(events.Cleared("web.1"))
    assert drive.slot("web.2").failed


def test_reset_tries_a_failed_import_at_once():
    drive = Drive(web())
    drive.happen(events.LoaderFailed("web", 1, "ImportError"))
    assert kinds(drive.happen(events.Cleared("web"))) == ["LoadRelease"]


def test_events_about_slots_and_groups_that_are_gone_change_nothing():
    drive = settled(web(count=2))
    before = drive.cluster
    drive.happen(events.Held("web.7", True))
    drive.happen(events.Scaled("gone", 3))
    assert drive.cluster.groups == before.groups


# -- scaling


def test_scaling_up_adds_slots():
    drive = settled(web())
    done = drive.happen(events.Scaled("web", 3))
    assert [action.slot for action in done] == ["web.2", "web.3"]


def test_scaling_down_drains_the_highest():
    drive = settled(web(count=3))
    done = drive.happen(events.Scaled("web", 1))
    assert kinds(done) == ["Retire", "Retire", "Ask", "Ask"]
    drive.dies("web.2", 0)
    drive.dies("web.3", 0)
    assert list(drive.group().slots) == ["web.1"]
    assert drive.later(60) == []


def test_scaling_down_charges_nobody():
    drive = settled(web(count=2))
    drive.happen(events.Scaled("web", 1))
    drive.dies("web.2", 0)
    assert drive.told(WorkerExited)[-1].cause == "planned"
    assert drive.group().breaker.deaths == ()


def test_scaling_up_again_while_the_old_one_drains_starts_a_new_one_beside_it():
    drive = settled(web(count=2))
    drive.happen(events.Scaled("web", 1))
    assert [action.slot for action in drive.happen(events.Scaled("web", 2))] == ["web.2"]
    drive.dies("web.2", 0)
    assert len(drive.slot("web.2").workers) == 1


@pytest.mark.parametrize("ends", [78, 1])
def test_a_slot_without_a_process_goes_at_once_when_scaled_away(ends):
    drive = Drive(web(count=2)).up(watched=False)
    drive.dies("web.2", ends)
    assert drive.slot("web.2").active is None
    drive.happen(events.Scaled("web", 1))
    assert list(drive.group().slots) == ["web.1"]


def test_scaling_to_nothing_and_back():
    drive = settled(web(count=2))
    drive.happen(events.Scaled("web", 0))
    drive.dies("web.1", 0)
    drive.dies("web.2", 0)
    assert drive.group().slots == {}
    assert drive.later(60) == []
    assert [action.slot for action in drive.happen(events.Scaled("web", 1))] == ["web.1"]
