import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor import procfs
from bkd.supervisor.forensics import kernelview, peers, syscalls
from bkd.supervisor.forensics.syscalls import AARCH64, X86_64

SECONDS = 30.0

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1519 1 00000000f116dc18 100 0
   1: 0100007F:A0F2 0100007F:1538 01 00000000:00000000 00:00000000 00000000  1000        0 77001 2 0000000000000000 20 4
   2: 0100007F:1538 0100007F:A0F2 01 00000000:00000000 00:00000000 00000000  1000        0 7700 2 0000000000000000 20 4
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when
   0: 00000000000000000000000001000000:A0F2 B80D0120000000000000000001000000:01BB 01 0:0 0:0 0 0 0 31 1
   1: 0000000000000000FFFF00000100007F:A0F2 0000000000000000FFFF00000200000A:18EB 01 0:0 0:0 0 0 0 32 1
   2: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 33 1
"""
UNIX = """\
Num       RefCount Protocol Flags    Type St Inode Path
00000000faee6b8f: 00000003 00000000 00000000 0001 03  1515
000000002429397f: 00000003 00000000 00000000 0001 03 15151 /run/postgres ql/.s.PGSQL.5432
000000002429397a: 00000002 00000000 00010000 0001 01 16000 @abstract
"""


# -- addresses


@pytest.mark.parametrize(
    ("inode", "address"), [(1519, "0.0.0.0:2024"), (77001, "127.0.0.1:5432"), (7700, "127.0.0.1:41202"), (5, "")]
)
def test_the_other_end_of_a_connection_or_what_it_listens_on(inode, address):
    assert peers.inet(TCP, inode) == address


@pytest.mark.parametrize(("inode", "address"), [(31, "[2001:db8::1]:443"), (32, "10.0.0.2:6379"), (33, "[::]:8080")])
def test_addresses_of_the_second_kind(inode, address):
    assert peers.inet(TCP6, inode) == address


@pytest.mark.parametrize(
    ("inode", "path"), [(1515, ""), (15151, "/run/postgres ql/.s.PGSQL.5432"), (16000, "@abstract"), (51, None)]
)
def test_unix_sockets_have_paths(inode, path):
    assert peers.unix(UNIX, inode) == path


def test_a_line_that_was_cut_is_not_believed():
    assert peers.unix(UNIX[:-6], 16000) is None
    assert peers.inet(TCP[:-20], 7700) == ""


@given(
    st.sampled_from([TCP, TCP6, UNIX]),
    st.integers(0, 700),
    st.integers(0, 700),
    st.text(max_size=20),
    st.integers(0, 1 << 32),
)
def test_any_table_is_read(table, begin, end, noise, inode):
    text = table[:begin] + noise + table[end:]

    for number in (inode, 1519, 31, 1515):
        assert isinstance(peers.inet(text, number), str)
        assert peers.unix(text, number) is None or str(number) in text


@given(st.text(max_size=50))
def test_any_text_for_an_address(text):
    assert peers.endpoint(text) == "" or ":" in peers.endpoint(text)


# -- calls


@pytest.mark.parametrize(
    ("line", "machine", "words"),
    [
        ("0 0x7 0x1 0x2 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "read from FILE"),
        ("63 0x7 0x1 0x2 0x0 0x0 0x0 0x7ffd 0x7fc4\n", AARCH64, "read from FILE"),
        ("45 0x7 0x1 0x2 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "read from FILE"),
        ("44 0x7 0x1 0x2 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "write to FILE"),
        ("42 0x7 0x1 0x2 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "connect to FILE"),
        ("203 0x7 0x1 0x2 0x0 0x0 0x0 0x7ffd 0x7fc4\n", AARCH64, "connect to FILE"),
        ("73 0x7 0x2 0x0 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "waits for the lock on FILE"),
        ("72 0x7 0x7 0x0 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "waits for the lock on FILE"),
        ("72 0x7 0x4 0x0 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "fcntl on FILE"),
        ("74 0x7 0x4 0x0 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "waits until FILE is on the disk"),
        ("202 0x7ffd 0x80 0x0 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "waits for a lock"),
        ("98 0x7ffd 0x80 0x0 0x0 0x0 0x0 0x7ffd 0x7fc4\n", AARCH64, "waits for a lock"),
        ("230 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "sleeps"),
        ("232 0x5 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "waits for events"),
        ("61 0xffffffffffffffff 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "waits for a child process to end"),
        ("82 0x7 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "rename"),
        ("9999 0x7 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7fc4\n", X86_64, "syscall 9999"),
        ("0 0x7 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7fc4\n", "riscv64", "syscall 0"),
    ],
)
def test_calls_in_words(line, machine, words):
    call = syscalls.parse(line, machine)

    assert syscalls.in_words(call, "FILE") == words
    assert call.descriptor == (7 if "FILE" in words else None)


@pytest.mark.parametrize("line", ["", "running\n", "-1 0x7ffd 0x7fc4\n", "0\n", "0 7 1\n", "0 0x"])
def test_a_thread_that_is_in_no_call(line):
    assert syscalls.parse(line, X86_64) is None


@given(st.one_of(st.text(max_size=80), st.from_regex(r"[0-9]{1,5}( 0x[0-9a-f]{1,20}){0,9}\n?", fullmatch=True)))
def test_any_text_for_a_call(line):
    call = syscalls.parse(line, X86_64)

    assert call is None or syscalls.in_words(call)


@pytest.mark.parametrize(
    ("wchan", "words"),
    [
        ("futex_wait_queue", "waits for a lock"),
        ("futex_do_wait", "waits for a lock"),
        ("do_epoll_wait", "waits for events"),
        ("locks_lock_inode_wait", "waits for the lock on a file"),
        ("rpc_wait_bit_killable", "waits for a network file system"),
        ("do_signal_stop", "stopped by a signal"),
        ("something_new", ""),
        ("", ""),
    ],
)
def test_what_a_thread_sleeps_in(wchan, words):
    assert syscalls.in_words_of(wchan) == words


def test_numbers_are_given_once():
    for side in (0, 1):
        numbers = [both[side] for both in syscalls.NUMBERS.values() if both[side] is not None]
        assert len(numbers) == len(set(numbers))


# -- threads of this process and of a child


@contextmanager
def waiting(wait, end):
    """A thread of this process in `wait`, until `end` lets it go."""
    thread = threading.Thread(target=wait, name="waiting")
    thread.start()
    try:
        yield thread
    finally:
        end()
        thread.join(SECONDS)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def all_threads(monkeypatch):
    """Other tests of this process may have left some."""
    monkeypatch.setattr(kernelview, "MOST_THREADS", 1000)


def seen(tid, words):
    """What the kernel tells of a thread of this process as soon as it waits for that."""
    start, deadline = procfs.read(os.getpid()).start, time.monotonic() + SECONDS
    while True:
        threads = kernelview.look(os.getpid(), start)
        found = next((thread for thread in threads if thread.tid == tid), None)
        if found is not None and found.call == words:
            return found
        assert time.monotonic() < deadline, threads
        time.sleep(0.001)


@contextmanager
def tcp_pair(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((address, 0), family=family))
        ours = stack.enter_context(socket.create_connection(server.getsockname()[:2]))
        yield ours, stack.enter_context(server.accept()[0])


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_read_from_a_connection_names_the_other_end(address):
    with tcp_pair(address) as (ours, theirs), waiting(lambda: ours.recv(1), lambda: theirs.send(b"x")) as thread:
        host, port = theirs.getsockname()[:2]

        found = seen(thread.native_id, f"read from [{host}]:{port}" if ":" in host else f"read from {host}:{port}")

    assert found.state == "S"
    assert found.cpu < SECONDS


def test_a_read_from_a_unix_socket_names_its_path(tmp_path):
    path = str(tmp_path / "db.sock")
    with ExitStack() as stack:
        server, ours = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        server.bind(path)
        server.listen()
        ours.connect(path)
        theirs = stack.enter_context(server.accept()[0])
        known = asks_for_peers(ours)
        thread = stack.enter_context(waiting(lambda: ours.recv(1), lambda: theirs.send(b"x")))

        seen(thread.native_id, f"read from unix socket {path}" if known else "read from a unix socket")


def asks_for_peers(connection):
    try:
        return procfs.unix_peer(os.fstat(connection.fileno()).st_ino) is not None
    except OSError:
        return False


def test_a_socket_that_the_kernel_has_passed_over_is_looked_for_once_more():
    """It does so where others come and go while its table is read in pieces."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        files = kernelview.Files(os.getpid())
        files._tables = dict.fromkeys(("unix", "tcp", "tcp6", "udp", "udp6"), "")
        assert files.named(server.fileno()) == f"127.0.0.1:{server.getsockname()[1]}"
        files._tables = dict.fromkeys(files._tables, "")
        assert files.named(server.fileno()) == "a socket"


