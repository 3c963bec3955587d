import os
import socket
import threading
from pathlib import Path

import pytest

from bkd.supervisor import procfs

STAT = (
    b"4242 (%s) S 17 4200 4100 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 3 0 987654 1000000 2000 18446744073709551615 "
    b"1 1 0 0 0 0 0 16781312 17642 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)
ABSENT = 2**22 + 1  # above the largest pid there can be


@pytest.mark.parametrize("name", [b"python", b"tmux: server", b"a) R 1 1 1", b"((sd-pam))", b") (", b"", b"\xff\n\xfe"])
def test_any_name_of_a_program_is_read_right(name):
    facts = procfs.parse_stat(STAT % name)

    assert facts.pid == 4242
    assert (facts.state, facts.ppid, facts.pgrp, facts.session) == ("S", 17, 4200, 4100)
    assert facts.cpu == 200 / os.sysconf("SC_CLK_TCK")
    assert (facts.start, facts.threads) == (987654, 3)
    assert facts.rss == 2000 * os.sysconf("SC_PAGE_SIZE")


def test_facts_of_this_process():
    facts = procfs.read(os.getpid())

    assert facts is not None
    assert facts.state in "RS"
    assert (facts.pid, facts.ppid) == (os.getpid(), os.getppid())
    assert (facts.pgrp, facts.session) == (os.getpgrp(), os.getsid(0))
    assert facts.threads == len(list(Path("/proc/self/task").iterdir()))
    assert facts.rss > 1_000_000
    assert abs(facts.cpu - time_used()) < 0.5


def time_used():
    times = os.times()
    return times.user + times.system


def test_own_name_with_spaces_and_parentheses():
    comm = Path("/proc/self/comm")
    before = comm.read_bytes()
    try:
        comm.write_bytes(b"x) Z 1 (y")
        facts = procfs.read(os.getpid())
    finally:
        comm.write_bytes(before.strip())

    assert facts is not None
    assert (facts.ppid, facts.session) == (os.getppid(), os.getsid(0))


def test_of_a_process_that_is_not_there_nothing_is_known():
    assert procfs.read(ABSENT) is None
    assert procfs.run_delay(ABSENT) is None
    assert procfs.pss(ABSENT) is None
    assert procfs.environ(ABSENT, b"PATH") is None
    assert procfs.environ_has(ABSENT, b"PATH=") is False
    assert procfs.executing(ABSENT) is False
    assert procfs.children(ABSENT) == []
    assert procfs.descendants(ABSENT) == []
    assert procfs.descends(ABSENT, 1) is None
    assert procfs.holds_socket(ABSENT, {1}) is False
    assert procfs.wchan(ABSENT) == ""
    assert procfs.traced(ABSENT) is False


@pytest.mark.parametrize(
    ("line", "seconds"),
    [(b"1000 2500000000 7\n", 2.5), (b"1000 0 1\n", 0.0), (b"0 0 0\n", None)],
)
def test_run_delay_is_in_seconds_and_absent_where_it_is_not_measured(line, seconds):
    assert procfs.parse_run_delay(line) == seconds


def test_environment_is_matched_by_whole_entries():
    name, value = next((name, value) for name, value in initial_environment() if value)

    assert procfs.environ(os.getpid(), name) == value
    assert procfs.environ_has(os.getpid(), name + b"=" + value)
    assert not procfs.environ_has(os.getpid(), name + b"=" + value[:-1])
    assert not procfs.environ_has(os.getpid(), (name + b"=" + value)[1:])
    assert procfs.environ(os.getpid(), b"NO_SUCH_NAME") is None


def initial_environment():
    entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    return [(name, value) for name, _, value in (entry.partition(b"=") for entry in entries)]


def test_this_process_is_not_in_the_middle_of_an_exec():
    assert procfs.executing(os.getpid()) is False


def test_descent_is_followed_upwards():
    assert procfs.descends(os.getpid(), os.getpid()) is True
    assert procfs.descends(os.getpid(), os.getppid()) is True
    assert procfs.descends(os.getppid(), os.getpid()) is False


def test_this_process_is_found_below_its_parent_by_either_way():
    assert os.getpid() in procfs.children(os.getppid())
    assert os.getpid() in procfs._listed_children(os.getppid())
    assert os.getpid() in procfs._scanned_children(os.getppid())
    assert os.getpid() in procfs.descendants(os.getppid())


def test_nobody_traces_this_process():
    assert procfs.traced(os.getpid()) is False


def test_pss_is_at_most_about_the_resident_size():
    size = procfs.pss(os.getpid())

    assert size is not None
    assert 0 < size < 2 * procfs.read(os.getpid()).rss


def test_boot_id_stays():
    assert procfs.boot_id() == procfs.boot_id()
    assert len(procfs.boot_id()) == 36


def test_waiting_thread_of_the_kernel_is_text():
    assert isinstance(procfs.wchan(os.getpid()), str)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_listeners_are_found_by_port_with_their_holder(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        port = listener.getsockname()[1]
        assert procfs.listeners(port) == set()

        listener.listen()
        inodes = procfs.listeners(port)

        assert inodes == {os.fstat(listener.fileno()).st_ino}
        assert procfs.holds_socket(os.getpid(), inodes) is True
        assert procfs.holds_socket(os.getpid(), {1}) is False
    assert procfs.listeners(port) == set()


def test_threads_do_not_count_as_processes():
    release = threading.Event()
    thread = threading.Thread(target=release.wait, args=(10,))
    thread.start()
    try:
        assert thread.native_id not in procfs.children(os.getpid())
        assert procfs.read(os.getpid()).threads >= 2
    finally:
        release.set()
        thread.join()
