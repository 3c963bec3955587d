"""The token bucket: never more than there is, and the wait it names is the true one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.ipc.bucket import Buckets, Rate, lifetime, take

STEPS = st.lists(st.sampled_from([0.0, 0.001, 0.3, 1.0, 17.0, 4000.0]), min_size=1, max_size=60)
PLAIN = st.builds(
    Rate,
    st.floats(0.1, 1000),
    st.floats(0.01, 3600),
    most=st.one_of(st.just(0.0), st.floats(1, 100)),
    cost=st.floats(0.01, 0.1),
)
RATES = st.builds(
    Rate,
    st.floats(0.1, 1000),
    st.floats(0.01, 3600),
    most=st.one_of(st.just(0.0), st.floats(1, 100)),
    cost=st.floats(0.01, 0.1),
    reset=st.integers(0, 10),
    multiplier=st.one_of(st.just(0.0), st.floats(-4, 4)),
    cap=st.floats(0.1, 10_000),
)


def calls(rate, times):
    """What a bucket says at these times, one call each."""
    bucket, waits = None, []
    for now in times:
        bucket, wait = take(bucket, rate, now)
        waits.append(wait)
    return waits


@given(PLAIN, STEPS)
def test_nobody_gets_more_than_the_burst_and_what_came_since(rate, steps):
    now, spent, bucket = 100.0, 0.0, None
    for step in steps:
        now += step
        for _call in range(5):
            bucket, wait = take(bucket, rate, now)
            spent += rate.cost if wait == 0 else 0
            assert spent <= (rate.burst + (now - 100) * rate.rate / rate.interval) * (1 + 1e-9) + 2e-6 * rate.rate

        assert bucket.tokens <= rate.burst


@given(PLAIN, STEPS)
def test_who_waits_as_long_as_it_says_is_let_through_and_not_before(rate, steps):
    now, bucket, wait = 0.0, None, 0.0
    for step in steps:
        now += step
        bucket, wait = take(bucket, rate, now)
    while wait == 0 and rate.burst / rate.cost < 300:
        bucket, wait = take(bucket, rate, now)
    if wait:
        assert take(bucket, rate, now + wait)[1] == 0
        assert take(bucket, rate, now + wait * 0.999 - 1e-5)[1] > 0


@given(PLAIN, st.floats(0.01, 1e9))
def test_a_clock_that_goes_back_gives_nothing(rate, step):
    bucket, _wait = take(None, rate, 1e9)
    earlier, wait = take(bucket, rate, 1e9 - step)

    assert earlier.tokens == (bucket.tokens if wait else bucket.tokens - rate.cost)
    assert take(earlier, rate, 1e9 - step)[0].tokens <= earlier.tokens


@given(RATES, STEPS)
def test_a_bucket_may_be_forgotten_after_its_lifetime(rate, steps):
    now, bucket = 0.0, None
    for step in steps:
        now += step
        bucket, wait = take(bucket, rate, now)
        assert math.isfinite(wait)
        assert wait >= 0
        if bucket is not None:
            later, wait = take(bucket, rate, now + lifetime(bucket, rate) + 1e-6)
            assert wait == 0
            assert later is None or later.tokens == pytest.approx(rate.burst - rate.cost, rel=1e-6)


@given(RATES, STEPS)
def test_the_interval_stays_between_what_was_configured_and_the_cap(rate, steps):
    now, bucket = 0.0, None
    for step in steps:
        now += step
        bucket, _wait = take(bucket, rate, now)
        if bucket is not None:
            assert rate.interval <= bucket.interval <= max(rate.cap, rate.interval)


def test_the_wait_is_the_time_until_a_token_is_there():
    assert calls(Rate(2), [0, 0, 0, 0.25, 0.5]) == [0, 0, 0.5, 0.25, 0]


def test_a_burst_may_be_more_than_the_rate():
    assert calls(Rate(1, 10, most=3), [0, 0, 0, 0]) == [0, 0, 0, 10]


def test_a_call_may_cost_more_than_one():
    assert calls(Rate(4, 1, cost=3), [0, 0, 0.5]) == [0, 0.5, 0]


def test_reset_one_fills_the_bucket_after_a_refusal():
    assert calls(Rate(2, reset=1), [0, 0, 0, 0, 0, 0]) == [0, 0, 0.5, 0, 0, 0.5]


def test_reset_fills_the_bucket_with_so_many_calls():
    assert [bool(wait) for wait in calls(Rate(2, reset=4), [0] * 8)] == [False, False, True, True] * 2


def test_each_refusal_makes_the_interval_longer_up_to_the_cap():
    assert calls(Rate(1, multiplier=2, cap=5), [0] * 5) == [0, 2, 4, 5, 5]


def test_a_negative_multiplier_is_over_with_the_next_success():
    assert calls(Rate(1, multiplier=-2), [0, 0, 0, 4, 4]) == [0, 2, 4, 0, 2]
    assert calls(Rate(1, multiplier=2), [0, 0, 0, 4, 4]) == [0, 2, 4, 0, 8]


def test_another_rate_begins_a_new_bucket():
    bucket, _ = take(None, Rate(1, 60), 0)

    assert take(bucket, Rate(1, 60), 0)[1] == 60
    assert take(bucket, Rate(2, 60), 0)[1] == 0
    assert take(bucket, Rate(1, 60, most=1), 0)[1] == 60
    assert take(bucket, Rate(1, 60, multiplier=2), 0)[1] == 120


@pytest.mark.parametrize(
    ("rate", "why"),
    [
        (Rate(0), "more than 0"),
        (Rate(-1), "more than 0"),
        (Rate(1, 0), "more than 0"),
        (Rate(1, cost=0), "more than 0"),
        (Rate(1, cap=0), "more than 0"),
        (Rate(1, most=-1), "less than 0"),
        (Rate(1, reset=-1), "less than 0"),
        (Rate(math.nan), "finite"),
        (Rate(1, math.inf), "finite"),
        (Rate(1, multiplier=math.nan), "finite"),
        (Rate(5, cost=6), "a cost of 6 never fits into a limit of 5"),
        (Rate(5, most=2, cost=3), "a cost of 3 never fits into a limit of 2"),
    ],
)
def test_a_rate_that_nobody_can_keep_to_is_an_error(rate, why):
    with pytest.raises(ValueError, match=why):
        take(None, rate, 0.0)
    with pytest.raises(ValueError, match=why):
        Buckets().take("x", rate, 0.0)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([0.0, 0.1, 2.0, 50.0])), max_size=80))
def test_a_table_of_buckets_says_what_each_would_say(steps):
    rate, table, alone, now = Rate(2, most=3), Buckets(), {}, 0.0
    for name, step in steps:
        now += step
        alone[name], wait = take(alone.get(name), rate, now)

        assert table.take(name, rate, now) == pytest.approx(wait, abs=1e-6)
        assert len(table) <= len(alone)


def test_a_table_forgets_what_is_full_again():
    table = Buckets()
    for number in range(1000):
        table.take(f"{number}", Rate(1), 0.0)
        table.take("busy", Rate(10), 0.9)
    assert len(table) == 1001

    table.take("busy", Rate(10), 1.5)

    assert len(table) == 1


def test_a_table_is_bounded():
    table = Buckets(most=10)
    for number in range(1000):
        table.take(f"{number}", Rate(1, 10 + number), 0.0)

    assert len(table) == 10
    assert table.take("999", Rate(1, 1009), 0.0) > 0


def test_a_table_fills_what_is_to_be_forgotten_at_once():
    table = Buckets()

    assert [table.take("x", Rate(1, reset=1), 0.0) for _call in range(4)] == [0, 1, 0, 1]
