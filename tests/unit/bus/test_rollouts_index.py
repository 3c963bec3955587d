import pytest
from msgspec.structs import replace

from bkd.supervisor.bus import rollout as rollouts
from bkd.supervisor.bus import rollouts_index as indexes
from bkd.supervisor.bus.outcome import Outcome
from bkd.supervisor.bus.rollouts_index import MOST, STALE, Held, Index, Row

T = 1_700_000_000.0
LATER = T + 3600


def row(id: str = "r1", groups: str = "web", issued: float = T) -> Row:
    return Row(id, "restart", tuple(groups.split()), f"ann@{id}", issued)


def entered(*rows: Row, live: tuple[str, ...] = ()) -> Index:
    index = Index()
    for one in rows:
        index = indexes.enter(index, one, live, one.issued)
        assert isinstance(index, Index)
    return index


def test_the_newest_is_the_first():
    index = entered(row("r1"), row("r2", "jobs"))
    assert [one.id for one in index.rows] == ["r2", "r1"]
    assert index.version == 2


@pytest.mark.parametrize("groups", ["web", "jobs web", ""])
def test_one_rollout_of_a_group_goes_on_at_a_time(groups):
    held = indexes.enter(entered(row()), row("r2", groups, LATER), {"r1"}, LATER)
    assert isinstance(held, Held)
    assert held.row.id == "r1"
    assert held.text == "ann@r1 has a restart of web going on; wait, or `bkd fleet abort r1`"


def test_a_rollout_of_everything_holds_every_group():
    held = indexes.enter(entered(row(groups="")), row("r2", "jobs", LATER), {"r1"}, LATER)
    assert isinstance(held, Held)
    assert "restart of everything" in held.text


def test_other_groups_do_not_matter():
    assert isinstance(indexes.enter(entered(row()), row("r2", "jobs", LATER), {"r1"}, LATER), Index)


def test_one_that_is_over_holds_nothing():
    index = indexes.left(entered(row()), "r1", Outcome.FAILED)
    assert indexes.rivals(index, row("r2")) == ()
    assert isinstance(indexes.enter(index, row("r2"), {"r1"}, T), Index)


def test_one_that_is_not_live_counts_as_lost():
    index = indexes.enter(entered(row()), row("r2", issued=LATER), (), LATER)
    assert isinstance(index, Index)
    assert [(one.id, one.state) for one in index.rows] == [("r2", Outcome.RUNNING), ("r1", Outcome.LOST)]


def test_one_that_was_entered_just_now_holds_before_its_document_is_there():
    assert isinstance(indexes.enter(entered(row()), row("r2", issued=T + 29), (), T + 29), Held)
    assert isinstance(indexes.enter(entered(row()), row("r2", issued=T + 30), (), T + 30), Index)


def test_to_enter_twice_is_to_enter_once():
    index = indexes.enter(entered(row()), row(), {"r1"}, T)
    assert isinstance(index, Index)
    assert index.rows == (row(),)


def test_the_first_end_that_is_told_stays():
    index = indexes.left(entered(row()), "r1", Outcome.DONE)
    assert index.rows[0].state == Outcome.DONE
    assert indexes.left(index, "r1", Outcome.FAILED) is index
    assert indexes.left(index, "r9", Outcome.FAILED) is index


def test_so_many_are_kept_and_all_that_are_not_over():
    index = entered(row("first", "jobs"))
    for number in range(2 * MOST):
        index = indexes.left(index, f"r{number - 1}", Outcome.DONE)
        index = indexes.enter(index, row(f"r{number}", "web", T + number), (), T + number)
    assert len(index.rows) == MOST
    assert index.rows[0].id == f"r{2 * MOST - 1}"
    assert index.rows[-1].id == "first"


# -- which are live


def begun() -> rollouts.Rollout:
    rollout = rollouts.begin("r1", ["h1", "h2"], verb="restart", groups=["web"], issuer="ann@h1", now=T, max_fail=9)
    return rollouts.accept(rollouts.accept(rollout, "h1", T).rollout, "h2", T).rollout


def test_one_that_goes_on_is_live():
    assert indexes.is_live(begun(), T)


def test_one_whose_document_is_gone_is_not():
    assert not indexes.is_live(None, T)


def test_one_whose_time_has_run_out_is_not_even_if_nobody_wrote_it_down():
    rollout = rollouts.begin("r1", ["h1"], verb="restart", groups=["web"], issuer="ann@h1", now=T)
    assert indexes.is_live(rollout, T + 14)
    assert not indexes.is_live(rollout, T + 15)


def test_one_that_nobody_has_touched_for_ten_minutes_is_not():
    assert indexes.is_live(begun(), T + STALE - 1)
    assert not indexes.is_live(begun(), T + STALE)


def test_one_that_is_renewed_is_live_for_as_long_as_it_takes():
    rollout, _ = rollouts.claim(begun(), "h1", T)
    for second in range(5, 2000, 5):
        rollout = rollouts.renew(rollout, "h1", 1, T + second).rollout
    assert indexes.is_live(rollout, T + 2000)


# -- an older list that is played back


def test_an_older_list_hides_nothing():
    older = entered(row("r1"))
    seen = entered(row("r1"), row("r2", "jobs", T + 1))
    both = indexes.merged(seen, older)
    assert [one.id for one in both.rows] == ["r2", "r1"]
    assert both.version > seen.version


def test_an_older_list_brings_nothing_back_to_life():
    older = entered(row("r1"))
    seen = indexes.left(older, "r1", Outcome.DONE)
    assert indexes.merged(seen, older).rows == seen.rows


def test_a_newer_list_is_taken_as_it_is():
    older = entered(row("r1"))
    newer = indexes.left(older, "r1", Outcome.DONE)
    assert indexes.merged(older, newer) is newer
    assert indexes.merged(newer, newer) is newer
    assert indexes.merged(None, older) is older


def test_the_row_of_a_rollout():
    assert indexes.row_of(begun()) == replace(row(), issuer="ann@h1")
