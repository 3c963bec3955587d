"""Who waits for rolls, and when there is nothing left to wait for."""

import pytest

from bkd.supervisor import events
from bkd.supervisor.cluster import Stage
from bkd.supervisor.config.schema import PingSection
from bkd.supervisor.facts import RollDone, RollMoved, WorkerReady
from bkd.supervisor.waiting import Waiting, failing

from .policy.drive import Drive, rolling, settled, web


def for_group(drive: Drive) -> Waiting:
    """Whoever made the newest request."""
    return Waiting({"web": drive.group().asked})


def for_slot(drive: Drive, slot: str) -> Waiting:
    """Whoever wants a fresh worker there."""
    return Waiting(slots={slot: {worker.id for worker in drive.slot(slot).workers}})


def test_who_waits_for_a_roll_waits_until_it_is_over():
    drive = rolling(Stage.SETTLING)
    waiting = for_group(drive)
    assert waiting.left(drive.cluster, drive.now)
    drive.goes_well()
    assert not waiting.left(drive.cluster, drive.now)
    assert waiting.outcomes["web"].done


def test_the_outcome_of_an_earlier_roll_is_nobody_s_answer():
    drive = rolling(Stage.ROLLING).goes_well()
    drive.asks()
    waiting = for_group(drive)
    assert waiting.left(drive.cluster, drive.now)
    drive.happen(events.LoaderFailed("web", 3, "SyntaxError"))
    assert not waiting.left(drive.cluster, drive.now)
    assert (waiting.outcomes["web"].done, waiting.outcomes["web"].release) == (False, 3)


def test_an_outcome_once_seen_is_kept():
    drive = rolling(Stage.ROLLING)
    waiting = for_group(drive)
    drive.goes_well()
    waiting.left(drive.cluster, drive.now)
    drive.asks()
    drive.goes_well()
    waiting.left(drive.cluster, drive.now)
    assert waiting.outcomes["web"].release == 2


@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.CANARY])
def test_whose_roll_made_way_is_answered_by_the_one_that_took_its_place(stage):
    drive = rolling(stage)
    first = for_group(drive)
    drive.asks()
    second = for_group(drive)
    assert first.left(drive.cluster, drive.now)
    drive.goes_well()
    assert not first.left(drive.cluster, drive.now) | second.left(drive.cluster, drive.now)
    assert first.outcomes["web"].release == second.outcomes["web"].release == 3


def test_who_is_queued_is_not_answered_by_the_roll_before():
    drive = rolling(Stage.ROLLING)
    first = for_group(drive)
    drive.asks()
    second = for_group(drive)
    while first.left(drive.cluster, drive.now):
        drive.goes_on()
    assert second.left(drive.cluster, drive.now)
    drive.goes_well()
    assert not second.left(drive.cluster, drive.now)
    assert (first.outcomes["web"].release, second.outcomes["web"].release) == (2, 3)


def test_a_fresh_worker_is_there_when_it_serves_and_the_old_one_is_gone():
    drive = settled(web(count=2))
    waiting = for_slot(drive, "web.1")
    drive.happen(events.Replaced("web.1"))
    assert waiting.left(drive.cluster, drive.now)
    drive.happen(events.BecameReady(drive.slot("web.1").staying[-1].id, False))
    assert waiting.left(drive.cluster, drive.now)
    drive.obeys()
    assert not waiting.left(drive.cluster, drive.now)


def test_nobody_waits_for_a_slot_or_a_group_that_is_gone():
    drive = rolling(Stage.CANARY, web(count=2))
    group, slot = for_group(drive), for_slot(drive, "web.2")
    drive.happen(events.Scaled("web", 1))
    drive.obeys()
    assert not slot.left(drive.cluster, drive.now)
    drive.happen(events.Reconfigured({}, PingSection(), {}))
    drive.obeys()
    assert not group.left(drive.cluster, drive.now)


def test_nobody_waits_when_everything_ends():
    drive = rolling(Stage.CANARY)
    group, slot = for_group(drive), for_slot(drive, "web.2")
    drive.happen(events.StopAsked("bkd stop"))
    assert not group.left(drive.cluster, drive.now) | slot.left(drive.cluster, drive.now)


def test_a_group_that_comes_is_waited_for_until_it_is_up_or_hopeless():
    drive = settled(web())
    waiting = Waiting(changing={"api"})
    drive.happen(events.Reconfigured({"web": web(), "api": web("api")}, PingSection(), {}))
    assert waiting.left(drive.cluster, drive.now)
    drive.load("api")
    assert waiting.left(drive.cluster, drive.now)
    drive.ready("api.1", watched=False)
    assert waiting.left(drive.cluster, drive.now)
    drive.later(3.0)
    assert not waiting.left(drive.cluster, drive.now)


def test_a_group_of_which_one_slot_does_not_come_up_is_not_waited_for_for_ever():
    drive = settled(web())
    waiting = Waiting(changing={"api"})
    drive.happen(events.Reconfigured({"web": web(), "api": web("api", count=2)}, PingSection(), {}))
    drive.load("api")
    drive.ready("api.1", watched=False)
    for _ in range(3):
        drive.happen(events.BootFailed(drive.slot("api.2").staying[-1].id, "no database"))
        drive.ends(drive.slot("api.2").staying[-1], 1)
        drive.later(30.0)
    assert not waiting.left(drive.cluster, drive.now)
    assert failing(drive.group("api")) == "api.2 does not come up: no database"


def test_a_ticket_that_nobody_knows_is_not_waited_for():
    drive = settled(web())
    waiting = Waiting({"web": 7})
    assert not waiting.left(drive.cluster, drive.now)
    assert "state was lost" in waiting.missed["web"]


def test_a_slot_that_takes_too_long_does_not_end_the_wait_for_a_roll():
    drive = rolling(Stage.CANARY)
    waiting = Waiting({"web": drive.group().asked}, {"web.2": {drive.slot("web.2").staying[0].id}})
    assert waiting.left(drive.cluster, drive.now)
    assert waiting.left(drive.cluster, drive.now + 1000.0)
    assert list(waiting.missed) == ["web.2"]


def test_what_is_waited_for_survives_the_master():
    waiting = Waiting({"web": 3}, {"api.1": {7, 5}}, {"new"})
    again = Waiting.resumed(waiting.resume())
    assert (again.tickets, again.slots, again.changing) == (waiting.tickets, waiting.slots, waiting.changing)


def test_a_group_that_goes_is_waited_for_until_it_is_gone():
    drive = settled(web(), web("api"))
    waiting = Waiting(changing={"api"})
    drive.happen(events.Reconfigured({"web": web()}, PingSection(), {}))
    assert waiting.left(drive.cluster, drive.now)
    drive.obeys()
    assert not waiting.left(drive.cluster, drive.now)


def test_only_what_concerns_somebody_is_shown_to_him():
    moved = RollMoved(group="web", release=2, stage="canary", moved=0, count=4, slot="web.1")
    done = RollDone(group="api", release=2, old=1, workers=1, seconds=1.0, left=[])
    ready = WorkerReady(slot="web.2", pid=7, seconds=0.1)
    waiting = Waiting({"web": 1})
    assert [waiting.concerns(fact) for fact in (moved, done, ready)] == [True, False, True]
    assert [Waiting(slots={"web.2": {1}}).concerns(fact) for fact in (moved, done, ready)] == [False, False, True]
