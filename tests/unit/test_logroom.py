"""Whether logs can be written: what is believed, and what is told."""

import os
from types import SimpleNamespace

import pytest

from bkd.supervisor.facts import decode
from bkd.supervisor.logroom import LogRoom, fault
from bkd.supervisor.status import disk

FULL, READ_ONLY = "No space left on device (ENOSPC)", "Read-only file system (EROFS)"


@pytest.fixture
def room():
    """One that has looked at nothing yet; `told` is what it said."""
    told = []
    room = LogRoom(SimpleNamespace(unlogged=""), SimpleNamespace(workers={}), told.append)
    room.told = told
    return room


def looks(room, *found):
    for why in found:
        room.judge("run/log/web.1.log" if why else "", why)
    return [fact.describe() for fact in room.told]


def test_it_is_told_once_and_once_that_it_is_over(room):
    cannot = f"run/log/web.1.log cannot be written: {FULL}; what processes print is lost meanwhile"

    assert looks(room, FULL, FULL, FULL) == [cannot]
    assert room.context.unlogged == FULL
    assert looks(room, "", "") == [cannot, "run/log/web.1.log can be written again"]
    assert room.context.unlogged == ""


def test_a_moment_is_not_believed(room):
    assert looks(room, FULL, "", FULL, "", READ_ONLY, FULL) == []


def test_another_reason_is_told_anew(room):
    assert [line.partition(": ")[2] for line in looks(room, FULL, FULL, READ_ONLY, READ_ONLY)] == [
        f"{why}; what processes print is lost meanwhile" for why in (FULL, READ_ONLY)
    ]


def test_files_that_can_be_written_are_no_fault_and_stay_as_they_are(tmp_path):
    log = tmp_path / "web.1.log"
    log.write_text("a line\n")

    assert fault(str(tmp_path), [str(log), str(tmp_path / "not-yet.log")], earnest=True) == ("", "")
    assert os.listdir(tmp_path) == ["web.1.log"] and log.read_text() == "a line\n"


@pytest.mark.parametrize(
    ("name", "expected"), [("folder.log", "Is a directory (EISDIR)"), ("gone/web.1.log", "No such file or directory")]
)
def test_a_fault_names_the_file_and_the_error(tmp_path, name, expected):
    (tmp_path / "folder.log").mkdir()

    path, why = fault(str(tmp_path), [str(tmp_path / name)], earnest=False)

    assert path == str(tmp_path / name)
    assert why.startswith(expected)


def test_the_status_says_what_cannot_be_written():
    assert disk("", "") == ""
    assert disk("a", "b") == "the state cannot be written: a; what processes print cannot be written: b"


def test_the_journal_knows_it():
    assert decode(b'{"fact":"log-trouble","path":"x","why":"y"}').level() == "error"
    assert decode(b'{"fact":"log-well","path":"x"}').level() == "info"
