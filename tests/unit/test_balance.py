"""The balance pages are a help and no condition: without room for them the cluster goes on."""

import pytest

from bkd.supervisor.balance import FEWEST, NOT_SERVING, Balance


def test_a_page_has_seats_for_all(tmp_path):
    balance = Balance(str(tmp_path))
    path = tmp_path / "balance" / "web"
    assert balance.page("web", 2, fresh=True) == str(path)
    assert path.read_bytes() == bytes([NOT_SERVING]) * FEWEST
    assert [balance.take("web"), balance.take("web")] == [0, 1]


@pytest.mark.parametrize("fresh", [True, False])
def test_where_no_file_can_be_made_there_is_none(tmp_path, fresh):
    """Workers are told so, and seats are given all the same."""
    (tmp_path / "balance").write_text("in the way")
    balance = Balance(str(tmp_path))
    assert balance.page("web", 2, fresh=fresh) == ""
    balance.hold("web", 0)
    assert balance.take("web") == 1
    balance.free("web", 0)
    assert balance.take("web") == 0


def test_a_page_that_cannot_be_opened_keeps_no_master_from_taking_over(tmp_path):
    (tmp_path / "balance" / "web").mkdir(parents=True)
    balance = Balance(str(tmp_path))
    balance.hold("web", 3)
    balance.hold("web", 0)
    assert [balance.take("web") for _ in range(3)] == [1, 2, 4]
