"""Few samples tell how the memory of a worker has grown over its whole life, and when it will be too much."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor.memorytrend import (
    MOST_SAMPLES,
    SPACING,
    Sample,
    Trend,
    begun,
    followed,
    growth_per_request,
    growth_per_second,
    seconds_until,
)

MB = 1 << 20


def lived(*samples: Sample) -> Trend:
    """A worker that was measured when it was fresh, and then."""
    trend = begun(samples[0], fresh=True)
    for sample in samples[1:]:
        trend = followed(trend, sample)
    return trend


def leaking(seconds: int, *, fresh: int = 80 * MB, step: int = 10, growth: int = 1000) -> list[Sample]:
    """Measured every `step` seconds, ten requests a second, so many bytes each."""
    return [Sample(100.0 + at, 10 * at, fresh + 10 * at * growth) for at in range(0, seconds + 1, step)]


@given(st.lists(st.floats(0.1, 1000.0), min_size=1, max_size=300))
def test_a_few_samples_cover_the_whole_life(gaps):
    at, trend = 0.0, begun(Sample(0.0, 0, 1), fresh=True)
    for number, gap in enumerate(gaps):
        at += gap
        trend = followed(trend, Sample(at, number, number + 2))
    times = [sample.at for sample in trend.samples]
    assert len(times) <= MOST_SAMPLES
    assert times[0] == 0.0
    assert all(later - sooner >= SPACING for sooner, later in pairwise(times))
    assert at - times[-1] <= trend.spacing + max(gaps)


def test_a_long_life_is_covered_evenly():
    trend = lived(*leaking(86_400))
    gaps = {later.at - sooner.at for sooner, later in pairwise(trend.samples)}
    assert len(trend.samples) >= MOST_SAMPLES / 2
    assert max(gaps) <= 2 * min(gaps)
    assert (trend.fresh, trend.samples[0].at, trend.samples[-1].at > 60_000) == (80 * MB, 100.0, True)


@pytest.mark.parametrize("seconds", [20, 120, 3600, 86_400])
def test_steady_growth_is_found_out(seconds):
    samples = leaking(seconds)
    trend, now = lived(*samples), samples[-1]
    assert growth_per_request(trend, now) == pytest.approx(1000)
    assert growth_per_second(trend, now) == pytest.approx(10_000)
    assert seconds_until(now.pss + 90_000, trend, now) == pytest.approx(9.0)


@pytest.mark.parametrize(
    ("now", "growth"),
    [
        (Sample(200.0, 99, 90 * MB), None),
        (Sample(200.0, 100, 80 * MB), None),
        (Sample(200.0, 5000, 70 * MB), None),
        (Sample(200.0, 100, 81 * MB), MB / 100),
    ],
)
def test_growth_per_request_needs_requests_and_growth(now, growth):
    assert growth_per_request(begun(Sample(100.0, 0, 80 * MB), fresh=True), now) == growth


def test_requests_before_the_first_measurement_do_not_count():
    trend = begun(Sample(100.0, 1000, 80 * MB), fresh=True)
    assert growth_per_request(trend, Sample(200.0, 1200, 80 * MB + 2000)) == 10
    assert growth_per_request(trend, Sample(200.0, 1050, 90 * MB)) is None


def test_who_was_not_measured_when_fresh_has_no_growth_per_request():
    trend = begun(Sample(100.0, 0, 80 * MB), fresh=False)
    assert trend.fresh == 0
    assert growth_per_request(trend, Sample(900.0, 10_000, 90 * MB)) is None
    assert growth_per_second(trend, Sample(900.0, 10_000, 90 * MB)) > 0


def test_a_worker_that_warms_up_does_not_grow_for_ever():
    warm = [*leaking(60), Sample(170.0, 700, 81 * MB), Sample(180.0, 800, 81 * MB + 1)]
    assert growth_per_second(lived(*warm), Sample(2000.0, 20_000, 81 * MB + 1)) == pytest.approx(0, abs=1)


def test_who_has_not_changed_since_the_first_half_of_its_life_does_not_grow():
    samples = leaking(60)
    still = Sample(10_000.0, samples[-1].served, samples[-1].pss)
    assert seconds_until(100 * MB, lived(*samples), still) is None


def test_who_shrinks_has_no_time_limit():
    trend = lived(Sample(0.0, 0, 90 * MB), Sample(10.0, 100, 85 * MB), Sample(20.0, 200, 80 * MB))
    assert seconds_until(100 * MB, trend, Sample(30.0, 300, 79 * MB)) is None


def test_one_measurement_says_nothing():
    sample = Sample(100.0, 0, 80 * MB)
    assert growth_per_second(begun(sample, fresh=True), sample) == 0
    assert seconds_until(90 * MB, begun(sample, fresh=True), sample) is None
    assert seconds_until(70 * MB, begun(sample, fresh=True), sample) == 0.0


@given(st.lists(st.tuples(st.floats(0.0, 1e6), st.integers(1, 1 << 50)), min_size=1, max_size=50))
def test_whatever_is_measured_an_answer_is_a_number_or_none(points):
    samples = [Sample(at, number, pss) for number, (at, pss) in enumerate(sorted(points))]
    left = seconds_until(1 << 49, lived(*samples), samples[-1])
    assert left is None or left >= 0
