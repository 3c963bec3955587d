"""Locks: one owner at a time, each with a larger fence than all before."""

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bkd.ipc.errors import RefusedError
from bkd.ipc.leases import Leases, Taken

NAMES, OWNERS = st.sampled_from(["a", "b"]), st.sampled_from(["web.1/1", "web.1/2", "web.2/1"])
TTLS = st.sampled_from([0.5, 3.0, 60.0])


class Locks(RuleBasedStateMachine):
    """Leases against the plainest model there is: a dictionary of owner and end."""

    def __init__(self):
        super().__init__()
        self.now, self.leases, self.held, self.fences = 0.0, Leases(), {}, {"a": [0], "b": [0]}

    def holder(self, name):
        owner, until = self.held.get(name, ("", 0.0))
        return owner if until > self.now else ""

    @rule(name=NAMES, owner=OWNERS, ttl=TTLS)
    def take(self, name, owner, ttl):
        holder = self.holder(name)
        taken = self.leases.take(name, owner, ttl, self.now)
        if holder not in ("", owner):
            assert taken == Taken(0, self.held[name][1] - self.now)
            return
        assert taken.wait == 0
        if holder == owner:
            assert taken.fence == self.fences[name][-1]
        else:
            assert taken.fence > self.fences[name][-1]
            self.fences[name].append(taken.fence)
        self.held[name] = (owner, self.now + ttl)

    @rule(name=NAMES, owner=OWNERS, ttl=TTLS)
    def renew(self, name, owner, ttl):
        is_theirs = self.holder(name) == owner
        assert self.leases.renew(name, owner, ttl, self.now) == is_theirs
        if is_theirs:
            self.held[name] = (owner, self.now + ttl)

    @rule(name=NAMES, owner=OWNERS)
    def free(self, name, owner):
        is_theirs = self.holder(name) == owner
        self.leases.expire(self.now)
        assert self.leases.free(name, owner) == is_theirs
        if is_theirs:
            del self.held[name]

    @rule(prefix=st.sampled_from(["web.1/", "web.2/", "web.1/1"]))
    def free_all(self, prefix):
        theirs = [name for name in self.held if self.holder(name).startswith(prefix) and self.holder(name)]
        self.leases.expire(self.now)
        assert sorted(self.leases.free_all(prefix)) == sorted(theirs)
        for name in theirs:
            del self.held[name]

    @rule(step=st.sampled_from([0.0, 0.25, 1.0, 61.0]))
    def wait(self, step):
        self.now += step

    @invariant()
    def nothing_is_kept_that_is_over(self):
        self.leases.expire(self.now)
        assert len(self.leases) == sum(1 for name in self.held if self.holder(name))


TestLocks = Locks.TestCase


def test_fences_grow_beyond_the_end_of_the_process():
    first = Leases().take("a", "x", 5, now=1000.0)
    second = Leases().take("a", "y", 5, now=1000.001)

    assert 0 < first.fence < second.fence


def test_fences_grow_where_the_clock_does_not():
    leases = Leases()
    fences = []
    for now in (5.0, 5.0, 3.0):
        fences.append(leases.take("a", "x", 5, now).fence)
        leases.free("a", "x")

    assert fences == sorted(set(fences))


def test_too_many_locks_are_refused_until_some_have_ended():
    leases = Leases(most=3)
    for number in range(3):
        leases.take(f"{number}", "x", 5 + number, 0.0)

    with pytest.raises(RefusedError, match="more than 3 locks"):
        leases.take("3", "x", 5, 4.9)
    assert leases.take("0", "x", 5, 4.9).fence
    assert leases.take("2", "y", 5, 6.5).fence == 0
    assert leases.take("3", "x", 5, 6.5).fence


def test_renewing_for_ever_needs_no_more_room():
    leases = Leases()
    for turn in range(10_000):
        leases.take("a", "x", 5, float(turn))

    assert len(leases._ends) < 100
    assert len(leases) == 1


@pytest.mark.parametrize(("owner", "ttl"), [("", 1.0), ("x", 0.0), ("x", -1.0), ("x", math.nan), ("x", math.inf)])
def test_nobody_holds_a_lock_for_nothing(owner, ttl):
    with pytest.raises(ValueError, match="a lock"):
        Leases().take("a", owner, ttl, 0.0)
    with pytest.raises(ValueError, match="a lock"):
        Leases().renew("a", owner, ttl, 0.0)
