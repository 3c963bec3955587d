"""Who sits where in the page of a group: the master gives the seats, workers write there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bkd.supervisor.balance import FEWEST, NOT_SERVING
from bkd.supervisor.balance import Balance as Seats
from bkd.workers.web.balance import Balance


@pytest.fixture
def seats(tmp_path):
    return Seats(str(tmp_path))


def test_the_lowest_free_seat_is_given(seats):
    """Groups do not know of each other."""
    assert [seats.take("web") for _ in range(3)] == [0, 1, 2]
    seats.free("web", 1)
    seats.free("web", 0)
    assert [seats.take("web") for _ in range(3)] == [0, 1, 3]
    assert seats.take("api") == 0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.none() | st.integers(0, 8)))
def test_no_seat_is_given_twice(steps):
    """Whatever comes and goes, in whatever order, even twice."""
    seats, taken = Seats("/nowhere"), set()
    for leaving in steps:
        if leaving is not None:
            seats.free("web", leaving)
            taken.discard(leaving)
        else:
            given_ = seats.take("web")
            assert given_ == min(set(range(len(taken) + 1)) - taken)
            taken.add(given_)


def test_who_is_gone_keeps_the_seat_until_it_is_free(seats, tmp_path):
    """A worker that drains shows nothing any more, and nobody else may write there."""
    page = seats.page("web", 2, fresh=True)
    workers = [Balance.open(page, seats.take("web")) for _ in range(2)]
    for worker in workers:
        worker.show(3)
    seats.gone("web", 0)
    assert (tmp_path / "balance" / "web").read_bytes()[:3] == bytes([NOT_SERVING, 3, NOT_SERVING])
    assert seats.take("web") == 2

    seats.free("web", 0)
    assert seats.take("web") == 0


def test_the_next_master_knows_who_has_which(seats, tmp_path):
    """It marks them in the page that is there, and gives none of them again."""
    Balance.open(seats.page("web", 2, fresh=True), seats.take("web")).show(3)
    following = Seats(str(tmp_path))
    following.hold("web", 0)
    assert following.take("web") == 1
    following.gone("web", 0)
    assert (tmp_path / "balance" / "web").read_bytes()[0] == NOT_SERVING
    assert following.page("web", 2, fresh=True) == seats.page("web", 2, fresh=True)


def test_a_page_in_use_is_not_made_anew(seats, tmp_path):
    """A second release asks for the page as well."""
    Balance.open(seats.page("web", 2, fresh=True), seats.take("web")).show(3)
    seats.page("web", 200, fresh=True)
    content = (tmp_path / "balance" / "web").read_bytes()
    assert (len(content), content[0]) == (FEWEST, 3)


def test_seats_beyond_the_page_are_seats(seats, caplog):
    """Their workers serve without balance and say so; nothing is marked."""
    page = seats.page("web", 2, fresh=True)
    for _ in range(FEWEST):
        seats.take("web")
    beyond = seats.take("web")
    worker = Balance.open(page, beyond)
    worker.show(3)
    seats.gone("web", beyond)
    seats.free("web", beyond)
    assert beyond == FEWEST
    assert not worker.crowded(100)
    assert "without balance" in caplog.text


def test_groups_without_a_page_have_seats_all_the_same(seats):
    """Marking them is nothing."""
    seats.hold("clock", 0)
    seats.gone("clock", 0)
    seats.free("clock", 7)
    assert seats.take("clock") == 1
