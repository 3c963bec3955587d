"""Reports on a real disk: what is kept, what replaces what, and what happens when the disk does not take it."""

import os

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bkd.ipc.stacks import Frame, OpenWork, Stacks, TaskStack, ThreadStack
from bkd.supervisor.forensics.casebook import (
    KEPT,
    KEPT_PLANNED,
    LARGEST_FILE,
    LARGEST_REPORT,
    MOST_WAITING,
    Casebook,
    trimmed,
    within,
)
from bkd.supervisor.forensics.evidence import Evidence, KernelThread, LateSample, Report, Sample

encode = msgspec.json.encode


def report(pid, slot="web.1", *, cause="crash", at=None, ended=True, **more):
    return Report(slot, pid, 100 + pid, 1, 1000.0 + pid if at is None else at, ended, cause=cause, **more)


def pids(reports):
    return [one.pid for one in reports]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "why"


@pytest.fixture
def book(folder):
    return Casebook(folder)


def test_reports_are_read_newest_first_by_whoever_comes_later(book, folder):
    for pid in (1, 2, 3):
        book.write(report(pid))
    assert pids(book.read("web.1")) == [3, 2, 1]
    assert Casebook(folder).read("web.1") == book.read("web.1")
    assert (book.fault, book.lost, book.malformed, book.unwritten) == ("", 0, 0, 0)


def test_it_is_for_nobody_else(book, folder):
    book.write(report(1))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "web.1.jsonl").stat().st_mode & 0o777 == 0o600
    assert os.listdir(folder) == ["web.1.jsonl"]


def test_so_many_are_kept_and_planned_ends_do_not_drive_out_others(book, folder):
    for pid in range(20):
        book.write(report(pid))
    for pid in range(20, 60):
        book.write(report(pid, cause="planned" if pid % 2 else "finished"))
    lines = (folder / "web.1.jsonl").read_bytes().splitlines()
    assert len(lines) == KEPT + KEPT_PLANNED
    assert [msgspec.json.decode(line)["pid"] for line in lines] == [*range(10, 20), *range(55, 60)]
    assert pids(book.read("web.1")) == [59, 58, 57, 56, 55, 19, 18, 17, 16, 15]


def test_what_waits_in_memory_is_short_as_well(book, folder):
    folder.write_text("in the way")
    book.write(report(1, lines=["x" * 1000] * 1000))
    (only,) = book.read("web.1")
    assert book.unwritten == 1
    assert len(encode(only)) <= LARGEST_REPORT


def test_a_draft_that_cannot_be_removed_is_not_written_to(book, folder, tmp_path, monkeypatch):
    folder.mkdir()
    precious = tmp_path / "precious"
    precious.write_text("precious")
    os.link(precious, folder / "web.1.new")
    monkeypatch.setattr(type(folder), "unlink", lambda *_path, missing_ok=False: None)
    book.write(report(1))
    assert (precious.read_text(), book.unwritten) == ("precious", 1)


def test_the_end_replaces_what_was_written_before_it(book):
    evidence = Evidence(1.0, state="S")
    book.write(report(1, ended=False, cause="hung", evidence=evidence, age=30.0))
    book.write(report(2))
    book.write(report(1, cause="hung", signal=15, evidence=evidence))
    newest, before = book.read("web.1")
    assert (newest.pid, newest.ended, newest.signal) == (1, True, 15)
    assert before.pid == 2


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)], ids=["before its end", "after its end"])
def test_lines_that_a_slow_disk_gives_late_are_not_lost(book, order):
    """The end knows the evidence as it was written first."""
    bare, full = (Evidence(1.0, culprit=Frame("shop.py", 3, "price", text)) for text in ("", "lock.acquire()"))
    writes = [
        report(1, cause="hung", ended=False, evidence=bare, culprit=bare.culprit),
        report(1, cause="hung", ended=False, evidence=full, culprit=full.culprit),
        report(1, cause="hung", evidence=bare, culprit=bare.culprit),
    ]
    for number in order:
        book.write(writes[number])
    (only,) = book.read("web.1")
    assert (only.ended, only.evidence, only.culprit) == (True, full, full.culprit)


def test_what_the_end_speaks_for_is_blamed(book):
    """A traceback says more than where it was a while before."""
    book.write(report(1, ended=False, culprit=Frame("shop.py", 3, "price", "lock.acquire()")))
    book.write(report(1, culprit=Frame("shop.py", 9, "vat", "")))
    assert book.read("web.1")[0].culprit.line == 9


