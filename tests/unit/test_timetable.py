import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor.config.schema import GroupSection
from bkd.supervisor.timetable import MachineZone, due, next_at

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [BERLIN, *map(ZoneInfo, ("UTC", "Australia/Lord_Howe", "America/St_Johns", "Africa/Cairo", "Asia/Kolkata"))]
DAY = timedelta(days=1)

clocks = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
spans = st.floats(0, 1e8)


@pytest.fixture
def machine(monkeypatch):
    """A machine that is in the zone given."""

    def machine(zone):
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield machine
    monkeypatch.undo()
    time.tzset()


def every(seconds):
    return GroupSection(name="web", kind="web", restart_every=seconds)


def berlin(text):
    """A moment given as local time in Berlin; a star means the second time the clock shows it."""
    return datetime.fromisoformat(text.rstrip("*")).replace(tzinfo=BERLIN, fold=int(text.endswith("*")))


def moments(times, after, before):
    """All moments in a span, each found from the one before."""
    found = []
    now = after
    while (now := next_at(times, now)).astimezone(UTC) < before.astimezone(UTC):
        found.append(now)
    return found


def first_showings(times, after, before):
    """The same in the long way, by looking at the clock every minute."""
    start, end = after.astimezone(UTC), before.astimezone(UTC)
    minutes = (start + timedelta(minutes=minute) for minute in range(1, 10_000))
    shown = start.astimezone(after.tzinfo).replace(tzinfo=None)
    found = []
    for minute in takewhile(lambda minute: minute < end, minutes):
        wall = minute.astimezone(after.tzinfo).replace(tzinfo=None)
        new = {shown + timedelta(minutes=step) for step in range(1, int((wall - shown).total_seconds()) // 60 + 1)}
        if any(f"{face:%H:%M}" in times for face in new):
            found.append(minute)
        shown = max(shown, wall)
    return found


def test_without_restart_every_nothing_is_due():
    assert due(every(0.0), 100.0, 200.0, "web.1") is None


@given(st.floats(0.001, 1e7), spans, st.text(max_size=20))
def test_a_restart_is_due_after_its_time_give_or_take_a_tenth(seconds, since, salt):
    moment = due(every(seconds), since, since, salt)

    assert since + seconds * 0.9 - 1e-6 <= moment <= since + seconds * 1.1 + 1e-6


@given(st.floats(0.001, 1e7), spans, spans, st.text(max_size=20))
def test_what_is_overdue_is_due_now(seconds, since, later, salt):
    moment = due(every(seconds), since, since, salt)

    assert due(every(seconds), since, since + later, salt) == max(moment, since + later)


def test_the_jitter_is_the_same_in_every_process():
    moments = [due(every(1000.0), 50.0, 60.0, salt) for salt in ("", "web.1", "web.2")]

    assert moments == pytest.approx([950.0, 1062.997, 957.555], abs=0.001)


def test_the_slots_of_a_group_are_spread_over_the_tenths():
    offsets = sorted(due(every(1000.0), 0.0, 0.0, f"web.{slot}") for slot in range(1, 41))

    assert offsets[0] < 920
    assert offsets[-1] > 1080
    assert max(late - early for early, late in pairwise(offsets)) < 50


def test_without_times_there_is_no_moment():
    assert next_at([], datetime(2026, 1, 1, tzinfo=BERLIN)) is None


@pytest.mark.parametrize(
    ("times", "now", "expected"),
    [
        (["04:00"], "2026-01-05 03:59:59.999999", "2026-01-05 04:00"),
        (["04:00"], "2026-01-05 04:00", "2026-01-06 04:00"),
        (["04:00"], "2026-01-05 04:00:00.000001", "2026-01-06 04:00"),
        (["04:00"], "2026-12-31 12:00", "2027-01-01 04:00"),
        (["00:00"], "2028-02-28 12:00", "2028-02-29 00:00"),
        (["23:59"], "2026-01-05 23:59:59", "2026-01-06 23:59"),
        (["16:00", "04:00", "04:00"], "2026-01-05 02:00", "2026-01-05 04:00"),
        (["16:00", "04:00"], "2026-01-05 04:00", "2026-01-05 16:00"),
        (["16:00", "04:00"], "2026-01-05 17:00", "2026-01-06 04:00"),
    ],
)
def test_the_next_moment_is_the_first_after_now(times, now, expected):
    assert next_at(times, berlin(now)) == berlin(expected)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-03-28 02:30", "2026-03-29 03:00"),
        ("2026-03-29 01:59:59", "2026-03-29 03:00"),
        ("2026-03-29 03:00", "2026-03-30 02:30"),
        ("2026-03-29 03:10", "2026-03-30 02:30"),
        ("2026-10-24 02:30", "2026-10-25 02:30"),
        ("2026-10-25 02:29:59", "2026-10-25 02:30"),
        ("2026-10-25 02:30", "2026-10-26 02:30"),
        ("2026-10-25 02:59", "2026-10-26 02:30"),
        ("2026-10-25 02:00*", "2026-10-26 02:30"),
        ("2026-10-25 02:30*", "2026-10-26 02:30"),
        ("2026-10-25 03:00", "2026-10-26 02:30"),
    ],
)
def test_half_past_two_runs_once_when_the_clocks_change(now, expected):
    moment = next_at(["02:30"], berlin(now))

    assert moment.astimezone(UTC) == berlin(expected).astimezone(UTC)


