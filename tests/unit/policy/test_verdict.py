import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor.cluster import Observation, Verdict
from bkd.supervisor.verdict import verdict

FIRST = Observation(100.0, "S", 5.0, 2.0)


@pytest.mark.parametrize(
    ("state", "cpu", "waited", "expected"),
    [
        ("S", 0.0, 0.0, Verdict.STUCK),
        ("S", 0.9, 0.0, Verdict.STUCK),
        ("S", 1.1, 0.0, Verdict.BUSY),
        ("R", 9.9, 0.0, Verdict.BUSY),
        ("R", 0.0, 0.0, Verdict.STUCK),
        ("R", 4.0, 5.1, Verdict.STARVED),
        ("R", 4.9, 4.9, Verdict.BUSY),
        ("T", 0.0, 0.0, Verdict.STOPPED),
        ("t", 9.0, 9.0, Verdict.STOPPED),
        ("D", 0.0, 0.0, Verdict.UNINTERRUPTIBLE),
        ("D", 9.0, 9.0, Verdict.UNINTERRUPTIBLE),
        ("Z", 0.0, 0.0, Verdict.STUCK),
    ],
)
def test_ten_seconds_between_two_looks(state, cpu, waited, expected):
    last = Observation(110.0, state, FIRST.cpu + cpu, FIRST.waited + waited)
    assert verdict(FIRST, last) == expected


@given(st.sampled_from("RSDTtZXIW"), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_every_pair_of_looks_has_a_verdict(state, seconds, cpu, waited):
    found = verdict(FIRST, Observation(100.0 + seconds, state, 5.0 + cpu, 2.0 + waited))
    assert found in {
        Verdict.STOPPED,
        Verdict.UNINTERRUPTIBLE,
        Verdict.STARVED,
        Verdict.BUSY,
        Verdict.STUCK,
    }


def test_one_look_alone_is_enough_for_a_verdict():
    assert verdict(FIRST, FIRST) == Verdict.STUCK
