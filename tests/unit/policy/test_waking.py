"""Sleeping until the next limit, passes that start late, and what makes the policy a function."""

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor import actions, events
from bkd.supervisor.apply import apply
from bkd.supervisor.cluster import Cluster, Origin
from bkd.supervisor.config.schema import PingSection
from bkd.supervisor.facts import Overslept
from bkd.supervisor.founding import founded
from bkd.supervisor.reconcile import reconcile
from bkd.supervisor.watch import NEVER, Watch

from .drive import START, Drive, Look, command, kinds, web

# -- the watch


def test_a_watch_remembers_the_earliest_limit_that_has_not_passed():
    watch = Watch(100.0)
    assert watch.wake == NEVER
    assert [watch.due(limit) for limit in (130.0, 99.0, 110.0, 100.0, 120.0)] == [False, True, False, True, False]
    assert watch.wake == 110.0


@given(st.floats(0, 1e9), st.lists(st.floats(0, 1e9)))
def test_a_watch_never_sleeps_over_a_limit(now, limits):
    watch = Watch(now)
    due = [limit for limit in limits if watch.due(limit)]
    assert watch.wake > now
    assert watch.wake == min((limit for limit in limits if limit not in due), default=NEVER)


# -- sleeping


def test_with_nothing_to_wait_for_it_sleeps_for_ever():
    drive = Drive(command())
    drive.ready("cache.1", watched=False)
    assert drive.plan().wake == NEVER


def stories() -> Iterator[tuple[str, Drive]]:
    """Clusters with something to wait for."""
    yield "loading", Drive(web(start_timeout=5.0))
    drive = Drive(web(start_timeout=5.0))
    drive.load()
    yield "booting", drive
    drive = Drive(web(count=2)).up()
    yield "silent", drive
    drive = Drive(web(count=2)).up()
    drive.looks["web.1"] = Look("R", waiting=0.9)
    yield "starved", drive
    drive = Drive(web()).up(watched=False)
    drive.dies("web.1", chance=0.99)
    yield "backing off", drive
    drive = Drive(web(drain=5.0, term=2.0)).up(watched=False)
    drive.happen(events.StopAsked("bkd stop"))
    yield "stopping", drive
    drive = Drive(web())
    drive.happen(events.LoaderFailed("web", 1, "ImportError"))
    yield "load failed", drive


@pytest.mark.parametrize(("story", "drive"), list(stories()), ids=lambda given: given if isinstance(given, str) else "")
def test_it_wakes_exactly_when_there_is_something_to_do(story, drive):
    """Between now and `wake` a pass would do nothing; the one at `wake` acts or has a later limit to wait for."""
    for _ in range(12):
        wake = drive.plan().wake
        if wake == NEVER:
            break
        for part in (0.25, 0.75, 0.999):
            early = reconcile(drive.cluster, drive.now + part * (wake - drive.now))
            assert early.actions == [], story
        drive.now = wake
        done = drive.settle()
        assert done or drive.plan().wake > wake, story


@pytest.mark.parametrize(("story", "drive"), list(stories()), ids=lambda given: given if isinstance(given, str) else "")
def test_a_turn_needs_few_rounds(story, drive):
    for _ in range(6):
        drive.later(3)
        assert drive.rounds <= 6, story


def test_a_large_group_sleeps_too():
    drive = Drive(web(count=300)).up()
    assert drive.plan().wake == START + 5.0


# -- a pass that starts late


def overslept(drive: Drive, seconds: float) -> list[actions.Action]:
    """The master comes so much later than it wanted to wake; gives what it does in the pass after that."""
    wake = drive.plan().wake
    drive.now = (drive.now if wake == NEVER else wake) + seconds
    return drive.happen(events.Overslept(seconds))


def test_nobody_is_judged_for_the_masters_own_pause():
    drive = Drive(web(count=2)).up()
    assert overslept(drive, 3600) == []
    drive.later(9)
    assert not drive.did(actions.Warn)
    drive.later(23)
    assert len(drive.did(actions.Condemn)) == 2


def test_a_boot_is_not_given_up_for_the_masters_pause():
    drive = Drive(web(start_timeout=5.0))
    drive.load()
    assert "Condemn" not in kinds(overslept(drive, 60))


def test_a_zygote_is_not_given_up_for_the_masters_pause():
    drive = Drive(web(), births=False)
    drive.load()
    assert "DropLoader" not in kinds(overslept(drive, 60))


