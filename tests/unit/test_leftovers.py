"""Which state tells of a cluster that has left something behind."""

import os

import msgspec
import pytest

from bkd.ipc.processes import start_time
from bkd.supervisor.leftovers import LONGEST_TERM, Former, Place
from bkd.supervisor.procfs import boot_id

NOBODY = 1 << 30
ROW = {"worker": 3, "group": "web", "slot": "web.1", "tree": "ab" * 8, "pid": NOBODY, "start": 7, "of the next": [1]}


def state(**changes):
    """A state with rows that this version does not know."""
    fields = {
        "schema": 99,
        "boot": boot_id(),
        "keeper": NOBODY,
        "keeper_start": 5,
        "config": {"app": {"name": "x"}, "workers": {"web": {"term": 4.5, "kind": "new"}, "slow": {"term": 900.0}}},
        "workers": [ROW],
        "loaders": [{"group": "web", "pid": NOBODY, "start": 8, "loaded": True}],
        "cluster": {"groups": {}},
    }
    return msgspec.msgpack.encode(fields | changes)


@pytest.fixture
def place(tmp_path):
    """A run directory with this state in it."""

    def written(data, mode=0o600):
        path = tmp_path / "state"
        path.write_bytes(data)
        path.chmod(mode)
        return Place(str(tmp_path))

    return written


def test_of_a_state_of_any_version_the_processes_are_known(place):
    former = place(state()).former()
    assert [(row.slot, row.tree, row.pid, row.start) for row in former.workers] == [("web.1", "ab" * 8, NOBODY, 7)]
    assert [(row.group, row.pid) for row in former.loaders] == [("web", NOBODY)]
    assert former.term() == LONGEST_TERM


def test_there_is_a_term_without_any_group():
    assert Former().term() == 0.0


@pytest.mark.parametrize("data", [b"", b"\xc1", bytes(range(200)), state()[:80], b"\x90", state(workers="many")])
def test_a_state_that_cannot_be_read_tells_of_nobody(place, data):
    assert place(data).former() is None


def test_another_boot_left_nothing(place):
    assert place(state(boot="another")).former() is None


def test_a_keeper_that_lives_has_left_nothing(place):
    own = os.getpid()
    assert place(state(keeper=own, keeper_start=start_time(own))).former() is None
    assert place(state(keeper=own, keeper_start=start_time(own) + 1)).former() is not None


def test_a_state_that_others_can_write_is_not_believed(place):
    assert place(state(), mode=0o666).former() is None


def test_where_nothing_is_nothing_was_left(tmp_path):
    assert Place(str(tmp_path)).former() is None


def test_nobody_is_held_who_is_not_that_process(place):
    own = os.getpid()
    former = place(state(workers=[ROW | {"pid": own, "start": start_time(own) + 1, "tree": ""}])).former()
    with former.remnants() as remnants:
        assert remnants.living() == []
