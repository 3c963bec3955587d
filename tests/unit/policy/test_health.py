"""Heartbeats, looks at /proc, verdicts, and the hung. By default reported after 10 s, given up after 30."""

import pytest

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Verdict
from bkd.supervisor.config.schema import PingSection
from bkd.supervisor.facts import WorkerHung, WorkerLate

from .drive import START, Drive, Look, command, kinds, python, web


def silent(look: Look | None = None, seconds: float = 40, **settings: object) -> tuple[Drive, list[tuple[float, str]]]:
    """A worker that was ready at START and says nothing; what was done when, in seconds since START."""
    drive = Drive(web(term=3.0, **settings)).up()
    drive.looks["web.1"] = look or Look()
    done = []
    while (wake := drive.plan().wake) <= START + seconds:
        drive.now = wake
        done += [(round(drive.now - START, 3), kind) for kind in kinds(drive.settle())]
    drive.now = START + seconds
    return drive, done


# -- heartbeats


def test_heartbeats_keep_a_worker_alive_for_ever():
    drive = Drive(web()).up()
    for _ in range(60):
        drive.later(2)
        drive.ping("web.1")
    assert drive.worker("web.1").trouble is None
    assert not drive.did(actions.Observe)


@pytest.mark.parametrize(("lag", "behind"), [(0.0, 0.0), (0.05, 0.0), (0.06, 0.06), (7.0, 7.0)])
def test_the_loops_lag_is_what_progress_is_behind(lag, behind):
    drive = Drive(web()).up()
    drive.now += 9.0
    drive.ping("web.1", lag=30.0, behind=lag)
    assert drive.worker("web.1").progress == pytest.approx(drive.now - behind)


def test_progress_never_goes_back():
    drive = Drive(web()).up()
    drive.later(4)
    drive.ping("web.1")
    before = drive.worker("web.1").progress
    drive.ping("web.1", behind=100.0)
    assert drive.worker("web.1").progress == before


def test_a_heartbeat_says_what_the_worker_uses():
    drive = Drive(web()).up()
    drive.ping("web.1", cpu=10.0, rss=5000, in_flight=2, oldest=0.25)
    drive.now += 2.0
    drive.ping("web.1", cpu=11.0, rss=6000)
    pulse = drive.worker("web.1").pulse
    assert (pulse.load, pulse.rss, pulse.in_flight, pulse.at) == (0.5, 6000, 0, drive.now)


def test_a_loop_that_does_not_turn_is_no_progress_however_many_heartbeats_come():
    """The heartbeat's thread lives, the main loop does not: its lag grows with the clock."""
    drive = Drive(web()).up()
    while not drive.did(actions.Condemn):
        drive.later(1)
        drive.ping("web.1", behind=drive.now - START)
        assert drive.now < START + 35
    assert drive.now == pytest.approx(START + 30, abs=1.1)


def test_a_worker_that_comes_back_is_forgotten_about():
    drive = Drive(web()).up()
    drive.at(29)
    assert drive.worker("web.1").trouble.reported
    drive.ping("web.1")
    assert drive.worker("web.1").trouble is None
    drive.at(38)
    assert not drive.did(actions.Condemn)


def test_a_heartbeat_with_a_large_lag_does_not_hide_the_trouble():
    drive = Drive(web()).up()
    drive.at(12)
    drive.ping("web.1", behind=9.0)
    assert drive.worker("web.1").trouble is not None


def test_a_worker_without_heartbeats_is_not_judged():
    drive = Drive(command())
    drive.ready("cache.1", watched=False)
    assert drive.later(3600) == []


# -- limits and verdicts


def test_the_course_of_a_hang():
    _, done = silent()
    assert done[:7] == [
        (5.0, "Observe"),
        (10.0, "Observe"),
        (10.0, "Warn"),
        (30.0, "Observe"),
        (30.0, "Condemn"),
        (30.0, "Terminate"),
        (30.0, "Spawn"),
    ] or sorted(done[4:7]) == [(30.0, "Condemn"), (30.0, "Spawn"), (30.0, "Terminate")]
    assert (33.0, "Kill") in done


