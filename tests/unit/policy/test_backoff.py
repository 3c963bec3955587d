import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor import backoff

scores = st.floats(0, 1e6)
chances = st.floats(0, 1, exclude_max=True)
spans = st.floats(0, 1e9)


@pytest.mark.parametrize(("seconds", "left"), [(0, 8.0), (60, 4.0), (120, 2.0), (180, 1.0)])
def test_a_score_halves_every_minute(seconds, left):
    assert backoff.decayed(8.0, 50.0, 50.0 + seconds) == pytest.approx(left)


def test_a_clock_that_went_back_forgives_nothing_and_adds_nothing():
    assert backoff.decayed(3.0, 100.0, 40.0) == 3.0


@pytest.mark.parametrize(("score", "bound"), [(1, 0.2), (2, 0.4), (3, 0.8), (8, 25.6), (9, 30.0), (1000, 30.0)])
def test_the_bound_doubles_with_every_death_up_to_30_seconds(score, bound):
    assert backoff.delay(score, 1.0) == pytest.approx(bound)


@given(scores, chances)
def test_the_delay_is_anywhere_below_its_bound(score, chance):
    delay = backoff.delay(score, chance)
    assert 0 <= delay <= backoff.delay(score, 1.0) <= backoff.CAP


@given(scores, scores, chances)
def test_more_deaths_never_wait_less(one, other, chance):
    low, high = sorted((one, other))
    assert backoff.delay(low, chance) <= backoff.delay(high, chance)


@given(scores, spans, spans)
def test_decay_can_be_taken_in_parts(score, first, second):
    at_once = backoff.decayed(score, 0.0, first + second)
    in_parts = backoff.decayed(backoff.decayed(score, 0.0, first), first, first + second)
    assert in_parts == pytest.approx(at_once, rel=1e-6, abs=1e-9)


@given(scores, spans)
def test_decay_never_adds(score, span):
    assert 0 <= backoff.decayed(score, 0.0, span) <= score


@given(st.lists(chances, min_size=60, max_size=60))
def test_a_slot_that_always_dies_at_once_is_not_tried_more_often_than_the_jitter_allows(jitter):
    now = score = last = 0.0
    for chance in jitter:
        score = backoff.decayed(score, last, now) + 1.0
        last = now
        now += backoff.delay(score, chance)
    average = sum(jitter) / len(jitter)
    assert now >= average * 0.2 * len(jitter) * 0.5