def test_a_day_at_a_change_of_the_clocks_is_as_long_as_it_is():
    hours = [
        (next_at(["04:00"], berlin(f"{day} 04:00")).astimezone(UTC) - berlin(f"{day} 04:00").astimezone(UTC)) / DAY * 24
        for day in ("2026-03-28", "2026-06-28", "2026-10-24")
    ]

    assert hours == [23, 24, 25]


@pytest.mark.parametrize("text", ["02:00", "02:30", "02:59", "03:00", "01:59"])
@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_each_time_runs_once_on_the_days_of_the_change(text, day):
    start = berlin(f"{day} 00:00")

    assert len(moments([text], start, berlin(f"{day} 23:00"))) == 1


def test_times_in_one_gap_run_together():
    found = moments(["02:10", "02:50", "03:00"], berlin("2026-03-29 00:00"), berlin("2026-03-29 23:00"))

    assert [moment.astimezone(UTC) for moment in found] == [datetime(2026, 3, 29, 1, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", "2026-03-28"),
        ("Europe/Berlin", "2026-10-24"),
        ("Australia/Lord_Howe", "2026-04-04"),
        ("Australia/Lord_Howe", "2026-10-03"),
        ("Africa/Cairo", "2026-04-23"),
        ("Africa/Cairo", "2026-10-29"),
        ("America/Havana", "2026-03-07"),
        ("America/Havana", "2026-10-31"),
    ],
)
def test_the_moments_are_those_at_which_the_clock_first_shows_the_time(zone, day):
    start = datetime.fromisoformat(f"{day} 12:00").replace(tzinfo=ZoneInfo(zone))
    times = ["00:00", "00:15", "01:45", "02:15", "02:30", "04:00", "23:30"]

    found = moments(times, start, start + DAY)

    assert [moment.astimezone(UTC) for moment in found] == first_showings(times, start, start + DAY)


@given(
    st.lists(clocks, min_size=1, max_size=4),
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31), timezones=st.sampled_from(ZONES)),
)
def test_the_moment_is_soon_after_now_and_nothing_lies_between(times, now):
    moment = next_at(times, now).astimezone(UTC)
    just_before = (moment - timedelta(microseconds=1)).astimezone(now.tzinfo)

    assert timedelta(0) < moment - now.astimezone(UTC) <= DAY + timedelta(hours=1)
    assert min(next_at([text], now).astimezone(UTC) for text in times) == moment
    assert next_at(times, just_before).astimezone(UTC) == moment


@pytest.mark.parametrize("now", ["2026-03-28 12:00", "2026-10-24 12:00", "2026-10-25 02:40", "2026-10-25 02:40*"])
@pytest.mark.parametrize("text", ["02:30", "04:00"])
def test_a_mere_offset_or_no_zone_means_the_zone_of_the_machine(machine, now, text):
    machine("Europe/Berlin")
    known = berlin(now)
    expected = next_at([text], known).astimezone(UTC)

    for same in (known.astimezone(), known.astimezone(UTC), known.astimezone(timezone(5 * DAY / 24))):
        assert next_at([text], same).astimezone(UTC) == expected
    assert next_at([text], known.replace(tzinfo=None)).astimezone(UTC) == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo", "America/Havana"])
def test_the_zone_of_the_machine_is_the_one_of_its_name(machine, zone):
    machine(zone)
    start = datetime(2026, 1, 1, tzinfo=UTC)

    for moment in (start + timedelta(minutes=30 * step + 15) for step in range(0, 365 * 48, 5)):
        local, named = moment.astimezone(MachineZone()), moment.astimezone(ZoneInfo(zone))
        assert (local.replace(tzinfo=None), local.fold) == (named.replace(tzinfo=None), named.fold)
        assert (local.utcoffset(), local.tzname()) == (named.utcoffset(), named.tzname())
        assert local.astimezone(UTC) == moment


def test_a_machine_in_utc_has_no_changes_of_the_clock(machine):
    machine("UTC")

    assert next_at(["02:30"], datetime(2026, 3, 29, tzinfo=UTC)) == datetime(2026, 3, 29, 2, 30, tzinfo=UTC)