@pytest.mark.parametrize(
    ("look", "verdict", "at"),
    [
        (Look("S"), Verdict.STUCK, 30),
        (Look("R", busy=0.9), Verdict.BUSY, 30),
        (Look("T"), Verdict.STOPPED, 30),
        (Look("t"), Verdict.STOPPED, 30),
        (Look("D"), Verdict.UNINTERRUPTIBLE, 30),
        (Look("R", busy=0.3, waiting=0.7), Verdict.STARVED, 60),
    ],
)
def test_who_is_given_up_and_when(look, verdict, at):
    drive, done = silent(look, seconds=70)
    (condemned,) = drive.did(actions.Condemn)[:1]
    assert condemned.verdict == verdict
    assert (float(at), "Condemn") in done
    assert drive.told(WorkerLate)[0].verdict == str(verdict)
    assert drive.told(WorkerHung)[0].age == pytest.approx(at)


def test_the_replacement_is_there_the_moment_the_hung_one_is_given_up():
    drive, done = silent(seconds=30)
    assert (30.0, "Spawn") in done
    assert len(drive.slot("web.1").workers) == 2


def test_a_hang_is_charged_once_and_when_it_is_judged():
    drive, _ = silent(seconds=30)
    assert (drive.slot("web.1").score, len(drive.group().breaker.deaths)) == (1.0, 1)
    hung = drive.slot("web.1").workers[0]
    drive.happen(events.Exited(hung.id, -15))
    assert (drive.slot("web.1").score, len(drive.group().breaker.deaths)) == (1.0, 1)
    assert drive.slot("web.1").last_exit.cause == "hung"


def test_a_starved_worker_that_turns_out_stuck_is_given_up_at_once():
    drive = Drive(web()).up()
    drive.looks["web.1"] = Look("R", waiting=0.9)
    drive.at(31)
    assert not drive.did(actions.Condemn)
    drive.looks["web.1"] = Look("T")
    drive.at(60)
    assert drive.did(actions.Condemn)[0].verdict == Verdict.STOPPED


def test_kill_zero_only_reports():
    drive = Drive(web(), ping=PingSection(10.0, 0.0)).up()
    drive.later(3600)
    assert kinds(drive.taken).count("Warn") == 1
    assert not drive.did(actions.Condemn)


def test_plain_functions_are_judged_by_silence():
    drive = Drive(python()).up()
    drive.ping("jobs.1", lag=None)
    drive.at(31)
    assert len(drive.did(actions.Condemn)) == 1


# -- held and traced


def test_a_held_worker_is_reported_only():
    drive = Drive(web()).up()
    drive.happen(events.Held("web.1", True))
    drive.later(300)
    assert len(drive.told(WorkerLate)) == 1
    assert not drive.did(actions.Condemn)


def test_a_worker_given_back_has_its_full_time():
    drive = Drive(web()).up()
    drive.happen(events.Held("web.1", True))
    drive.at(300)
    drive.happen(events.Held("web.1", False))
    drive.at(329)
    assert not drive.did(actions.Condemn)
    drive.at(331)
    assert drive.did(actions.Condemn)


def test_a_traced_worker_is_reported_only():
    drive, done = silent(Look("t", traced=True), seconds=300)
    assert len(drive.told(WorkerLate)) == 1
    assert "Condemn" not in [kind for _, kind in done]


def test_a_worker_whose_debugger_left_is_judged_again():
    drive = Drive(web()).up()
    drive.looks["web.1"] = Look("t", traced=True)
    drive.at(60)
    drive.looks["web.1"] = Look("S")
    drive.at(200)
    assert drive.did(actions.Condemn)


def test_what_was_found_of_a_held_worker_stays_to_be_seen():
    drive = Drive(web()).up()
    drive.happen(events.Held("web.1", True))
    drive.later(100)
    assert drive.worker("web.1").trouble.verdict == Verdict.STUCK