def test_pairs_pipes_and_files():
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    with ours, theirs, waiting(lambda: ours.recv(1), lambda: theirs.send(b"x")) as thread:
        seen(thread.native_id, "read from a unix socket")
    with waiting(lambda: os.read(reading, 1), lambda: os.write(writing, b"x")) as thread:
        seen(thread.native_id, "read from a pipe")
    os.close(reading)
    os.close(writing)


def test_a_lock_on_a_file_names_the_file(tmp_path):
    path = tmp_path / "lock\x1b"
    with path.open("w") as holder, path.open() as other:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with waiting(lambda: fcntl.flock(other, fcntl.LOCK_EX), lambda: fcntl.flock(holder, fcntl.LOCK_UN)) as thread:
            seen(thread.native_id, f"waits for the lock on {tmp_path}/lock?")


def test_a_lock_of_threads_and_a_descriptor_that_is_ready():
    lock, event = threading.Lock(), os.eventfd(0)
    lock.acquire()
    with waiting(lock.acquire, lock.release) as thread:
        seen(thread.native_id, "waits for a lock")
    with waiting(lambda: os.eventfd_read(event), lambda: os.eventfd_write(event, 1)) as thread:
        seen(thread.native_id, "read from eventfd")
    os.close(event)


def test_a_child_that_sleeps():
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"]) as child:
        deadline = time.monotonic() + SECONDS
        start = procfs.read(child.pid).start
        while [t.call for t in kernelview.look(child.pid, start)] != ["sleeps"]:
            assert time.monotonic() < deadline, kernelview.look(child.pid, start)
            time.sleep(0.002)
        (thread,) = kernelview.look(child.pid, start)
        child.kill()

    assert (thread.tid, thread.state) == (child.pid, "S")
    assert thread.name.startswith("python")
    assert kernelview.look(child.pid, start) == []


