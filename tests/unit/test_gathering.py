"""What is asked of a process and what is believed of its answers: the seams alone, with the test's own process."""

import asyncio
import os
import time

import pytest
from msgspec.structs import replace

from bkd.ipc.message import Dump, Dumped
from bkd.ipc.stacks import MOST_FRAMES, MOST_THREADS, Frame, Stacks, ThreadStack
from bkd.supervisor import procfs
from bkd.supervisor.forensics import dumpfile, gathering
from bkd.supervisor.forensics.culprit import Home
from bkd.supervisor.forensics.dumpfile import DumpFile
from bkd.supervisor.forensics.gathering import DEAF, IN_C, LATE, NO_HANDLER, UNASKED, Gathering
from bkd.supervisor.forensics.source import MOST_BYTES, MOST_FILES, Source
from bkd.supervisor.forensics.vitals import Vitals
from bkd.supervisor.registry import Process

from .policy.drive import web

HOME = Home("/srv/shop")
ENTRY = '  File "<string>", line 1 in <module>\n'
OLD = f'Current thread 0x01 (most recent call first):\n  File "/srv/shop/app.py", line 1 in old\n{ENTRY}'
NEW = f'Current thread 0x01 (most recent call first):\n  File "/srv/shop/app.py", line 2 in new\n{ENTRY}'
TOLD = Stacks([ThreadStack("MainThread", [Frame("/srv/shop/app.py", 3, "told")], main=True)])


def own_start():
    return procfs.read(os.getpid()).start


class Handle:
    """Stands for the process: at the signal faulthandler would write."""

    def __init__(self, descriptor, text, answer):
        self.descriptor, self.text, self.answer, self.signals = descriptor, text, answer, 0

    def signal(self, _number):
        self.signals += 1
        os.pwrite(self.descriptor, self.text.encode(), os.fstat(self.descriptor).st_size)
        self.answer()
        return True


class Connection:
    """Stands for the heartbeat thread: what it is sent is kept, and answered if `stacks` are given."""

    def __init__(self, answer):
        self.sent, self.answer = [], answer

    def send(self, message):
        self.sent.append(message)
        self.answer(message)


class Scene:
    """A process whose handle and connection are played. It answers at once, at the signal, or never."""

    def __init__(self, written=NEW, answers="never"):
        self.gathering = Gathering(Vitals())
        self.file = os.memfd_create("bkd-stacks")
        os.write(self.file, OLD.encode())
        self.connection = Connection(lambda asked: answers == "at once" and self.answer(asked.number))
        self.handle = Handle(self.file, written, lambda: answers == "late" and self.answer(1))
        theirs = f"/proc/{os.getpid()}/fd/{self.file}"
        self.process = Process(
            1,
            "web",
            "web.1",
            1,
            web(),
            pid=os.getpid(),
            start=own_start(),
            handle=self.handle,
            connection=self.connection,
            dumps=DumpFile(os.dup(self.file), theirs),
        )

    def answer(self, number, stacks=TOLD):
        self.gathering.heard(Dumped(number=number, stacks=stacks))

    def take(self, **more):
        return asyncio.run(self.gathering.take(self.process, home=HOME, **more))


@pytest.fixture
def scene(monkeypatch):
    monkeypatch.setattr(gathering, "ASKING", 0.01)
    monkeypatch.setattr(procfs, "catches", lambda _pid, _signal: True)
    made = []

    def make(**more):
        made.append(Scene(**more))
        return made[-1]

    yield make
    for one in made:
        one.process.dumps.close()
        os.close(one.file)


def functions(evidence):
    return [frame.function for thread in evidence.stacks.threads for frame in thread.frames if frame.file != "<string>"]


def test_a_process_that_answers_is_not_signalled(scene):
    one = scene(answers="at once")
    found = one.take()
    assert (found.source, found.silence, functions(found), one.handle.signals) == ("worker", "", ["told"], 0)
    assert found.culprit == TOLD.threads[0].frames[0]
    assert (found.state, found.kernel[0].tid) == (procfs.read(os.getpid()).state, os.getpid())


def test_what_was_written_before_is_not_taken_for_what_is_written_now(scene):
    found = scene().take()
    assert (found.source, found.silence, functions(found)) == ("signal", IN_C, ["new"])


def test_one_that_answers_late_is_told_as_such(scene):
    found = scene(answers="late").take()
    assert (found.source, found.silence, functions(found)) == ("signal", LATE, ["new"])


def test_one_that_is_not_to_be_signalled_is_not(scene):
    one = scene()
    found = one.take(signal=False)
    assert (found.source, found.stacks, found.silence) == ("", None, UNASKED.format(asked="10 ms"))
    assert one.handle.signals == 0


def test_one_without_a_handler_is_not_signalled(scene, monkeypatch):
    one = scene()
    monkeypatch.setattr(procfs, "catches", lambda _pid, _signal: False)
    assert (one.take().silence, one.handle.signals) == (NO_HANDLER, 0)


def test_nor_one_whose_file_is_another_by_now(scene):
    one = scene()
    other = os.memfd_create("other")
    one.process.dumps = DumpFile(os.dup(one.file), f"/proc/{os.getpid()}/fd/{other}")
    assert (one.take().silence, one.handle.signals) == (NO_HANDLER, 0)
    os.close(other)


