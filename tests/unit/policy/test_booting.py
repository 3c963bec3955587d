"""From nothing to ready: loaders, orders, births, and the limits of each."""

import pytest

from bkd.supervisor import events
from bkd.supervisor.cluster import Cause, Loader, Phase
from bkd.supervisor.facts import PreloadOff, ReleaseFailed, WorkerExited, WorkerHung, WorkerReady

from .drive import Drive, command, kinds, python, web


def test_a_group_that_forks_is_loaded_first():
    drive = Drive(web(count=2))
    assert kinds(drive.taken) == ["LoadRelease"]
    done = drive.load()
    assert [(action.slot, action.fork) for action in done] == [("web.1", True), ("web.2", True)]


@pytest.mark.parametrize("group", [command(), python(name="cache", preload="false"), web("cache", preload="false")])
def test_what_does_not_fork_is_started_at_once(group):
    drive = Drive(group)
    assert [(action.slot, action.fork) for action in drive.taken] == [("cache.1", False)]


def test_a_worker_is_ready_when_it_says_so():
    drive = Drive(web()).up()
    assert drive.worker("web.1").phase == Phase.READY
    assert drive.told(WorkerReady)[0].slot == "web.1"
    assert drive.group().proven


def test_ready_said_twice_counts_once():
    drive = Drive(web()).up()
    first = drive.worker("web.1").ready_at
    drive.later(4)
    drive.ready("web.1")
    assert drive.worker("web.1").ready_at == first
    assert len(drive.told(WorkerReady)) == 1


# -- limits


def test_a_slow_import_is_never_killed_by_pings():
    drive = Drive(web(start_timeout=120.0))
    drive.load()
    assert drive.later(119) == []


def test_a_boot_has_a_limit_of_its_own():
    drive = Drive(web(start_timeout=5.0))
    drive.load()
    assert kinds(drive.later(5.0))[:2] == ["Condemn", "Terminate"]
    assert drive.told(WorkerHung)[0].verdict == "slow boot"
    assert drive.slot("web.1").boot_failures == 1


@pytest.mark.parametrize("count", [1, 3])
def test_an_order_unanswered_for_five_seconds_replaces_the_zygote(count):
    drive = Drive(web(count=count), births=False)
    drive.load()
    assert drive.later(4.9) == []
    drive.now += 0.2
    assert kinds(drive.plan().actions) == ["DropLoader"]


def test_the_orders_of_a_dropped_zygote_fail_and_are_given_to_the_next():
    drive = Drive(web(), births=False)
    drive.load()
    order = drive.worker("web.1").id
    drive.now += 5.1
    for action in drive.plan().actions:
        drive._apply(events.Taken(action))
        drive._apply(events.SpawnFailed(order, "the zygote did not answer"))
    assert kinds(drive.settle()) == ["LoadRelease"]
    assert drive.slot("web.1").active is None
    drive.later(1)
    assert kinds(drive.load()) == ["Spawn"]


def test_a_dropped_zygote_is_not_dropped_again():
    drive = Drive(web(), births=False)
    drive.load()
    drive.now += 5.1
    for action in drive.plan().actions:
        drive._apply(events.Taken(action))
    assert "DropLoader" not in kinds(drive.settle())
    assert "DropLoader" not in kinds(drive.later(1))


def test_an_import_has_the_same_limit_as_a_boot():
    drive = Drive(web(start_timeout=5.0))
    assert kinds(drive.later(5.1)) == ["DropLoader"]
    assert "start_timeout" in drive.told(ReleaseFailed)[0].reason


# -- failures


def test_a_failed_boot_is_charged_and_delayed():
    drive = Drive(web())
    drive.load()
    drive.happen(events.BootFailed(drive.worker("web.1").id, "ImportError: no module named shop"))
    assert "Spawn" not in kinds(drive.dies("web.1", 3))
    slot = drive.slot("web.1")
    assert slot.last_exit.cause == Cause.BOOT
    assert slot.next_try == pytest.approx(drive.now + 0.1)
    assert drive.told(WorkerExited)[0].reason == "ImportError: no module named shop"
    assert kinds(drive.later(0.1)) == ["Spawn"]