def test_an_import_is_not_given_up_for_the_masters_pause():
    drive = Drive(web(start_timeout=5.0))
    assert "DropLoader" not in kinds(overslept(drive, 60))


def test_an_old_request_of_before_the_pause_is_no_evidence():
    drive = Drive(web(request_timeout=5.0)).up()
    drive.ping("web.1", in_flight=1, oldest=1.0)
    assert "Condemn" not in kinds(overslept(drive, 60))


def test_a_draining_worker_is_not_killed_for_the_masters_pause():
    drive = Drive(web(drain=5.0, term=2.0)).up()
    drive.happen(events.StopAsked("bkd stop"))
    drive.later(5.0)
    assert kinds(drive.taken)[-1] == "Terminate"
    assert "Kill" not in kinds(overslept(drive, 60))


def test_a_killed_worker_did_not_survive_the_masters_pause():
    drive = Drive(web()).up()
    drive.happen(events.StopAsked("Ctrl-C", hasty=True))
    assert "GiveUp" not in kinds(overslept(drive, 60))


def test_what_was_heard_in_the_pass_after_the_pause_is_not_dated_into_the_future():
    drive = Drive(web(), births=False)
    drive.now += 60
    drive.happen(events.LoaderReady("web", 1, 0.5), events.Overslept(60))
    assert kinds(drive.later(4.5)) == []
    assert "DropLoader" in kinds(drive.later(2))


def test_the_pause_is_told():
    drive = Drive(web()).up()
    overslept(drive, 42.0)
    assert [fact.seconds for fact in drive.told(Overslept)] == [42.0]


# -- functions


def every_event(cluster: Cluster) -> list[events.Event]:
    """One of each, about worker 1 of web.1."""
    told: list[events.Event] = [events.Taken(action) for action in reconcile(cluster, START + 50).actions]
    return [
        *told,
        events.Spawned(1, 50, 5),
        events.SpawnFailed(1, "no"),
        events.BecameReady(1),
        events.BootFailed(1, "no"),
        events.Terminated(1),
        events.Pinged(1, 0.2, 3, 0.1, 100, 1.0),
        events.Observed(1, Look("R", 0.5).at(START)),
        events.Gathered(1),
        events.Extended(1, 5.0),
        events.Tripped(1, 5.0),
        events.Signalled(1, 10),
        events.Exited(1, -11),
        events.Swept(1, (5,), (6,)),
        events.LoaderSpawned("web", 1, 40),
        events.LoaderReady("web", 1, 0.3),
        events.LoaderFailed("web", 1, "no"),
        events.LoaderGone("web", 1, "no"),
        events.Scaled("web", 5),
        events.Scaled("web", 0),
        events.Held("web.1", True),
        events.Cleared("web"),
        events.Replaced("web.1"),
        events.Replaced("web.2", hard=True),
        events.RollAsked("web", Origin(web()), "bkd restart"),
        events.RollCalledOff("web", "a rollback was asked for"),
        events.Reconfigured({"web": web(count=3), "api": web("api")}, PingSection(1.0, 3.0), {}),
        events.StopAsked("why"),
        events.Overslept(3.0),
        events.Adopted(),
        events.NewsTold(),
    ]


@pytest.mark.parametrize("seconds", [0.0, 10.0, 31.0])
def test_apply_and_reconcile_change_nothing_that_they_were_given(seconds):
    drive = Drive(web(count=2)).up()
    drive.at(seconds)
    before = msgspec.msgpack.encode(drive.cluster)
    for event in every_event(drive.cluster):
        apply(drive.cluster, event, drive.now + 1)
        reconcile(drive.cluster, drive.now + 1)
        assert msgspec.msgpack.encode(drive.cluster) == before, event


def test_every_kind_of_event_and_action_is_understood():
    drive = Drive(web()).up()
    kinds_seen = {type(event) for event in every_event(drive.cluster)} | {events.Taken}
    assert kinds_seen == set(events.Event.__subclasses__())


def test_the_same_story_has_the_same_end():
    def story() -> Cluster:
        drive = Drive(web(count=2), command(), ping=PingSection(1.0, 3.0)).up()
        drive.dies("web.1", -11)
        drive.later(20)
        drive.happen(events.StopAsked("bkd stop"))
        drive.later(60)
        return drive.cluster

    assert story() == story()


def test_a_new_cluster_is_empty_and_wants_everything():
    cluster = founded({"web": web(count=3)}, PingSection())
    assert list(cluster.groups["web"].slots) == ["web.1", "web.2", "web.3"]
    assert not cluster.places
