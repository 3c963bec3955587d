"""When an executor has too few descriptors left."""

import os
import resource
from contextlib import ExitStack, contextmanager, suppress

import pytest

from bkd.workers.messages.descriptors import EVERY, PAUSE, Descriptors


@pytest.fixture
def limited():
    """Sets how many more descriptors this process may have, and gives them back. Free numbers below the highest one
    that is in use, left by whatever ran here before, are taken meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    with ExitStack() as plugs:
        while (number := os.dup(0)) <= highest:
            plugs.callback(os.close, number)
        os.close(number)
        yield lambda left: resource.setrlimit(resource.RLIMIT_NOFILE, (number + left, before[1]))
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def leaked(count):
    """So many more are open."""
    with ExitStack() as opened:
        for _ in range(count):
            opened.callback(os.close, os.dup(0))
        yield


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
    with leaked(40):
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
