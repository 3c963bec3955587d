import pytest

from bkd.ipc.quantity import counted


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 workers"), (1, "1 worker"), (2, "2 workers"), (12_000, "12,000 workers")]
)
def test_only_one_is_singular(count, text):
    assert counted(count, "worker") == text


def test_what_has_more_than_an_s():
    words = "process is", "processes are"
    assert [counted(count, *words) for count in (0, 1, 2)] == ["0 processes are", "1 process is", "2 processes are"]
