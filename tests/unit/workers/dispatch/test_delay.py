"""When a message is run again, for every schedule and number of tries."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.ipc.durable.policy import Calendar, Exponential, Fixed
from bkd.workers.dispatch.delay import NEVER_LATER, due, envelope, later

NOW = 1_800_000_000_000
SCHEDULES = st.builds(
    Exponential,
    first=st.floats(0.01, 1e4),
    cap=st.floats(0.01, 1e6),
    factor=st.floats(1.0, 100.0),
    jitter=st.floats(0.0, 1.0),
)
CHANCES = st.floats(0.0, 1.0, exclude_max=True)
RETRIES = st.integers(1, 10**6)


def moment(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1000)


@given(SCHEDULES, RETRIES)
def test_the_envelope_grows_up_to_its_cap(schedule, retry):
    assert envelope(schedule, retry) <= envelope(schedule, retry + 1) <= schedule.cap


@given(SCHEDULES, RETRIES, CHANCES)
def test_jitter_stays_within_its_share_and_below_the_cap(schedule, retry, chance):
    middle = envelope(schedule, retry)

    delay = (due(schedule, retry, NOW, chance) - NOW) / 1000

    assert middle * (1 - schedule.jitter) - 0.001 <= delay <= min(middle * (1 + schedule.jitter), schedule.cap) + 0.001


def test_a_calendar_that_goes_back_is_now():
    assert due(Calendar(-(10**6), "month"), 1, NOW, 0.5) == NOW
    assert due(Calendar(-1, "day"), 1, NOW, 0.5) == NOW


def test_the_millionth_retry_does_not_overflow():
    assert due(Exponential(factor=1e300), 10**6, NOW, 0.5) == NOW + 3_600_000


def test_by_default_the_first_delay_is_short_and_none_is_over_an_hour():
    assert due(Exponential(), 1, NOW, 0.999) <= NOW + 5000
    assert all(due(Exponential(), retry, NOW, 0.999) <= NOW + 3_600_000 for retry in range(1, 100))


def test_fixed_delays_are_equal():
    assert {due(Fixed(60.0), retry, NOW, retry / 10) for retry in range(1, 10)} == {NOW + 60_000}


@pytest.mark.parametrize(
    ("step", "unit", "failed", "again"),
    [
        (2, "second", (2026, 1, 31, 12), (2026, 1, 31, 12, 0, 2)),
        (5, "minute", (2026, 1, 31, 23, 58), (2026, 2, 1, 0, 3)),
        (1, "hour", (2026, 1, 31, 12), (2026, 1, 31, 13)),
        (1, "day", (2026, 2, 28, 12), (2026, 3, 1, 12)),
        (2, "week", (2026, 1, 31, 12), (2026, 2, 14, 12)),
        (1, "month", (2026, 1, 31, 12), (2026, 2, 28, 12)),
        (1, "month", (2028, 1, 31, 12), (2028, 2, 29, 12)),
        (13, "month", (2026, 12, 31, 12), (2028, 1, 31, 12)),
        (1, "month", (2026, 11, 30, 12), (2026, 12, 30, 12)),
    ],
)
def test_the_calendar(step, unit, failed, again):
    assert due(Calendar(step, unit), 1, moment(*failed), 0.5) == moment(*again)


@given(st.integers(0, 10**9), st.sampled_from(["second", "minute", "hour", "day", "week", "month"]))
def test_the_calendar_has_an_end(step, unit):
    assert NOW <= due(Calendar(step, unit), 1, NOW, 0.5) <= NEVER_LATER


@given(st.floats(allow_nan=False))
def test_a_moment_is_never_in_the_past_nor_out_of_reach(seconds):
    assert NOW <= later(NOW, seconds) <= NEVER_LATER
