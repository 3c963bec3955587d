"""Output files: cutting them, reading on through the cut, and showing whatever bytes they hold."""

import fcntl
import os
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bkd.supervisor.logfiles import Follower, Stream, follow, log_names, moment, tail
from bkd.supervisor.rotation import PIECE, name_of, numbered, rotate

MEMORY = Path("/dev/shm")  # a file system that cannot remove a range


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    """On disk a head can be collapsed, in memory the file is copied and emptied."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.access(MEMORY, os.W_OK):
        pytest.skip("no /dev/shm here")
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


class Writer:
    """A worker's output: numbered lines, appended."""

    def __init__(self, path):
        self.path, self.count = path, 0
        self.descriptors = [self._opened()]

    def _opened(self):
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, lines, width=40):
        data = b"".join(b"%0*d\n" % (width, number) for number in range(self.count, self.count + lines))
        self.count += lines
        os.write(self.descriptors[-1], data)

    def reopen(self):
        self.descriptors.append(self._opened())

    def raw(self, data):
        os.write(self.descriptors[-1], data)

    def close(self):
        for descriptor in self.descriptors:
            os.close(descriptor)


@pytest.fixture
def writer(folder):
    with closing(Writer(folder / "web.1.log")) as writer:
        yield writer


@pytest.fixture
def stream(folder):
    with closing(Stream(str(folder / "web.1.log"))) as stream:
        yield stream


def drained(stream):
    lines = stream.read(1 << 16)
    while stream.pending():
        lines += stream.read(1 << 16)
    return lines


def numbers(lines):
    return [int(line) for line in lines]


def content(folder):
    newest, *older = sorted(folder.iterdir(), key=lambda path: len(path.name) > 9 and int(path.suffix[1:]))
    return b"".join(path.read_bytes() for path in reversed([newest, *older]))


def cut(path, *, limit=4096, keep=50):
    while rotate(path, limit=limit, keep=keep):
        pass


def test_small_files_and_no_limit(folder, writer):
    writer.write(10)
    assert not rotate(writer.path, limit=10_000, keep=3)
    assert not rotate(writer.path, limit=0, keep=3)
    assert not rotate(folder / "none.log", limit=1, keep=3)
    assert [path.name for path in folder.iterdir()] == ["web.1.log"]


def test_a_cut_keeps_every_byte_and_the_inode(folder, writer):
    inode = writer.path.stat().st_ino
    for _ in range(5):
        writer.write(500)
        cut(writer.path)
    assert writer.path.stat().st_ino == inode
    assert writer.path.stat().st_size < 4096
    assert numbers(content(folder).splitlines()) == list(range(2500))
    assert not list(folder.glob("*.part"))


def test_a_cut_is_done_in_pieces(folder, writer):
    writer.write(70_000, width=99)
    assert rotate(writer.path, limit=6 << 20, keep=3)
    assert (folder / "web.1.log.part").stat().st_size == PIECE
    assert not rotate(writer.path, limit=6 << 20, keep=3)
    assert numbers(content(folder).splitlines()) == list(range(70_000))


def test_an_interrupted_copy_is_taken_up_and_a_stale_one_thrown_away(folder, writer):
    writer.write(1000)
    (folder / "web.1.log.part").write_bytes(writer.path.read_bytes()[:5000])
    cut(writer.path)
    writer.write(200)
    (folder / "web.1.log.part").write_bytes(b"x" * 100_000)
    cut(writer.path)
    assert numbers(content(folder).splitlines()) == list(range(1200))


def test_no_more_files_than_wanted(folder, writer):
    for keep, names in [(3, ["log", "1", "2", "3"]), (1, ["log", "1"]), (0, ["log"])]:
        for _ in range(5):
            writer.write(500)
            cut(writer.path, keep=keep)
        assert sorted(path.name.rpartition(".")[2] for path in folder.iterdir()) == sorted(names)


def test_renamed_for_those_who_can_reopen(folder, writer):
    for _ in range(4):
        writer.write(500)
        assert not rotate(writer.path, limit=4096, keep=2, reopen=writer.reopen)
        assert writer.path.stat().st_size == 0
    assert sorted(path.name for path in folder.iterdir()) == ["web.1.log", "web.1.log.1", "web.1.log.2"]
    assert numbers(content(folder).splitlines()) == list(range(1000, 2000))


def test_who_did_not_reopen_is_asked_again(writer):
    asked = []
    writer.write(500)
    for _ in range(3):
        rotate(writer.path, limit=4096, keep=2, reopen=lambda: asked.append(1))
    assert len(asked) == 3
    writer.reopen()
    rotate(writer.path, limit=4096, keep=2, reopen=lambda: asked.append(1))
    assert len(asked) == 3