@pytest.mark.parametrize("state", "TtDZX")
def test_one_that_hears_nothing_is_not_asked(scene, monkeypatch, state):
    one = scene(answers="at once")
    facts = procfs.read(os.getpid())._replace(state=state)
    monkeypatch.setattr(procfs, "read", lambda _pid: facts)
    found = one.take()
    assert (found.state, found.stacks, found.silence) == (state, None, DEAF[state])
    assert (one.connection.sent, one.handle.signals) == ([], 0)


def test_another_process_of_the_same_pid_is_not_asked(scene):
    one = scene(answers="at once")
    one.process.start += 1
    found = one.take()
    assert (found.state, found.kernel, found.silence) == ("X", [], DEAF["X"])
    assert (one.connection.sent, one.handle.signals) == ([], 0)


def test_an_answer_to_another_question_is_not_taken(scene):
    one = scene(answers="at once")
    one.connection.answer = lambda asked: one.answer(asked.number + 1)
    assert functions(one.take()) == ["new"]
    assert one.connection.sent == [Dump(1)]


def test_no_more_is_kept_than_may_be_shown(scene):
    frames = '  File "/srv/shop/app.py", line 9 in f\n' * 100
    threads = "".join(f"Thread 0x{n:x} (most recent call first):\n{frames}\n" for n in range(2, MOST_THREADS + 12))
    found = scene(written=threads + NEW).take()
    assert (len(found.stacks.threads), found.stacks.threads_left_out) == (MOST_THREADS, 11)
    assert max(len(thread.frames) for thread in found.stacks.threads) == MOST_FRAMES


def test_it_ends_in_time():
    assert gathering.LIMIT <= 0.45


def test_it_ends_in_time_when_nobody_answers(scene, monkeypatch):
    monkeypatch.setattr(gathering, "LIMIT", 0.05)
    began = time.monotonic()
    found = scene(written="").take()
    assert (found.source, found.stacks) == ("", None)
    assert found.silence == "neither its heartbeat thread nor faulthandler answered within 50 ms"
    assert time.monotonic() - began < 20.0


# -- lines of source


@pytest.fixture
def source(tmp_path):
    (tmp_path / "app.py").write_text("first\n    second\nthird\n")
    return tmp_path


@pytest.mark.parametrize(("line", "text"), [(0, ""), (1, "first"), (2, "second"), (3, "third"), (4, ""), (-1, "")])
def test_a_line_is_the_one_that_was_asked_for(source, line, text):
    assert Source().line(str(source / "app.py"), line) == text


def test_what_is_no_source_is_not_read(source):
    (source / "secret").write_text("secret\n")
    (source / "large.py").write_text("x\n" * (MOST_BYTES // 2 + 1))
    os.mkfifo(source / "pipe.py")
    names = [str(source / name) for name in ("secret", "large.py", "pipe.py", "absent.py")]
    assert [Source().line(name, 1) for name in [*names, "app.py", "/dev/zero.py", "\0.py"]] == [""] * 7


def test_it_reads_no_more_files_than_so_many(source):
    for number in range(MOST_FILES + 1):
        (source / f"m{number}.py").write_text("x\n")
    reader = Source()
    assert [reader.line(str(source / f"m{n}.py"), 1) for n in range(MOST_FILES + 1)] == ["x"] * MOST_FILES + [""]


# -- the file for stacks


@pytest.fixture
def memory():
    descriptor = os.memfd_create("bkd-stacks")
    os.write(descriptor, b"Fatal")
    yield descriptor
    os.close(descriptor)


def test_the_file_of_a_process_outlives_its_descriptor(memory):
    file = DumpFile.open(os.getpid(), own_start(), memory)
    assert (file.read(), file.is_theirs(), file.clear(), file.read()) == ("Fatal", True, True, "")
    file.close()
    file.close()
    assert (file.read(), file.is_theirs(), file.clear()) == ("", False, False)


def test_the_file_of_another_process_is_not_opened(memory):
    assert DumpFile.open(os.getpid(), own_start() + 1, memory) is None
    assert DumpFile.open(os.getpid(), own_start(), -1) is None


def test_nor_of_one_that_is_another_when_it_was_opened(memory, monkeypatch):
    start, looks, read = own_start(), [], procfs.read

    def once(pid):
        looks.append(pid)
        return read(pid) if len(looks) == 1 else None

    monkeypatch.setattr(procfs, "read", once)
    assert DumpFile.open(os.getpid(), start, memory) is None
    assert len(looks) == 2


@pytest.mark.parametrize("pretends", [False, True])
def test_no_other_file_is_opened(tmp_path, monkeypatch, pretends):
    if pretends:
        monkeypatch.setattr(procfs, "opened", lambda _pid, _descriptor: dumpfile.NAME)
    with open(tmp_path / "x", "w") as file:
        assert DumpFile.open(os.getpid(), own_start(), file.fileno()) is None


def test_frames_keep_their_place_and_get_their_line(source):
    frame = Frame(str(source / "app.py"), 2, "f")
    assert Source().shown([frame]) == [replace(frame, text="second")]
