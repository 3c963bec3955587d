import fcntl
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.ipc.stacks import Frame
from bkd.supervisor import procfs
from bkd.supervisor.forensics.dumpfile import DumpFile
from bkd.supervisor.forensics.faultdump import complete, fatal, parse

POOL = """\
Thread 0x00007f5e8f8f36c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait
  File "/usr/lib/python3.11/threading.py", line 629 in wait
  File "/srv/shop/app.py", line 4 in wait_for_work
  File "/usr/lib/python3.11/threading.py", line 982 in run
  File "/usr/lib/python3.11/threading.py", line 1045 in _bootstrap_inner
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

"""
PYTHON_3_11 = (
    POOL
    + r"""Current thread 0x00007f5e9084bb80 (most recent call first):
  File "/srv/shop/app.py", line 5 in b\xfcro
  File "<string>", line 22 in run
  File "<string>", line 32 in <module>
"""
)
COLLECTING = (
    POOL
    + """Current thread 0x00007f5e9084bb80 (most recent call first):
  Garbage-collecting
  File "/srv/shop/app.py", line 8 in __del__
  File "<string>", line 32 in <module>
"""
)
DEEP = POOL + "Current thread 0x00007f5e9084bb80 (most recent call first):\n" + 100 * '  File "a.py", line 6 in deep\n'
CRASHED_3_11 = """\
Fatal Python error: Segmentation fault

Thread 0x00007f537ffff6c0 (most recent call first):
  <no Python frame>

Current thread 0x00007f53859d0b80 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/srv/shop/app.py", line 23 in look
  File "<string>", line 1 in <module>

Extension modules: numpy.core._multiarray_umath, msgspec._core (total: 2)
"""
CRASHED_IN_A_THREAD_3_14 = """\
Fatal Python error: Aborted

Current thread 0x00007f8bab81c6c0 [pool [1]] (most recent call first):
  File "/srv/shop/app.py", line 9 in give_up
  File "/usr/lib/python3.14/threading.py", line 1013 in _bootstrap

Thread 0x00007f8bac492b80 [MainThread] (most recent call first):
  File "/srv/shop/app.py", line 30 in serve
  File "<string>", line 1 in <module>

Current thread's C stack trace (most recent call first):
  Binary file "/usr/lib/libpython3.14.so.1.0", at _Py_DumpStack+0x42 [0x5b27f7d7147e]
  Binary file "/usr/lib/libc.so.6", at +0x3def0 [0x77b73226bef0]
  <truncated rest of calls>

Extension modules: msgspec._core (total: 1)
"""
FREE_THREADED_3_14 = """\
Fatal Python error: Segmentation fault

<Cannot show all threads while the GIL is disabled>
Stack (most recent call first):
  File "/usr/lib/python3.14t/ctypes/__init__.py", line 590 in string_at
  File "<string>", line 9 in <module>

"""
RECORDED = [PYTHON_3_11, COLLECTING, DEEP, CRASHED_3_11, CRASHED_IN_A_THREAD_3_14, FREE_THREADED_3_14]


def functions(text):
    return [[frame.function for frame in thread.frames] for thread in parse(text)]


def test_main_comes_first_with_its_frames_innermost_first():
    main, pool = parse(PYTHON_3_11)

    assert (main.main, pool.main) == (True, False)
    assert main.frames == [
        Frame("/srv/shop/app.py", 5, "büro"),
        Frame("<string>", 22, "run"),
        Frame("<string>", 32, "<module>"),
    ]
    assert pool.frames[2] == Frame("/srv/shop/app.py", 4, "wait_for_work")


def test_main_is_where_bkd_was_entered_wherever_it_stands():
    main, crashed = parse(CRASHED_IN_A_THREAD_3_14)

    assert (main.name, main.main) == ("MainThread", True)
    assert (crashed.name, crashed.main) == ("pool [1]", False)


def test_without_that_entry_main_is_the_oldest():
    assert [(len(thread.frames), thread.main) for thread in parse(DEEP)] == [(100, True), (6, False)]


@pytest.mark.parametrize("rest", ["\n...\n", "\nThread 0x0001 (most rec"])
def test_the_oldest_is_not_known_when_the_list_was_cut(rest):
    assert [thread.main for thread in parse(DEEP + rest)] == [False, False]


def test_lines_that_are_no_frames_are_left_out():
    assert functions(COLLECTING)[0] == ["__del__", "<module>"]
    assert functions(CRASHED_3_11) == [["string_at", "look", "<module>"], []]


def test_of_two_dumps_the_later_one_counts():
    later = PYTHON_3_11.replace("wait_for_work", "work")

    assert [names[-4] for names in functions(PYTHON_3_11 + "\n" + later) if len(names) > 3] == ["work"]


def test_a_file_may_be_called_anything():
    line = '  File "/x", line 3 in "y.py", line 4 in <lambda>\n'

    (thread,) = parse("Current thread 0x1 (most recent call first):\n" + line)

    assert thread.frames == [Frame('/x", line 3 in "y.py', 4, "<lambda>")]


def test_what_is_not_known_of_a_frame():
    (thread,) = parse("Current thread 0x1 (most recent call first):\n  File ???, line ??? in ???\n")

    assert thread.frames == [Frame("???", 0, "???")]


@pytest.mark.parametrize("escape", [r"\x1b", r"\udc80", r"\U00110000", r"\x41", r"C:\temp"])
def test_only_letters_are_put_back(escape):
    (thread,) = parse(f'Current thread 0x1 (most recent call first):\n  File "{escape}", line 1 in f\n')

    assert thread.frames[0].file == escape


