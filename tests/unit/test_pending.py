"""Calls that wait for their answers."""

from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor.pending import Call, Party, Pending


def test_an_answer_is_for_whoever_asked():
    pending, asker, owner = Pending(), Party(), Party()

    number = pending.begin(asker, 7, owner, 5.0)

    assert len(pending) == 1
    assert pending.settle(number, owner) == Call(asker, 7, owner, 5.0)
    assert pending.settle(number, owner) is None
    assert len(pending) == 0
    assert not asker.asked | owner.owed


def test_nobody_answers_for_another():
    pending, asker, owner = Pending(), Party(), Party()

    number = pending.begin(asker, 7, owner, 5.0)

    assert pending.settle(number, asker) is None
    assert pending.settle(number, Party()) is None
    assert pending.settle(number + 1, owner) is None
    assert pending.settle(number, owner) is not None


def test_deadlines_in_their_order():
    pending, asker, owner = Pending(), Party(), Party()
    for id, deadline in ((1, 3.0), (2, 1.0), (3, 2.0)):
        pending.begin(asker, id, owner, deadline)

    assert pending.next_end == 1.0
    assert [call.id for call in pending.expired(0.9)] == []
    assert [call.id for call in pending.expired(2.0)] == [2, 3]
    assert [call.id for call in pending.expired(9.0)] == [1]
    assert pending.next_end is None


def test_an_answered_call_does_not_expire():
    pending, asker, owner = Pending(), Party(), Party()
    number = pending.begin(asker, 1, owner, 1.0)
    pending.settle(number, owner)

    assert pending.expired(2.0) == []


def test_whoever_goes_owes_its_answers_and_waits_for_none():
    pending, one, other = Pending(), Party(), Party()
    pending.begin(one, 1, other, 5.0)
    pending.begin(other, 2, one, 5.0)
    pending.begin(one, 3, one, 5.0)

    assert [call.id for call in pending.gone(one)] == [2]
    assert len(pending) == 0
    assert not other.asked | other.owed


def test_answered_calls_do_not_pile_up():
    pending, asker, owner = Pending(), Party(), Party()
    for id in range(10_000):
        pending.settle(pending.begin(asker, id, owner, 1e9), owner)

    assert len(pending._ends) < 1100


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9), st.sampled_from("basge"))))
def test_every_call_ends_once(steps):
    """Whatever happens: what is begun is settled, expired or gone with its asker, and the parties know what is open."""
    pending, parties, open_calls = Pending(), [Party() for _ in range(4)], {}
    for number, (one, other, time, what) in enumerate(steps):
        asker, owner = parties[one], parties[other]
        if what == "b":
            open_calls[pending.begin(asker, number, owner, float(time))] = (asker, owner, float(time))
        elif what == "s":
            found = pending.settle(time, owner)
            assert (found is not None) == (time in open_calls and open_calls[time][1] is owner)
            open_calls.pop(time, None) if found else None
        elif what == "g":
            pending.gone(asker)
            open_calls = {n: call for n, call in open_calls.items() if asker not in call[:2]}
        elif what == "e":
            due = [n for n, call in open_calls.items() if call[2] <= time]
            assert len(pending.expired(float(time))) == len(due)
            open_calls = {n: call for n, call in open_calls.items() if n not in due}
        assert len(pending) == len(open_calls)
        for party in parties:
            assert party.asked == {n for n, call in open_calls.items() if call[0] is party}
            assert party.owed == {n for n, call in open_calls.items() if call[1] is party}