def test_a_reader_at_work_is_waited_for_but_not_for_ever(folder, writer):
    writer.write(120)
    with writer.path.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert rotate(writer.path, limit=4096, keep=2)
        assert not numbered(writer.path, 1).exists()
        writer.write(120)
        rotate(writer.path, limit=4096, keep=2)
        assert numbered(writer.path, 1).exists()
    assert numbers(content(folder).splitlines()) == list(range(240))


def test_a_link_is_not_followed(folder):
    target = folder / "precious"
    target.write_bytes(b"x" * 10_000)
    (folder / "web.1.log").symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        rotate(folder / "web.1.log", limit=4096, keep=2)
    assert target.stat().st_size == 10_000
    assert log_names(folder) == []


def test_a_stream_goes_through_every_kind_of_cut(writer, stream):
    lines = []
    for turn in range(12):
        writer.write(300)
        if turn % 2:
            lines += stream.read(3000)
        if turn % 3 == 0:
            rotate(writer.path, limit=4096, keep=50, reopen=writer.reopen)
        else:
            cut(writer.path)
    assert numbers(lines + drained(stream)) == list(range(3600))


def test_lines_written_to_the_old_file_after_the_rename(writer, stream):
    writer.write(200)
    assert len(drained(stream)) == 200
    rotate(writer.path, limit=4096, keep=3, reopen=lambda: None)
    writer.write(5)
    assert numbers(drained(stream)) == list(range(200, 205))
    writer.reopen()
    writer.write(5)
    os.write(writer.descriptors[0], b"late\n")
    assert sorted(drained(stream))[-1] == b"late"
    os.write(writer.descriptors[0], b"later\n")
    writer.write(1)
    assert sorted(drained(stream)) == [b"%040d" % 210, b"later"]


def test_skip_after_a_cut_it_has_not_seen(writer, stream):
    writer.write(300)
    assert len(drained(stream)) == 300
    writer.write(300)
    cut(writer.path)
    writer.write(1000)
    assert stream.skip(20_000, 5000) > 20_000
    lines = numbers(drained(stream))
    assert lines == list(range(lines[0], 1600))
    assert 100 < len(lines) <= 5000 / 41


def test_emptied_by_somebody_else(writer, stream):
    writer.write(100)
    drained(stream)
    os.truncate(writer.path, 0)
    writer.write(1)
    assert numbers(drained(stream)) == [100]


def test_deleted_and_made_again(writer, stream):
    writer.write(10)
    drained(stream)
    writer.path.unlink()
    assert drained(stream) == []
    assert stream.left() == 0
    writer.reopen()
    writer.write(5)
    assert numbers(drained(stream)) == list(range(10, 15))


def test_a_line_waits_for_its_end_but_not_for_ever(writer, stream):
    writer.raw(b"one\ntwo")
    assert stream.read(1000) == [b"one"]
    assert stream.overdue() < float("inf")
    writer.raw(b" and more\n")
    assert stream.read(1000) == [b"two and more"]
    assert stream.overdue() == float("inf")
    writer.raw(b"three")
    assert stream.read(1000) == []
    assert [stream.unfinished(), stream.unfinished()] == [b"three", b""]
    writer.raw(b"x" * 200_000)
    assert [len(line) for line in drained(stream)] == [65536, 65536, 65536]
    assert len(stream.unfinished()) == 200_000 - 3 * 65536


def test_skip_ends_at_the_begin_of_a_line(writer, stream):
    writer.write(50_000)
    stream.read(1000)
    assert stream.skip(4_000_000, 10_000) == 0
    skipped = stream.skip(1_000_000, 10_000)
    lines = numbers(drained(stream))
    assert lines == list(range(lines[0], 50_000))
    assert 200 < len(lines) <= 10_000 / 41
    assert skipped > 2_000_000


@settings(max_examples=40, deadline=None)
@given(
    memory=st.booleans(),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(1, 300)),
            st.tuples(st.just("tear"), st.integers(1, 30)),
            st.tuples(st.just("read"), st.integers(1, 20_000)),
            st.tuples(st.just("cut"), st.integers(0, 2)),
            st.tuples(st.just("rename"), st.just(0)),
        ),
        max_size=40,
    ),
)
def test_no_line_is_lost_or_doubled_whatever_happens(memory, steps):
    base = MEMORY if memory and os.access(MEMORY, os.W_OK) else None
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=base))) / "web.1.log"
        writer = stack.enter_context(closing(Writer(path)))
        stream = stack.enter_context(closing(Stream(str(path))))
        lines, torn = [], b""
        for step, amount in steps:
            if step == "write":
                writer.raw(torn and b"\n")
                torn = b""
                writer.write(amount)
            elif step == "tear":
                writer.raw(b"," * amount)
                torn = b","
            elif step == "read":
                lines += stream.read(amount)
            elif step == "cut":
                for _ in range(amount):
                    rotate(path, limit=4096, keep=100)
            else:
                rotate(path, limit=4096, keep=100, reopen=writer.reopen)
        writer.raw(torn and b"\n")
        lines += drained(stream)
        assert numbers(line for line in lines if b"," not in line) == list(range(writer.count))
        joined = b"\n".join([*lines, b""])
        with closing(Stream(str(path))) as again:
            assert joined == b"\n".join([*drained(again), b""])


