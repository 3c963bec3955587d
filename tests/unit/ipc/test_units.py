import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.ipc.units import (
    LARGEST,
    LONGEST,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("10s", 10),
        ("5m", 300),
        ("2h", 7200),
        ("0s", 0),
        ("1.5s", 1.5),
        ("1h30m", 5400),
        ("1m30.5s", 90.5),
    ],
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "0",
        "s",
        "10 s",
        " 10s",
        "10s ",
        "-1s",
        "10 parsecs",
        "1e3s",
        "1w",
        "30m1h",
        "1s1s",
        "١s",
        "9" * 30 + "s",
        "8785h",
    ],
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("64KB", 65536), ("512MB", 512 << 20), ("2GB", 2 << 30), ("1TB", 1 << 40), ("1.5KB", 1536), ("7B", 7)],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "1", "10", "1K", "1 KB", "1kb", "-1KB", "KB", "9" * 15 + "TB", "1e3KB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0, "0s", "0s"),
        (0.0004, "0s", "0s"),
        (0.25, "250ms", "250ms"),
        (1.26, "1.26s", "1.3s"),
        (11.234, "11.234s", "11s"),
        (59.9996, "1m", "1m"),
        (3725.3, "1h2m5.3s", "1h2m"),
        (7200, "2h", "2h"),
    ],
)
def test_durations_are_written(seconds, exact, rough):
    assert format_duration(seconds) == exact
    assert format_duration(seconds, rough=True) == rough


@pytest.mark.parametrize(
    ("size", "exact", "rough"),
    [
        (0, "0", "0"),
        (1, "1B", "1B"),
        (1 << 20, "1MB", "1MB"),
        (1536, "1536B", "1.5KB"),
        (31457281, "31457281B", "30MB"),
    ],
)
def test_sizes_are_written(size, exact, rough):
    assert format_size(size) == exact
    assert format_size(size, rough=True) == rough


@given(st.integers(0, int(LONGEST * 1000)))
def test_a_duration_survives_being_written(millis):
    assert round(parse_duration(format_duration(millis / 1000)) * 1000) == millis


@given(st.integers(0, 1 << 49))
def test_a_size_survives_being_written(size):
    assert parse_size(format_size(size)) == size


@given(st.floats(0, LONGEST), st.integers(0, LARGEST))
def test_rough_forms_are_readable_too(seconds, size):
    assert parse_duration(format_duration(seconds, rough=True)) == pytest.approx(seconds, rel=0.06, abs=0.06)
    assert format_size(size, rough=True)


@given(st.text(max_size=12))
def test_any_text_is_a_value_or_a_value_error(text):
    for parse in (parse_duration, parse_size):
        try:
            assert parse(text) >= 0
        except ValueError:
            continue
