"""What a host knows of the bus over the death of its master."""

import functools
import os

import msgspec
import pytest

from bkd.supervisor.bus.judge import Ledger
from bkd.supervisor.bus.orders import Ack
from bkd.supervisor.fleet.record import MOST, Record, Records, Taken


def a_command(number=0, *, state="accepted", **more):
    return Taken(f"{number:024x}", "scale", {"web": "+1"}, "ann@h0", "h0", False, 7.0, state, **more)


def test_what_is_saved_is_loaded(tmp_path):
    record = Record(cursor="5-1", ledger=Ledger({"a": 1.0}, 2.0, 3.0, 4.0))
    record.take(a_command(1, fence=2, resume={"restart": "x"}, unsaid=Ack("h1", 3, "done", out="yes")))
    Records(str(tmp_path)).save(record)
    assert Records(str(tmp_path)).load() == record


def test_nothing_is_nothing(tmp_path):
    assert Records(str(tmp_path)).load() == Record()


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\xff" * 100, b"\x81\xa6cursor\xa1\xff", b"\x91" * 5000, msgspec.msgpack.encode({"schema": 2})],
)
def test_a_file_that_cannot_be_used_is_as_none(tmp_path, content):
    (tmp_path / "bus").write_bytes(content)
    (tmp_path / "bus").chmod(0o600)
    assert Records(str(tmp_path)).load() == Record()


def test_a_file_nested_too_deeply_ends_no_master(tmp_path):
    deep = b"\x81\xa5taken\x81\xa1a\x87" + b"\xa2id\xa1a" + b"\xa9arguments\x81\xa1a" + b"\x91" * 3000
    (tmp_path / "bus").write_bytes(deep)
    (tmp_path / "bus").chmod(0o600)
    assert Records(str(tmp_path)).load() == Record()


def test_a_file_that_others_may_read_is_not_used(tmp_path):
    Records(str(tmp_path)).save(Record(cursor="5-1"))
    (tmp_path / "bus").chmod(0o644)
    assert Records(str(tmp_path)).load() == Record()


def test_the_file_is_this_users_alone(tmp_path):
    before = os.umask(0)
    try:
        Records(str(tmp_path)).save(Record())
    finally:
        os.umask(before)
    assert (tmp_path / "bus").stat().st_mode & 0o777 == 0o600


def test_a_disk_that_does_not_take_it_is_a_fault_until_it_does(tmp_path):
    records = Records(str(tmp_path / "gone"))
    records.save(Record())
    assert "No such file" in records.fault
    (tmp_path / "gone").mkdir()
    records.save(Record())
    assert records.fault == ""


def test_arguments_that_cannot_be_written_are_a_fault_and_leave_the_file_as_it_was(tmp_path):
    records, record = Records(str(tmp_path)), Record(cursor="5-1")
    records.save(record)
    deep = a_command(1)
    deep.arguments = {"web": functools.reduce(lambda inner, _: [inner], range(50_000), 1)}
    record.take(deep)
    records.save(record)
    assert "recursion" in records.fault
    assert records.load() == Record(cursor="5-1")
    deep.forget()
    records.save(record)
    assert (records.fault, records.load()) == ("", record)


def test_the_oldest_that_are_over_make_room():
    record = Record()
    record.take(a_command(0))
    for number in range(1, MOST + 3):
        record.take(a_command(number, state="done"))
    assert len(record.taken) == MOST
    assert f"{0:024x}" in record.taken, "what is not over is never forgotten"
    assert f"{1:024x}" not in record.taken
    assert f"{MOST + 2:024x}" in record.taken


def test_what_is_not_over_is_kept_however_much_it_is():
    record = Record()
    for number in range(MOST + 5):
        record.take(a_command(number, state="running"))
    assert len(record.taken) == MOST + 5


@pytest.mark.parametrize(
    ("state", "over"),
    [("accepted", False), ("running", False), ("done", True), ("failed", True), ("refused", True), ("skipped", True)],
)
def test_when_a_command_is_over(state, over):
    assert a_command(state=state).is_over is over


def test_what_a_command_was_about_can_be_forgotten():
    taken = a_command(state="done", resume={"restart": "x"})
    taken.forget()
    assert (taken.arguments, taken.resume, taken.verb) == ({}, {}, "scale")