def test_holding_protects_a_boot_from_its_limit():
    drive = Drive(web(start_timeout=5.0))
    drive.load()
    drive.happen(events.Held("web.1", True))
    drive.later(60)
    assert not drive.did(actions.Condemn)


def test_holding_protects_from_request_timeout():
    drive = Drive(web(request_timeout=5.0)).up()
    drive.happen(events.Held("web.1", True))
    drive.ping("web.1", in_flight=1, oldest=6.0)
    drive.later(1)
    assert not drive.did(actions.Condemn)


# -- request_timeout


def beating(drive: Drive, seconds: float, oldest: float) -> None:
    """Heartbeats for some time, every second, with one request that is `oldest` seconds old at their begin."""
    for second in range(int(seconds)):
        drive.ping("web.1", in_flight=1, oldest=oldest + second)
        drive.later(1)


def test_old_requests_are_nobodys_business_by_default():
    drive = Drive(web()).up()
    beating(drive, 60, 0.0)
    assert not drive.did(actions.Condemn)


def test_request_timeout_ends_a_worker_with_an_older_request():
    drive = Drive(web(request_timeout=20.0)).up()
    beating(drive, 19, 0.0)
    assert not drive.did(actions.Condemn)
    beating(drive, 3, 19.0)
    assert [action.verdict for action in drive.did(actions.Condemn)] == [Verdict.OVERDUE]


def test_request_timeout_does_not_touch_the_idle():
    drive = Drive(web(request_timeout=5.0)).up()
    for _ in range(60):
        drive.ping("web.1")
        drive.later(1)
    assert not drive.did(actions.Condemn)


def test_request_timeout_is_not_missed_by_sleeping_on():
    """A heartbeat makes no turn of its own, so the next turn must not be later than the limit it might bring."""
    drive = Drive(web(request_timeout=2.0), ping=PingSection(100.0, 300.0)).up()
    for _ in range(5):
        drive.ping("web.1")
        assert drive.settle() == []
        assert drive.plan().wake <= drive.now + 2.0
        drive.later(1.0)
    drive.ping("web.1", in_flight=1, oldest=1.0)
    drive.later(1.0)
    drive.ping("web.1", in_flight=1, oldest=2.0)
    drive.later(0.3)
    assert drive.did(actions.Condemn)


def test_a_request_that_may_have_ended_since_the_last_heartbeat_costs_nobody_his_life():
    drive = Drive(web(request_timeout=5.0)).up()
    drive.ping("web.1", in_flight=1, oldest=4.0)
    drive.later(1.5)
    assert not drive.did(actions.Condemn)


# -- looks


def test_a_look_that_brings_nothing_is_not_repeated_at_once():
    """The process is ending: /proc says nothing any more, its exit is on the way."""
    drive = Drive(web()).up()
    drive.sees = False
    drive.now += 5.0
    drive.settle()
    assert drive.plan().wake > drive.now


def test_a_worker_that_nothing_can_be_learned_of_is_given_up_all_the_same():
    drive = Drive(web()).up()
    drive.looks["web.1"] = Look("?")
    drive.at(35)
    assert drive.did(actions.Condemn)


def test_news_of_the_gone_change_nothing():
    drive = Drive(web()).up()
    before = drive.cluster
    drive.happen(
        events.Pinged(99, 0.0),
        events.Observed(99, Look().at(drive.now)),
        events.Gathered(99),
        events.Spawned(99, 1, 1),
        events.BecameReady(99),
        events.BootFailed(99, "late"),
        events.SpawnFailed(99, "late"),
        events.Signalled(99, 15),
        events.Exited(99, 0),
        events.Swept(99),
        events.LoaderSpawned("gone", 1, 5),
        events.LoaderReady("web", 9, 0.1),
        events.LoaderFailed("gone", 1, "late"),
        events.LoaderGone("web", 9, "late"),
    )
    assert drive.cluster == before
