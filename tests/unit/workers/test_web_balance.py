"""Who should take the next connection."""

import pytest

from bkd.workers.web.balance import AWAY, MOST, PATIENCE, Balance


def among(*others):
    return Balance(bytearray([AWAY, *others]), 0)


@pytest.mark.parametrize(
    ("own", "others", "crowded"),
    [
        (0, (0,), False),
        (1, (0,), False),
        (2, (0,), True),
        (2, (0, 5), True),
        (2, (1, 5), False),
        (21, (16,), False),
        (22, (16,), True),
        (300, (MOST,), False),
        (300, (10,), True),
        (9, (AWAY, AWAY), False),
        (9, (), False),
    ],
)
def test_crowded_is_who_has_clearly_more_than_the_least(own, others, crowded):
    assert among(*others).crowded(own) is crowded


def test_a_sibling_that_never_moves_is_waited_for_only_so_often():
    cells = bytearray([AWAY, 0, 7])
    balance = Balance(cells, 0)
    for _ in range(PATIENCE):
        assert balance.crowded(5)
        balance.waited()
    assert not balance.crowded(5)

    cells[1] = 1
    assert balance.crowded(5)


def test_without_a_file_nobody_is_crowded(caplog):
    assert not Balance.open("", 3).crowded(100)
    assert caplog.text == ""


@pytest.mark.parametrize(("content", "index"), [(None, 0), (b"", 0), (b"\xff" * 4, 4), (b"\xff" * 4, -1)])
def test_a_file_that_does_not_fit_costs_the_balance_and_a_line(tmp_path, caplog, content, index):
    path = tmp_path / "slots"
    if content is not None:
        path.write_bytes(content)
    assert not Balance.open(str(path), index).crowded(100)
    assert "without balance" in caplog.text


def test_workers_see_each_other_through_the_file(tmp_path):
    path = tmp_path / "slots"
    path.write_bytes(b"\xff" * 4)
    first, second = Balance.open(str(path), 0), Balance.open(str(path), 2)
    first.show(3)
    second.show(1000)
    assert path.read_bytes() == bytes([3, AWAY, MOST, AWAY])
    assert second.crowded(1000)

    first.leave()
    assert path.read_bytes()[0] == AWAY


def test_who_leaves_is_away_whatever_was_written_there():
    cells = bytearray([AWAY])
    balance = Balance(cells, 0)
    balance.show(3)
    cells[0] = 1
    balance.leave()
    assert cells == bytes([AWAY])