def test_evidence_that_comes_late_goes_into_the_report_of_the_end(book):
    evidence = Evidence(1.0, state="S")
    book.write(report(1, cause="hung", signal=9))
    book.write(report(1, cause="hung", ended=False, evidence=evidence, age=30.0))
    (only,) = book.read("web.1")
    assert (only.ended, only.signal, only.evidence, only.age) == (True, 9, evidence, 30.0)


def test_another_process_of_the_same_pid_is_another_report(book):
    book.write(report(1))
    book.write(msgspec.structs.replace(report(1), start=5))
    assert [one.start for one in book.read("web.1")] == [5, 101]


def test_a_group_is_all_of_its_slots_in_order_of_time(book):
    book.write(report(1, "web.1", at=10.0))
    book.write(report(2, "web.10", at=30.0))
    book.write(report(3, "web.zygote", at=20.0))
    book.write(report(4, "website.1", at=40.0))
    assert pids(book.read("web")) == [2, 3, 1]
    assert pids(book.read("web.zygote")) == [3]
    assert book.read("jobs") == []
    assert book.read("jobs.1") == []


def test_torn_and_unknown_lines_are_passed_over_and_counted(book, folder):
    book.write(report(1))
    book.write(report(2))
    path = folder / "web.1.jsonl"
    whole = path.read_bytes()
    strange = encode(report(9, "jobs.1"))
    later = encode({**msgspec.to_builtins(report(3)), "a_field_of_later": 1})
    path.write_bytes(whole + b'{"slot":1}\nnonsense\n\xff\xfe\n\n' + strange + b"\n" + later + b"\n" + whole[:40])
    assert pids(book.read("web.1")) == [3, 2, 1]
    assert book.malformed == 5
    book.write(report(4))
    assert pids(Casebook(folder).read("web.1")) == [4, 3, 2, 1]


@pytest.mark.parametrize("name", ["../web.1", "web.1/../x", "/etc/passwd", "web..1", "Web.1", "web.x", "", "web.1\n"])
def test_names_that_are_none_are_refused(book, name, folder):
    with pytest.raises(ValueError, match="no name"):
        book.read(name)
    with pytest.raises(ValueError, match="no name"):
        book.write(report(1, name))
    assert not folder.exists()


def test_a_link_is_not_followed(book, folder, tmp_path):
    folder.mkdir()
    (tmp_path / "secret").write_bytes(encode(report(1)) + b"\n")
    (folder / "web.1.jsonl").symlink_to(tmp_path / "secret")
    assert book.read("web.1") == []
    assert "web.1.jsonl" in book.fault


def test_what_the_disk_does_not_take_is_told_all_the_same_and_written_later(book, folder):
    folder.write_text("a file where a folder should be")
    book.write(report(1, ended=False))
    book.write(report(2))
    book.write(report(1))
    book.write(report(3, "web.2"))
    assert book.fault
    assert (book.unwritten, book.lost) == (3, 0)
    assert pids(book.read("web.1")) == [1, 2]
    assert pids(book.read("web")) == [3, 2, 1]
    book.retry()
    assert book.unwritten == 3
    folder.unlink()
    book.retry()
    assert (book.unwritten, book.fault) == (0, "")
    assert pids(Casebook(folder).read("web.1")) == [1, 2]
    assert pids(Casebook(folder).read("web.2")) == [3]