def test_raw_control_characters_do_not_get_through():
    (thread,) = parse('Current thread 0x1 (most recent call first):\n  File "\x1b[2J\r", line 1 in f\u2028\n')

    assert thread.frames == [Frame("\ufffd[2J\ufffd", 1, "f\ufffd")]


def test_a_crash_is_told_with_its_thread_first():
    head, threads = fatal("something before\n" + CRASHED_IN_A_THREAD_3_14)

    assert head == "Fatal Python error: Aborted"
    assert [(thread.name, thread.main) for thread in threads] == [("pool [1]", False), ("MainThread", True)]
    assert threads[0].frames[0] == Frame("/srv/shop/app.py", 9, "give_up")


def test_a_crash_without_a_list_of_threads():
    head, (thread,) = fatal(FREE_THREADED_3_14)

    assert head == "Fatal Python error: Segmentation fault"
    assert thread.frames[0].function == "string_at"
    assert thread.main


def test_a_crash_behind_a_dump_is_told_alone():
    head, threads = fatal(PYTHON_3_11 + CRASHED_3_11)

    assert head == "Fatal Python error: Segmentation fault"
    assert [len(thread.frames) for thread in threads] == [3, 0]


def test_no_crash():
    assert fatal(PYTHON_3_11) == ("", [])
    assert fatal("it said: Fatal Python error: Aborted") == ("", [])
    assert fatal("Fatal Python error: Aborted") == ("Fatal Python error: Aborted", [])


@pytest.mark.parametrize("text", [*RECORDED[:-1], DEEP + "  ...\n", DEEP + "\n...\n"])
def test_a_whole_dump_is_complete(text):
    assert complete(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...\n",
        "\n",
        POOL,
        PYTHON_3_11[:-1],
        POOL + 'Thread 0x1 (most recent call first):\n  File "x", line 1 in f\n',
    ],
)
def test_the_beginning_of_a_dump_is_not_complete(text):
    assert not complete(text)


@given(st.sampled_from([PYTHON_3_11, COLLECTING, DEEP]), st.integers(0, 10_000))
def test_no_dump_is_complete_before_its_end(text, cut):
    assert not complete(text[: min(cut, len(text) - 1)])


@given(st.sampled_from(RECORDED), st.integers(0, 10_000), st.integers(0, 10_000))
def test_any_part_of_a_dump_is_read_as_far_as_it_goes(text, begin, end):
    known = {frame for thread in parse(text) for frame in thread.frames}
    part = text[begin : begin + end]

    threads = parse(part)

    assert {frame for thread in threads for frame in thread.frames} <= known
    assert sum(thread.main for thread in threads) <= 1
    fatal(part)


PIECES = st.sampled_from(
    [line + "\n" for text in RECORDED for line in text.split("\n")]
    + [
        "Thread 0x",
        "Current thread 0x1 (most recent call first):\n",
        "Fatal Python error: ",
        "\\xff",
        "\\u",
        '", line ',
    ]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=30)), max_size=40).map("".join))
def test_nothing_raises(text):
    threads = parse(text)
    head, crashed = fatal(text)

    assert complete(text) in (True, False)
    assert sum(thread.main for thread in threads) <= 1
    assert head or not crashed
    assert all(frame.file.isprintable() and frame.function.isprintable() for t in threads for frame in t.frames)


def test_what_no_dump_can_hold_is_not_kept():
    many = "".join(f"Thread 0x{number:x} (most recent call first):\n" for number in range(1, 300))
    long = 'Current thread 0x1 (most recent call first):\n  File "' + 9000 * "x" + '", line 1 in f\n'

    assert len(parse(many)) == 100
    assert len(parse(long)[0].frames[0].file) < 600


# -- the file that they stand in


@pytest.fixture
def own():
    return os.getpid(), procfs.read(os.getpid()).start


@pytest.fixture
def memory():
    descriptor = os.memfd_create("bkd-stacks")
    yield descriptor
    os.close(descriptor)


def test_what_a_process_writes_is_read_and_cleared(own, memory):
    file = DumpFile.open(*own, memory)
    os.write(memory, PYTHON_3_11.encode() + b"\xff")

    assert file.read() == PYTHON_3_11 + "\ufffd"
    assert file.read(limit=6) == "Thread"
    assert len(file.read()) == len(PYTHON_3_11) + 1
    assert file.clear()
    assert file.read() == ""
    file.close()


def test_it_stays_when_the_process_closes_it(own):
    descriptor = os.memfd_create("bkd-stacks")
    os.write(descriptor, b"last words")
    file = DumpFile.open(*own, descriptor)
    os.close(descriptor)

    assert file.read() == "last words"
    file.close()


def test_a_sealed_file_is_read_and_cannot_be_cleared(own):
    descriptor = os.memfd_create("bkd-stacks", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, b"for ever")
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
    file = DumpFile.open(*own, descriptor)
    os.close(descriptor)

    assert not file.clear()
    assert file.read() == "for ever"
    file.close()


def test_another_process_of_that_number_is_not_asked(own, memory):
    pid, start = own

    assert DumpFile.open(pid, start + 1, memory) is None
    assert DumpFile.open(pid, start, -1) is None
    assert DumpFile.open(pid, start, 1 << 20) is None
    assert DumpFile.open(2**22 + 1, start, memory) is None


def test_nothing_but_such_memory_is_opened(own, tmp_path):
    other = os.memfd_create("passwords")
    reading, writing = os.pipe()
    regular = os.open(tmp_path / "memfd:bkd-stacks", os.O_RDWR | os.O_CREAT)
    terminal, follower = os.openpty()
    with socket.socket() as connection:
        for descriptor in (other, reading, writing, regular, terminal, follower, connection.fileno()):
            assert DumpFile.open(*own, descriptor) is None
    for descriptor in (other, reading, writing, regular, terminal, follower):
        os.close(descriptor)
