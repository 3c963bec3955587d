"""When a session calls itself deaf, and how long it waits."""

from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor.bus import hearing
from bkd.supervisor.bus.hearing import CAP, MOST_MISSES, PERIOD, Hearing, ask, delay, hear, tries_after

CHANCE = st.floats(0, 1, exclude_max=True)


def asked(*tokens, late=False):
    state = Hearing()
    for token in tokens:
        state = ask(state, token, late=late)
    return state


def test_two_probes_that_nobody_heard_are_deafness():
    assert not asked(b"1").deaf
    assert not asked(b"1", b"2").deaf
    assert asked(b"1", b"2", b"3").deaf


def test_one_that_is_heard_wipes_what_was_missed():
    state = hear(asked(b"1", b"2"), b"2", 7.0)

    assert state == Hearing(heard=7.0)
    assert not ask(ask(state, b"3", late=False), b"4", late=False).deaf


def test_a_slow_one_counts_as_heard():
    state = hear(asked(b"1", b"2"), b"1", 7.0)

    assert state == Hearing(asked=(b"2",), heard=7.0)


def test_what_was_never_asked_is_nothing():
    assert hear(asked(b"1"), b"x", 7.0) is None
    assert hear(Hearing(), b"", 7.0) is None


def test_who_is_late_judges_nobody():
    assert not asked(*[b"%d" % number for number in range(10)], late=True).deaf


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=50))
def test_deaf_is_who_missed_as_many_in_a_row_as_it_takes(turns):
    """Each turn: was the probe before it heard, and are we late?"""
    state, misses = ask(Hearing(), b"0", late=False), 0
    for number, (heard, late) in enumerate(turns, 1):
        if heard:
            state, misses = hear(state, b"%d" % (number - 1), float(number)), 0
        elif not late:
            misses += 1
        state = ask(state, b"%d" % number, late=late)

        assert state.deaf == (misses >= MOST_MISSES)
        assert len(state.asked) <= MOST_MISSES + 1


@given(CHANCE)
def test_deafness_is_known_within_fifteen_seconds(chance):
    longest = hearing.period(PERIOD, chance)

    assert 0 < longest <= PERIOD
    assert (MOST_MISSES + 1) * longest <= 15


@given(st.integers(0, 10_000), CHANCE)
def test_the_back_off_is_bounded(tries, chance):
    assert 0 <= delay(tries, chance) <= CAP


def test_the_back_off_doubles():
    assert [round(delay(tries, 1.0), 3) for tries in range(1, 10)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]


def test_only_a_connection_that_lasted_wipes_the_back_off():
    assert tries_after(5, lasted=0.0) == 6
    assert tries_after(5, lasted=CAP - 0.1) == 6
    assert tries_after(5, lasted=CAP) == 0