def test_main_comes_first_and_there_are_not_too_many(monkeypatch):
    """One that ends while it is looked at is left out: those of other tests may just do that."""
    monkeypatch.setattr(kernelview, "MOST_THREADS", 20)
    release, start = threading.Event(), procfs.read(os.getpid()).start
    threads = [threading.Thread(target=release.wait, args=(SECONDS,)) for _ in range(2 * kernelview.MOST_THREADS)]
    for thread in threads:
        thread.start()
    try:
        looks = [kernelview.look(os.getpid(), start) for _ in range(5)]
    finally:
        release.set()
        for thread in threads:
            thread.join()

    assert {found[0].tid for found in looks} == {os.getpid()}
    assert max(map(len, looks)) == kernelview.MOST_THREADS


def test_another_process_of_that_number_is_not_looked_at():
    assert kernelview.look(os.getpid(), procfs.read(os.getpid()).start + 1) == []
    assert kernelview.look(2**22 + 1, 1) == []


@pytest.mark.parametrize(
    ("letter", "words"),
    [
        ("R", "running"),
        ("D", "in an uninterruptible sleep in the kernel"),
        ("T", "stopped by a signal"),
        ("t", "stopped by a debugger"),
        ("?", "in state ?"),
        ("", "in a state nobody knows"),
    ],
)
def test_states_in_words(letter, words):
    assert kernelview.state_words(letter) == words
