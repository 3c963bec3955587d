"""What masters leave to the next one: the keeper's memory in two halves, the file, and which of them is used."""

import os

import pytest
from msgspec.structs import replace

from bkd.supervisor.config.schema import (
    AppSection,
    BusSection,
    Config,
    ControlSection,
    GroupSection,
    LogSection,
    PingSection,
    StoreSection,
)
from bkd.supervisor.facts import DiskTrouble, DiskWell
from bkd.supervisor.founding import founded
from bkd.supervisor.memory import Memory, State, slate_of, stamp
from bkd.supervisor.slate import HALF, Slate

KEEPER = 77, 1234
SECTIONS = ControlSection, PingSection, LogSection, BusSection, StoreSection


@pytest.fixture
def kept():
    """The keeper's memory, empty."""
    descriptor = os.memfd_create("test")
    yield descriptor
    os.close(descriptor)


def state(epoch, keeper=KEEPER, **other):
    """A state that a master of this epoch wrote."""
    schema, boot, pid, start = stamp(*keeper)
    first = other.get("schema", schema), other.get("boot", boot), pid, start
    config = Config("", "/", AppSection("shop"), *(section() for section in SECTIONS), {})
    return State(*first, epoch, 1.0, 2.0, True, config, founded({}, PingSection()), [], [])


# -- the slate


def test_nothing_is_found_in_an_empty_one(kept):
    assert list(Slate(kept).contents()) == []


def test_the_newest_comes_first_and_the_one_before_it_is_there_as_well(kept):
    slate = Slate(kept)
    for text in (b"one", b"two" * 1000, b"three"):
        assert slate.write(text)
    assert list(Slate(kept).contents()) == [b"three", b"two" * 1000]
    assert Slate(kept).write(b"four")
    assert list(Slate(kept).contents()) == [b"four", b"three"]


@pytest.mark.parametrize("place", [0, 9, 20, 30, 40, 60])
def test_what_was_half_written_is_not_found(kept, place):
    slate = Slate(kept)
    slate.write(b"before" * 10)
    slate.write(b"broken" * 10)
    os.pwrite(kept, b"\xff", place)
    assert list(Slate(kept).contents()) == [b"before" * 10]


def test_without_one_nothing_is_kept():
    assert not Slate().write(b"text")
    assert list(Slate().contents()) == []


def test_what_is_too_large_for_a_half_is_refused(kept, monkeypatch):
    monkeypatch.setattr("bkd.supervisor.slate.HALF", 4096)
    assert not Slate(kept).write(bytes(4096))
    assert HALF > 1 << 20


def test_it_is_found_behind_the_listeners():
    born = {"listeners": ["control", "web"], "kept": ["state"]}
    assert slate_of(born, [7, 8, 9]) == 9
    assert slate_of({"listeners": ["control"]}, [7]) == -1


# -- the memory


def test_the_keeper_s_memory_is_asked_first(tmp_path, kept):
    memory = Memory(str(tmp_path), kept)
    memory.keep(state(3))
    Memory(str(tmp_path)).keep(state(2))
    assert Memory(str(tmp_path), kept).recall(*KEEPER).epoch == 3
    assert Memory(str(tmp_path)).recall(*KEEPER).epoch == 2


SPOILED = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "nonsense": lambda data: b"\xc1\xff nonsense",
    "another kind": lambda data: b"\x93\x01\x02\x03",
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_file_is_not_used(tmp_path, how):
    memory = Memory(str(tmp_path))
    memory.keep(state(3))
    memory.path.write_bytes(SPOILED[how](memory.path.read_bytes()))
    assert memory.recall(*KEEPER) is None


@pytest.mark.parametrize("other", [{"boot": "another"}, {"schema": 99}, {"keeper": (78, 1234)}, {"keeper": (77, 99)}])
def test_what_is_not_of_this_cluster_is_not_used(tmp_path, kept, other):
    """Another boot, another version of bkd, another keeper, another process with the keeper's pid."""
    memory = Memory(str(tmp_path), kept)
    memory.keep(state(3, **other))
    assert memory.recall(*KEEPER) is None


def test_the_half_before_is_used_when_the_newest_is_of_another_version(tmp_path, kept):
    memory = Memory(str(tmp_path), kept)
    memory.keep(state(3))
    memory.keep(state(4, schema=99))
    assert memory.recall(*KEEPER).epoch == 3


def test_trouble_with_the_disk_is_told_once_and_costs_nothing(tmp_path, kept):
    folder = tmp_path / "run"
    memory, told = Memory(str(folder), kept), []
    memory.tell = told.append
    for epoch in (1, 2):
        memory.keep(state(epoch))
    assert [type(fact) for fact in told] == [DiskTrouble]
    assert told[0].safe
    assert (memory.forgets, bool(memory.fault)) == ("", True)
    folder.mkdir()
    for epoch in (3, 4):
        memory.keep(state(epoch))
    assert [type(fact) for fact in told] == [DiskTrouble, DiskWell]
    assert memory.fault == ""


def test_without_disk_and_keeper_it_is_said_that_the_next_master_would_forget(tmp_path):
    memory, told = Memory(str(tmp_path / "run")), []
    memory.tell = told.append
    memory.keep(state(1))
    assert memory.forgets
    assert "would forget" in told[0].describe()


def test_a_delay_is_found_as_it_was(tmp_path, kept):
    """With all that decides over the one after it."""
    cluster = founded({"web": GroupSection("web", "web")}, PingSection())
    group = cluster.groups["web"]
    slot = replace(group.slots["web.1"], score=4.5, scored_at=90.25, next_try=103.125, charged=(80.5, 90.25))
    cluster = replace(cluster, groups={"web": replace(group, slots={"web.1": slot})})
    Memory(str(tmp_path), kept).keep(replace(state(3), cluster=cluster))
    found = Memory(str(tmp_path / "elsewhere"), kept).recall(*KEEPER)
    assert found.cluster.groups["web"].slots["web.1"] == slot
