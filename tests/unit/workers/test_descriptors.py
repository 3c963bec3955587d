"""When an executor has too few descriptors left."""

import os
import resource
from contextlib import ExitStack, contextmanager, suppress

import pytest

from bkd.workers.messages.descriptors import EVERY, PAUSE, Descriptors


@pytest.fixture
def limited():
    """Sets how many numbers above those in use this process may have, and gives them back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(left):
        number = os.dup(0)
        os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (number + left, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def leaked(count):
    """So many more are open."""
    opened = [os.dup(0) for _ in range(count)]
    yield
    for number in opened:
        os.close(number)


def late():
    """A clock that moves on by more than a pause each time."""
    times = iter(range(1, 1000))
    return lambda: next(times) * 2 * PAUSE


def test_who_closes_what_is_opened_is_never_short_of_them(limited):
    limited(100)
    descriptors = Descriptors(late())
    for _ in range(50):
        with leaked(40):
            pass
        assert descriptors.scarce() == ""


def test_few_are_left(limited):
    limited(100)
    descriptors = Descriptors(late())
    with leaked(70):
        assert descriptors.scarce() == ""
    with leaked(90):
        assert descriptors.scarce().endswith("descriptors left: its handlers open more than they close")
    assert descriptors.scarce() == ""


def test_none_are_left(limited):
    limited(100)
    descriptors = Descriptors(late())
    with leaked(90), ExitStack() as rest:
        with suppress(OSError):
            while True:
                rest.callback(os.close, os.dup(0))
        assert descriptors.scarce().startswith("0 of ")


def test_one_that_has_few_from_the_beginning_is_not_replaced_again_and_again(limited):
    limited(12)
    descriptors = Descriptors(late())
    assert descriptors.scarce() == ""
    with leaked(8):
        assert descriptors.scarce() != ""


def test_it_is_looked_at_now_and_then(limited):
    limited(100)
    descriptors = Descriptors(lambda: PAUSE / 2)
    with leaked(95):
        assert [bool(descriptors.scarce()) for _ in range(2 * EVERY)].index(True) == EVERY - 1
