import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor import actions, breaker, events
from bkd.supervisor.cluster import Breaker, Phase
from bkd.supervisor.facts import BreakerClosed, BreakerOpened

from .drive import Drive, kinds, web


def deaths(*slots: int, every: float = 1.0) -> Breaker:
    row = Breaker()
    for number, slot in enumerate(slots):
        row = breaker.with_death(row, f"web.{slot}", number * every)
    return row


@pytest.mark.parametrize(
    ("slots", "dead", "opens"),
    [
        (2, (1, 2), False),
        (2, (1, 1, 1), False),
        (2, (1, 1, 2), True),
        (3, (1, 1, 2), True),
        (4, (1, 1, 1), False),
        (4, (1, 2, 2), True),
        (5, (1, 2, 2), False),
        (5, (1, 2, 3), True),
        (8, (1, 2, 3), False),
        (8, (1, 2, 3, 4), True),
        (1, (1, 1, 1, 1), False),
    ],
)
def test_it_opens_at_three_deaths_in_half_of_the_slots_and_at_least_two(slots, dead, opens):
    assert breaker.should_open(deaths(*dead), slots, 10.0) is opens


@pytest.mark.parametrize(("now", "opens"), [(61.9, False), (59.9, True)])
def test_deaths_count_for_a_minute(now, opens):
    assert breaker.should_open(deaths(1, 2, 3, every=1.0), 4, now) is opens


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(1, 6)), max_size=20), st.integers(2, 6))
def test_the_rule_of_the_design_for_any_deaths(times, slots):
    row = Breaker()
    for at, slot in sorted(times):
        row = breaker.with_death(row, f"web.{slot}", at)
    recent = [slot for at, slot in times if 50.0 - at < 60.0]
    expected = len(recent) >= 3 and len(set(recent)) * 2 >= slots and len(set(recent)) >= 2
    assert breaker.should_open(row, slots, 50.0) is expected


def broken(count: int = 4) -> Drive:
    """A group in which half of the slots have just died, one of them twice: the breaker is open."""
    drive = Drive(web(count=count)).up(watched=False)
    drive.later(10)
    for name in ("web.2", "web.1"):
        drive.dies(name)
    drive.dies("web.1")
    assert drive.group().breaker.open_since is not None
    return drive


def trying(drive: Drive) -> list[str]:
    """The slots that are starting."""
    workers = {name: slot.active for name, slot in drive.group().slots.items()}
    return [name for name, worker in workers.items() if worker and worker.phase == Phase.STARTING]


def test_it_opens_with_one_alert():
    drive = broken()
    assert len(drive.told(BreakerOpened)) == 1


def test_it_never_stops_a_healthy_sibling():
    drive = broken()
    healthy = [drive.worker(name).id for name in ("web.3", "web.4")]
    for _ in range(5):
        drive.later(30)
        for name in ("web.1", "web.2"):
            if drive.slot(name).active is not None:
                drive.dies(name)
    assert [drive.worker(name).id for name in ("web.3", "web.4")] == healthy
    assert not {"Retire", "Condemn", "Ask", "Terminate", "Kill"} & set(kinds(drive.taken))


def test_one_slot_tries_at_a_time():
    drive = broken()
    drive.dies("web.2")
    for _ in range(6):
        drive.later(31)
        (probe,) = trying(drive)
        drive.dies(probe)


def test_it_closes_when_the_probing_slot_stays_healthy():
    drive = broken()
    drive.dies("web.2")
    drive.later(31)
    (probe,) = trying(drive)
    drive.ready(probe, watched=False)
    assert drive.later(2.9) == []
    assert kinds(drive.later(0.2))[0] == "CloseBreaker"
    assert drive.told(BreakerClosed)
    assert all(slot.active for slot in drive.group().slots.values())


def test_the_pass_that_opens_it_starts_one_slot_only():
    """All four die at the same moment after a healthy life: each would have its retry at once."""
    drive = Drive(web(count=4)).up(watched=False)
    drive.later(10)
    done = drive.happen(*(events.Exited(drive.worker(f"web.{n}").id, 1) for n in (1, 2, 3, 4)))
    assert len([action for action in done if isinstance(action, actions.Spawn)]) == 1


def test_it_closes_when_what_was_dying_is_taken_away():
    drive = Drive(web(count=2)).up(watched=False)
    drive.later(10)
    drive.dies("web.1")
    drive.ready("web.1", watched=False)
    drive.dies("web.2")
    drive.ready("web.2", watched=False)
    drive.later(1)
    drive.dies("web.1")
    assert drive.group().breaker.open_since is not None
    drive.happen(events.Held("web.1", True))
    drive.later(60)
    assert drive.group().breaker.open_since is None
