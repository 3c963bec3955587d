"""The journal on a real disk: order, rotation, and everything that can go wrong with a file."""

import contextlib
import json
import os
import resource
import time

import pytest

from bkd.supervisor.facts import Dropped, Scaled, SlotDone
from bkd.supervisor.journal import Journal, follow, read


def scaled(number):
    return Scaled(group="web", old=number, new=number + 1)


def numbers(records):
    return [record.fact.old for record in records]


@contextlib.contextmanager
def file_size_limit(size):
    """As a full disk: the kernel writes what fits and refuses the rest."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path, limit=0, keep=3)
    yield journal
    journal.close()


def test_a_fact_is_one_line_of_json(journal, tmp_path):
    before = time.time()
    journal.write(SlotDone(slot="web.1"))
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert list(told) == ["time", "mono", "fact", "slot"]
    assert told["time"].endswith("Z")
    assert len(told["time"]) == len("2026-01-01T00:00:00.000Z")
    (record,) = read(tmp_path)
    assert record.fact == SlotDone(slot="web.1")
    assert record.kind == "slot-done"
    assert record.line == line.encode()
    assert before - 0.002 <= record.time <= time.time()
    assert abs(record.mono - time.monotonic()) < 60


def test_rotation_keeps_the_order_and_so_many_files(tmp_path):
    journal = Journal(tmp_path, limit=1000, keep=3)
    for number in range(100):
        journal.write(scaled(number))
    journal.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["events.jsonl", "events.jsonl.1", "events.jsonl.2", "events.jsonl.3"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    read_numbers = numbers(read(tmp_path))
    assert read_numbers == list(range(read_numbers[0], 100))
    assert len(read_numbers) >= 25


def test_keep_nothing(tmp_path):
    journal = Journal(tmp_path, limit=300, keep=0)
    for number in range(20):
        journal.write(scaled(number))
    journal.close()
    assert [path.name for path in tmp_path.iterdir()] == ["events.jsonl"]
    assert numbers(read(tmp_path))[-1] == 19


def test_since(journal, tmp_path):
    path = tmp_path / "events.jsonl"
    lines = [
        f'{{"time":"2026-01-0{day}T00:00:00.000Z","mono":1,"fact":"scaled","group":"web","old":{day},"new":2}}\n'
        for day in (1, 2, 3)
    ]
    path.write_text("".join(lines))
    at = {record.fact.old: record.time for record in read(tmp_path)}
    assert numbers(read(tmp_path, since=at[2])) == [2, 3]


def test_torn_lines_are_passed_over_and_counted(journal, tmp_path):
    journal.write(scaled(1))
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"time":"2026-01-01T00:00:00.000Z","mono":1,"fa')
    records = read(tmp_path)
    assert numbers(records) == [1]
    assert records.malformed == 1
    later = Journal(tmp_path, limit=0, keep=3)
    later.write(scaled(2))
    later.close()
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b"\0\0\0\n")
    records = read(tmp_path)
    assert numbers(records) == [1, 2]
    assert records.malformed == 2


def test_facts_of_another_version_are_kept_as_they_are(tmp_path):
    line = b'{"time":"2026-01-01T00:00:00.000Z","mono":1.5,"fact":"moon-landed","slot":"web.1"}'
    (tmp_path / "events.jsonl").write_bytes(line + b"\n")
    records = read(tmp_path)
    (record,) = records
    assert (record.fact, record.kind, record.line, records.malformed) == (None, "moon-landed", line, 0)
    assert "moon-landed" in record.describe()


def test_no_folder_no_records(tmp_path):
    assert list(read(tmp_path / "none")) == []


def test_removed_folder_is_made_again(tmp_path):
    folder = tmp_path / "deep" / "run"
    journal = Journal(folder, limit=0, keep=1)
    journal.write(scaled(1))
    (folder / "events.jsonl").unlink()
    folder.rmdir()
    journal.write(scaled(2))
    assert numbers(read(folder)) == [2]
    (folder / "events.jsonl").rename(folder / "moved")
    journal.write(scaled(3))
    assert numbers(read(folder)) == [3]
    assert journal.lost == 0
    journal.close()


def test_losses_are_counted_and_said_as_soon_as_possible(tmp_path):
    folder = tmp_path / "run"
    folder.write_text("in the way")
    journal = Journal(folder, limit=0, keep=1)
    journal.write(scaled(1))
    journal.write(scaled(2))
    assert journal.lost == 2
    assert str(folder) in journal.fault
    folder.unlink()
    journal.write(scaled(3))
    journal.write(scaled(4))
    assert [record.fact for record in read(folder)] == [Dropped(count=2), scaled(3), scaled(4)]
    assert (journal.lost, journal.fault) == (2, "")
    journal.close()


def test_full_disk(journal, tmp_path):
    journal.write(scaled(1))
    size = (tmp_path / "events.jsonl").stat().st_size
    with file_size_limit(size + 20):
        for number in (2, 3, 4):
            journal.write(scaled(number))
    assert journal.lost == 3
    journal.write(scaled(5))
    records = read(tmp_path)
    assert [record.fact for record in records] == [scaled(1), Dropped(count=3), scaled(5)]
    assert records.malformed == 1


def test_rotation_that_fails_loses_nothing(tmp_path):
    (tmp_path / "events.jsonl.1").mkdir()
    journal = Journal(tmp_path, limit=200, keep=1)
    for number in range(10):
        journal.write(scaled(number))
    journal.close()
    assert journal.lost == 0
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 10


def test_follow_goes_through_rotations(tmp_path):
    stop, end = os.pipe()
    journal = Journal(tmp_path, limit=400, keep=2)
    journal.write(scaled(0))
    following = follow(tmp_path, since=0.0, stop=stop)
    seen = []
    for number in range(1, 30):
        seen.append(next(following).fact.old)
        journal.write(scaled(number))
    seen.append(next(following).fact.old)
    os.close(end)
    assert list(following) == []
    assert seen == list(range(30))
    os.close(stop)
    journal.close()