def test_a_process_that_could_not_be_made_is_charged_like_a_failed_boot():
    drive = Drive(web(), births=False)
    drive.load()
    drive.happen(events.SpawnFailed(drive.worker("web.1").id, "fork: Resource temporarily unavailable"))
    slot = drive.slot("web.1")
    assert (slot.score, slot.boot_failures, slot.active) == (1.0, 1, None)
    assert drive.told(WorkerExited)[0].reason.startswith("fork:")


def test_an_app_that_cannot_be_imported_is_tried_again_with_growing_delays():
    drive = Drive(web())
    waits = []
    for _ in range(12):
        drive.happen(events.LoaderFailed("web", 1, "ImportError", chance=0.0))
        waits.append(drive.group().releases[1].next_try - drive.now)
        assert kinds(drive.later(waits[-1])) == ["LoadRelease"]
    assert waits == sorted(waits)
    assert waits[0] >= 0.1
    assert max(waits) == pytest.approx(15.0)
    assert drive.told(ReleaseFailed)[0].reason == "ImportError"


def test_a_cluster_that_cannot_come_up_gives_up_when_told_to():
    drive = Drive(web(), exit_when_failed=True)
    done = drive.happen(events.LoaderFailed("web", 1, "ImportError: no module named shop"))
    assert kinds(done)[0] == "Stop"
    assert done[0].code == 1
    assert kinds(done)[-1] == "Leave"
    assert done[-1].code == 1


def test_three_failed_boots_in_a_row_are_hopeless_while_nothing_was_ever_ready():
    drive = Drive(web(), exit_when_failed=True)
    drive.load()
    for number in range(3):
        assert drive.cluster.closing is None, number
        drive.dies("web.1", 1)
        drive.later(2)
    assert drive.cluster.closing is not None


def test_a_group_that_was_once_ready_is_not_hopeless():
    drive = Drive(web(), exit_when_failed=True).up()
    for _ in range(5):
        drive.dies("web.1", 1)
        drive.later(31)
    assert drive.cluster.closing is None


# -- preload


def test_an_app_with_threads_is_started_by_exec():
    drive = Drive(web())
    done = drive.load(unsafe=("2 threads",))
    assert [action.fork for action in done if type(action).__name__ == "Spawn"] == [False]
    assert drive.told(PreloadOff)[0].why == "2 threads"
    assert drive.group().releases[1].loader == Loader.UNSAFE


def test_an_unsafe_zygote_serves_nobody_and_is_ended():
    drive = Drive(web())
    assert "DropLoader" in kinds(drive.load(unsafe=("2 threads",)))
    assert drive.group().releases[1].loader == Loader.UNSAFE


def test_preload_true_makes_threads_a_failed_load():
    drive = Drive(web(preload="true"))
    done = drive.load(unsafe=("2 threads",))
    assert "Spawn" not in kinds(done)
    assert drive.group().releases[1].loader == Loader.FAILED
    assert "2 threads" in drive.told(ReleaseFailed)[0].reason


def test_a_load_that_failed_for_its_threads_leaves_no_zygote_behind():
    drive = Drive(web(preload="true"))
    assert kinds(drive.load(unsafe=("2 threads",))) == ["DropLoader"]
    assert kinds(drive.later(31)) == ["LoadRelease"]


def test_a_dead_zygote_costs_no_worker_and_comes_back_at_once():
    drive = Drive(web(count=2)).up()
    assert kinds(drive.happen(events.LoaderGone("web", 1, "signal 9"))) == ["LoadRelease"]
    assert all(slot.active for slot in drive.group().slots.values())


def test_a_zygote_that_keeps_dying_is_delayed():
    drive = Drive(web()).up(watched=False)
    drive.happen(events.LoaderGone("web", 1, "signal 11"))
    drive.load()
    assert drive.happen(events.LoaderGone("web", 1, "signal 11")) == []
    assert kinds(drive.later(1)) == ["LoadRelease"]


def test_no_worker_is_forked_while_the_zygote_is_away():
    drive = Drive(web()).up(watched=False)
    drive.later(10)
    drive.happen(events.LoaderGone("web", 1, "signal 9"))
    assert "Spawn" not in kinds(drive.dies("web.1", -9))
    assert [action.slot for action in drive.load()] == ["web.1"]