def test_names_and_groups(tmp_path):
    assert [name_of(file) for file in ("web.1.log", "web.1.log.2", "cache.log")] == ["web.1", "web.1", "cache"]
    assert [name_of(file) for file in ("web.1.log.part", "web.1", "events.jsonl.1", "log")] == [None] * 4
    for file in ("web.1.log", "web.2.log", "web.10.log.3", "website.1.log", "notes.txt"):
        (tmp_path / file).touch()
    (tmp_path / "folder.log").mkdir()
    assert log_names(tmp_path) == ["web.1", "web.10", "web.2", "website.1"]
    assert log_names(tmp_path, ["web"]) == ["web.1", "web.10", "web.2"]
    assert log_names(tmp_path, ["web.1", "website"]) == ["web.1", "website.1"]
    assert log_names(tmp_path / "none") == []


def test_tail_reaches_into_rotated_files(folder, writer):
    for _ in range(6):
        writer.write(150)
        cut(writer.path)
    for count in (0, 1, 10, 300, 899, 900, 5000):
        lines = [line for _, line in tail(folder, lines=count)]
        assert numbers(lines) == list(range(max(0, 900 - count), 900))


def test_tail_goes_on_through_a_cut(folder, writer):
    writer.write(6000)
    lines = tail(folder, lines=6000)
    first = next(lines)
    cut(writer.path)
    assert numbers(line for _, line in [first, *lines]) == list(range(6000))


def test_tail_shows_the_file_written_last_at_the_end(tmp_path):
    for at, file in enumerate(["b.1.log", "a.1.log", "c.1.log"]):
        (tmp_path / file).write_bytes(b"1\n2\n3")
        os.utime(tmp_path / file, (1000 + at, 1000 + at))
    assert list(tail(tmp_path, ["a", "b.1"], 2)) == [("b.1", "2"), ("b.1", "3"), ("a.1", "2"), ("a.1", "3")]


def test_what_cannot_be_read_says_so_once(tmp_path):
    (tmp_path / "web.1.log").write_bytes(b"x\n")
    with closing(Follower(tmp_path, lines=5)) as follower:
        (tmp_path / "web.1.log").unlink()
        (tmp_path / "web.1.log").symlink_to(tmp_path / "elsewhere")
        lines = follower.turn() + follower.turn()
    assert [name for name, _ in lines] == ["web.1"]
    assert b"cannot read" in lines[0][1]


def test_a_follower_begins_at_a_moment(folder, writer):
    writer.write(10)
    since = moment(folder)
    writer.write(200)
    (folder / "jobs.1.log").write_bytes(b"7\n")
    rotate(writer.path, limit=4096, keep=3, reopen=writer.reopen)
    writer.write(5)
    with closing(Follower(folder, since=since)) as follower:
        lines = follower.turn()
    assert numbers(line for name, line in lines if name == "web.1") == list(range(10, 215))
    assert [line for name, line in lines if name == "jobs.1"] == [b"7"]


def test_follow_finds_new_files_and_ends_when_told(folder, writer):
    stop, end = os.pipe()
    writer.write(10)
    following = follow(folder, ["web"], lines=2, stop=stop)
    assert [int(next(following)[1]) for _ in range(2)] == [8, 9]
    writer.write(1)
    assert int(next(following)[1]) == 10
    (folder / "other.1.log").write_bytes(b"not wanted\n")
    (folder / "web.2.log").write_bytes(b"new\n")
    assert next(following) == ("web.2", "new")
    writer.raw(b"last words")
    os.close(end)
    assert list(following) == [("web.1", "last words")]
    os.close(stop)


def test_follow_before_there_is_a_folder(tmp_path):
    stop, end = os.pipe()
    folder = tmp_path / "log"
    with closing(Follower(folder)) as follower:
        assert follower.turn() == []
        folder.mkdir()
        (folder / "web.1.log").write_bytes(b"hello\n")
        lines = []
        while not lines:
            assert not follower.wait(stop)
            lines = follower.turn()
        assert lines == [("web.1", b"hello")]
    os.close(end)
    os.close(stop)


def test_something_else_in_the_place_of_the_folder_has_no_logs(tmp_path):
    (tmp_path / "log").touch()

    assert log_names(tmp_path / "log") == []
    assert log_names(tmp_path / "nowhere") == []