def test_a_full_disk_leaves_the_old_file_whole(book, folder):
    resource = pytest.importorskip("resource")
    book.write(report(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        book.write(report(2, reason="x" * 4000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert book.unwritten == 1
    assert os.listdir(folder) == ["web.1.jsonl"]
    assert pids(Casebook(folder).read("web.1")) == [1]
    assert pids(book.read("web.1")) == [2, 1]
    book.write(report(3))
    assert book.unwritten == 0
    assert pids(Casebook(folder).read("web.1")) == [3, 2, 1]


def test_memory_has_room_for_so_many(book, folder):
    folder.write_text("")
    for pid in range(MOST_WAITING + 7):
        book.write(report(pid))
    assert (book.unwritten, book.lost) == (MOST_WAITING, 7)
    assert pids(book.read("web.1"))[0] == MOST_WAITING + 6


def test_a_file_has_at_most_its_size_and_planned_ends_go_first():
    large = {"trace": "x" * 90_000}
    reports = [report(pid, **large, cause="planned" if pid % 2 else "crash") for pid in range(14)]
    kept = within(reports)
    assert sum(len(encode(one)) + 1 for one in kept) <= LARGEST_FILE
    assert pids(kept) == [0, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13]
    assert pids(within(kept)) == pids(kept)


words = st.text(max_size=4000) | st.characters(categories=["Cs"]) | st.just("\0" * 50_000) | st.just("é" * 20_000)
short = st.text(max_size=20)
frames = st.lists(st.builds(Frame, words, st.integers(0, 10**6), words, words), max_size=4) | st.just(
    [Frame("/srv/shop/app.py", 3, "f" * 200, "x" * 200)] * 200
)
stacks = st.builds(
    Stacks,
    threads=st.lists(st.builds(ThreadStack, short, frames, st.booleans()), max_size=3)
    | st.just([ThreadStack("T", [Frame("a.py", 1, "f", "y" * 100)] * 50)] * 60),
    tasks=st.lists(st.builds(TaskStack, short, frames, words), max_size=3),
    work=st.lists(st.builds(OpenWork, words, st.floats(0, 1e6)), max_size=3),
)
numbers = st.integers(0, 2**60)
spans = st.floats(0, 1e9)
evidences = st.builds(
    Evidence,
    at=spans,
    kernel=st.lists(st.builds(KernelThread, numbers, short, st.just("S"), words, words), max_size=3),
    stacks=st.none() | stacks,
    silence=words,
    culprit=st.none() | st.builds(Frame, words, st.just(3), words, words),
    trend=st.just([Sample(float(age), 1 << 40) for age in range(300, 0, -1)]),
    late=st.none() | st.builds(LateSample, spans, spans, frames),
    lines=st.lists(words, max_size=3) | st.just(["z" * 60_000] * 40),
)
reports = st.builds(
    Report,
    slot=st.just("web.1"),
    pid=numbers,
    start=numbers,
    release=numbers,
    at=spans,
    reason=words,
    cwd=words,
    hints=st.lists(words, max_size=5),
    trace=words | st.just("Traceback\n" + "line\n" * 100_000),
    lines=st.lists(words, max_size=5),
    evidence=st.none() | evidences,
)


@settings(max_examples=30, deadline=None)
@given(reports)
def test_a_trimmed_report_has_its_size_and_is_still_about_the_same_process(one):
    small = trimmed(one)
    line = encode(small)
    assert len(line) <= LARGEST_REPORT
    assert b"\n" not in line
    assert small.key == one.key
    assert msgspec.json.decode(line, type=Report) == small


def test_what_fits_is_left_as_it_is():
    one = report(1, trace="Traceback\n  x", lines=["a", "b"], evidence=Evidence(1.0, trend=[Sample(1.0)]))
    assert trimmed(one) == one


def test_what_is_shortened_loses_its_least_useful_end_and_says_so():
    inner, outer = Frame("in.py", 1, "inner"), Frame("out.py", 9, "outer")
    main = ThreadStack("MainThread", [inner, *[Frame("mid.py", 2, "m" * 3000)] * 50, outer], main=True)
    other = ThreadStack("T", [inner])
    trend = [Sample(60.0), *[Sample(float(age)) for age in range(59, 0, -1)], Sample(0.5)]
    evidence = Evidence(1.0, stacks=Stacks([*[other] * 63, main], tasks_left_out=2), trend=trend)
    one = report(1, lines=[f"{number} {'x' * 5000}" for number in range(60)], evidence=evidence)
    small = trimmed(one, 20_000)
    seen = small.evidence.stacks
    assert seen.threads[0].main
    assert seen.threads[0].frames[0] == inner
    assert "outer calls were left out" in seen.threads[0].frames[-1].file
    assert seen.threads_left_out + len(seen.threads) == 64
    assert seen.tasks_left_out == 2
    assert "lines before were left out" in small.lines[0]
    assert small.lines[-1].startswith("59 ")
    assert (small.evidence.trend[0].age, small.evidence.trend[-1].age) == (60.0, 0.5)


def test_of_a_traceback_the_end_stays_and_of_stacks_of_a_fatal_signal_the_begin():
    python = trimmed(report(1, trace="Traceback (most recent call last):\n" + "x\n" * 99_999 + "ValueError: no"))
    assert python.trace.endswith("ValueError: no")
    assert "characters were left out" in python.trace.splitlines()[0]
    fatal = trimmed(report(1, trace="Fatal\n\nCurrent thread 0x1 (most recent call first):\n" + "x\n" * 99_999))
    assert fatal.trace.startswith("Fatal")
    assert "characters were left out" in fatal.trace.splitlines()[-1]
