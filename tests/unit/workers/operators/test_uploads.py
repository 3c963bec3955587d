"""Payloads that come in parts before their messages."""

import pytest

from bkd.ipc.durable.model import MOST_PAYLOAD
from bkd.workers.operators.selection import Usage
from bkd.workers.operators.uploads import LIFE, LONGEST_NAME, MOST, Uploads


class Clock:
    """Stands where it is put."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def uploads(clock):
    return Uploads(clock)


def test_parts_make_a_whole_that_may_be_used_again(uploads):
    assert [uploads.extend("a", part) for part in (b"one ", b"two")] == [4, 7]
    assert uploads.whole("a") == uploads.whole("a") == b"one two"


def test_what_is_not_there_is_said_with_what_to_do(uploads):
    with pytest.raises(Usage, match="say it again"):
        uploads.whole("b")


def test_one_that_is_too_large_is_refused_and_forgotten(uploads):
    uploads.extend("a", bytes(MOST_PAYLOAD))
    with pytest.raises(Usage, match="over the limit of 10,485,760 bytes"):
        uploads.extend("a", b"x")
    with pytest.raises(Usage, match="not there any more"):
        uploads.whole("a")


def test_the_longest_untouched_makes_room(uploads, clock):
    for number in range(MOST):
        clock.now = float(number)
        uploads.extend(str(number), b"x")
    clock.now += 1
    uploads.whole("0")
    uploads.extend("new", b"x")

    assert uploads.whole("0") == b"x"
    with pytest.raises(Usage):
        uploads.whole("1")


def test_one_that_nobody_asks_for_is_forgotten(uploads, clock):
    uploads.extend("a", b"x")
    clock.now = LIFE + 1
    uploads.extend("b", b"x")
    with pytest.raises(Usage):
        uploads.whole("a")


@pytest.mark.parametrize("name", ["", "n" * (LONGEST_NAME + 1)])
def test_a_name_is_short(uploads, name):
    with pytest.raises(Usage, match="1 to 64 characters"):
        uploads.extend(name, b"x")
