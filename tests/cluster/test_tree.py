"""Trees of real processes. The test process makes itself the subreaper and so plays the keeper and the master."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bkd.supervisor import cgroup, procfs
from bkd.supervisor.tree import MARKER, Handle, kill_tree, members

PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 20.0

PRELUDE = """
import os, signal, sys, threading, time
def say(word):
    os.write(1, f"{word} {os.getpid()}\\n".encode())
def linger():
    time.sleep(60)
    os._exit(0)
def fork(body):
    if os.fork() == 0:
        body()
        os._exit(0)
def daemon(body):
    if os.fork() == 0:
        if os.fork() == 0:
            while os.getppid() != keeper:
                time.sleep(0.001)
            body()
        os._exit(0)
    os.wait()
keeper = int(sys.argv[1])
"""


class Spawn:
    """A program that leads its own session, as the keeper starts it, and what it says about its processes."""

    def __init__(self, code, *, marker="one"):
        environment = {"PATH": os.environ["PATH"]} | ({MARKER: marker} if marker else {})
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", PRELUDE + code, str(os.getpid())],
            env=environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
        )
        self.marker = marker
        self.root = Handle.open(self.process.pid, procfs.read(self.process.pid).start)

    def hear(self, *words):
        """Pids by the words they said; waits for all of `words`."""
        heard = {}
        while set(heard) != set(words):
            word, pid = self.process.stdout.readline().split()
            heard[word.decode()] = int(pid)
        return heard

    def members(self, known=frozenset()):
        handles = members(self.root, os.getpid(), self.marker, known)
        pids = [handle.pid for handle in handles]
        for handle in handles:
            handle.close()
        return pids

    def kill(self, seconds=PATIENCE, *, known=frozenset(), sig=signal.SIGKILL, root=True):
        deadline = time.monotonic() + seconds
        first = self.root if root else None
        return asyncio.run(kill_tree(first, os.getpid(), self.marker, known, deadline=deadline, signal=sig))


@pytest.fixture
def spawn():
    libc = ctypes.CDLL(None)
    before = set(procfs.children(os.getpid()))
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    spawns = []

    def start(code, **options):
        spawns.append(Spawn(code, **options))
        return spawns[-1]

    try:
        yield start
    finally:
        end_all_but(before)
        for one in spawns:
            one.process.stdout.close()
            one.process.returncode = 0  # reaped with the others
            one.root.close()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def end_all_but(before):
    """Also what the code under test rightly does not find; the descendants become children when their parents end."""
    deadline = time.monotonic() + PATIENCE
    while (left := set(procfs.children(os.getpid())) - before) and time.monotonic() < deadline:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert not left


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def running(pid):
    facts = procfs.read(pid)
    return facts is not None and facts.state not in "ZX"


def stopped(pid):
    facts = procfs.read(pid)
    return facts is not None and facts.state == "T"


def test_descendants_are_members_whatever_session_they_are_in(spawn):
    tree = spawn("""
def grandchild():
    os.setsid()
    say("grandchild")
    linger()
def child():
    os.setsid()
    fork(grandchild)
    say("child")
    linger()
fork(child)
say("root")
linger()
""")
    heard = tree.hear("root", "child", "grandchild")

    assert tree.members() == [heard["root"], heard["child"], heard["grandchild"]]
    assert tree.kill() == []
    assert not any(map(running, heard.values()))


def test_a_daemon_that_left_the_session_is_known_by_its_marker(spawn):
    tree = spawn("""
def body():
    os.setsid()
    fork(lambda: (say("helper"), linger()))
    say("daemon")
    linger()
daemon(body)
say("root")
linger()
""")
    heard = tree.hear("root", "daemon", "helper")

    assert set(tree.members()) == set(heard.values())
    assert tree.kill() == []
    assert not any(map(running, heard.values()))


def test_a_daemon_without_marker_is_known_by_its_session(spawn):
    tree = spawn('daemon(lambda: (os.setpgid(0, 0), say("daemon"), linger()))\nsay("root")\nlinger()', marker="")
    tree.marker = "one"
    heard = tree.hear("root", "daemon")

    assert set(tree.members()) == set(heard.values())
    assert tree.kill() == []
    assert not running(heard["daemon"])


def test_orphans_are_found_after_the_first_process_has_ended(spawn):
    tree = spawn('daemon(lambda: (say("daemon"), linger()))')
    heard = tree.hear("daemon")
    wait_until(lambda: not tree.root.alive())

    assert tree.members() == [heard["daemon"]]
    assert tree.kill(root=False) == []
    assert not running(heard["daemon"])


def test_what_dropped_every_trace_is_left_alone(spawn):
    tree = spawn('daemon(lambda: (os.setsid(), say("daemon"), linger()))\nsay("root")\nlinger()', marker="")
    tree.marker = "one"
    heard = tree.hear("root", "daemon")

    assert tree.members() == [heard["root"]]
    assert tree.kill() == []
    assert running(heard["daemon"])


def test_the_marker_of_another_spawn_outweighs_the_session(spawn):
    tree = spawn(f"""
def other():
    os.execve("/bin/sh", ["sh", "-c", "echo daemon $$; exec sleep 60"], {{"{MARKER}": "two", "PATH": "/bin:/usr/bin"}})
daemon(other)
say("root")
linger()
""")
    heard = tree.hear("root", "daemon")

    assert tree.members() == [heard["root"]]
    assert tree.kill() == []
    assert running(heard["daemon"])


def test_a_marker_is_compared_as_a_whole(spawn):
    longer = spawn('daemon(lambda: (os.setsid(), say("daemon"), linger()))', marker="one1")
    longer.hear("daemon")

    assert members(None, os.getpid(), "one", set()) == []


def test_known_processes_are_never_members(spawn):
    tree = spawn('say("root")\nlinger()')
    twin = spawn('say("root")\nlinger()')
    tree.hear("root")
    twin.hear("root")

    assert tree.kill(known={tree.process.pid, twin.process.pid}) == []
    assert not tree.root.alive()
    assert twin.root.alive()


def test_those_who_ignore_the_signal_are_reported(spawn):
    tree = spawn("""
def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("deaf")
    linger()
fork(deaf)
say("root")
linger()
""")
    heard = tree.hear("root", "deaf")

    assert tree.kill(1.0, sig=signal.SIGTERM) == [heard["deaf"]]
    assert not running(heard["root"])
    assert tree.kill() == []
    assert not running(heard["deaf"])


def test_a_storm_of_forks_is_ended(spawn):
    """Each process of the storm leaves the session, forks and exits, so it never has the same pid for long."""
    tree = spawn("""
def hop():
    end = time.monotonic() + 30
    while time.monotonic() < end:
        os.setsid()
        if os.fork():
            os._exit(0)
        if os.getppid() == keeper:
            time.sleep(0.0005)
for _ in range(3):
    fork(hop)
say("root")
linger()
""")
    tree.hear("root")

    assert tree.kill() == []
    assert tree.members() == []


def test_a_growing_tree_without_marker_is_ended_before_it_gets_away(spawn):
    others = procfs.children(os.getpid())
    tree = spawn(
        """
def grow():
    os.setsid()
    for _ in range(60):
        fork(lambda: (os.setsid(), linger()))
        time.sleep(0.0002)
    linger()
for _ in range(3):
    fork(grow)
say("root")
linger()
""",
        marker="",
    )
    tree.marker = "one"
    tree.hear("root")
    wait_until(lambda: len(procfs.descendants(tree.process.pid)) > 20)

    assert tree.kill() == []
    assert [pid for pid in procfs.children(os.getpid()) if pid not in others and running(pid)] == []


def test_stopped_processes_are_killed(spawn):
    tree = spawn('say("root")\nlinger()')
    tree.hear("root")
    tree.root.signal(signal.SIGSTOP)
    wait_until(lambda: procfs.read(tree.process.pid).state == "T")

    assert tree.kill() == []
    assert not tree.root.alive()


def test_nobody_is_left_stopped_by_a_cancelled_kill(spawn):
    tree = spawn('for _ in range(20): fork(linger)\nsay("root")\nlinger()')
    tree.hear("root")
    pids = tree.members()

    async def cancelled():
        deadline = time.monotonic() + PATIENCE
        task = asyncio.create_task(kill_tree(tree.root, os.getpid(), tree.marker, set(), deadline=deadline))
        while not any(map(stopped, pids)) and any(map(running, pids)):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())

    wait_until(lambda: not any(map(stopped, pids)))


def test_a_zombie_counts_as_ended(spawn):
    tree = spawn("os._exit(3)")
    wait_until(lambda: procfs.read(tree.process.pid).state == "Z")

    assert tree.root.alive() is False
    assert tree.root.signal(signal.SIGTERM) is False
    assert tree.members() == []
    assert tree.kill() == []
    assert os.waitpid(tree.process.pid, 0)[1] == 3 << 8


def test_a_process_whose_main_thread_ended_is_alive(spawn):
    tree = spawn("""
import ctypes
threading.Thread(target=linger).start()
say("root")
ctypes.CDLL(None).pthread_exit(None)
""")
    tree.hear("root")
    wait_until(lambda: procfs.read(tree.process.pid).state == "Z")

    assert tree.root.alive() is True
    assert tree.kill() == []
    assert tree.root.alive() is False


def test_an_ended_process_is_never_signalled(spawn):
    tree = spawn("pass")
    pid, start = tree.process.pid, tree.root.start
    os.waitpid(pid, 0)

    assert tree.root.alive() is False
    assert tree.root.signal(signal.SIGKILL) is False
    assert Handle.open(pid, start) is None
    assert tree.kill() == []


def test_a_closed_handle_signals_nobody(spawn):
    tree = spawn('say("root")\nlinger()')
    tree.hear("root")
    handle = Handle.open(tree.process.pid, tree.root.start)
    handle.close()
    handle.close()

    assert handle.alive() is False
    assert handle.signal(signal.SIGKILL) is False
    assert tree.root.alive() is True


def test_another_start_time_is_another_process(spawn):
    tree = spawn('say("root")\nlinger()')

    assert Handle.open(tree.process.pid, tree.root.start - 1) is None


def test_a_recycled_pid_is_never_signalled(spawn):
    tree = spawn("pass")
    pid = tree.process.pid
    os.waitpid(pid, 0)
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 2 / os.sysconf("SC_CLK_TCK"))
    successor = fork_with_pid(pid)

    assert Handle.open(pid, tree.root.start) is None
    assert tree.root.signal(signal.SIGKILL) is False
    assert tree.kill() == []
    assert running(successor)


def fork_with_pid(pid):
    """Needs to be root; others on the machine may take the number first, hence the attempts."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(50):
        try:
            last.write_text(str(pid - 1))
        except OSError:
            pytest.skip("this user may not choose pids")
        child = os.fork()
        if child == 0:
            os.setsid()
            time.sleep(60)
            os._exit(0)
        if child == pid:
            return child
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    pytest.skip("the pid was not to be had")


def test_facts_of_another_process(spawn):
    tree = spawn('fork(lambda: (say("child"), linger()))\nsay("root")\nlinger()')
    heard = tree.hear("root", "child")

    assert procfs.children(tree.process.pid) == [heard["child"]]
    assert procfs._scanned_children(tree.process.pid) == [heard["child"]]
    assert procfs.descends(heard["child"], os.getpid()) is True
    assert procfs.environ(heard["child"], MARKER.encode()) == b"one"
    assert procfs.environ_has(heard["child"], f"{MARKER}=one".encode())
    assert procfs.pss(heard["child"]) > 0
    wait_until(lambda: procfs.wchan(heard["child"]) != "" or os.getuid() != 0)


def test_own_control_group_counts_its_oom_kills():
    folder = cgroup.own_cgroup()
    if folder is None:
        pytest.skip("no control groups are mounted here")

    assert folder.is_dir()
    assert cgroup.oom_kills(folder) is None or cgroup.oom_kills(folder) >= 0
    with pytest.raises(ValueError, match="bkd itself"):
        cgroup.kill(folder)


def test_a_control_group_is_found_where_only_a_part_is_mounted():
    mounts = (
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )

    assert list(map(str, cgroup.candidates("0::/user/a\n4:memory:/docker/abc/x\n", mounts))) == [
        "/sys/fs/cgroup/unified/user/a",
        "/sys/fs/cgroup/memory/x",
    ]


def test_a_whole_control_group_is_killed_at_once(spawn):
    folder = delegated_group()
    tree = spawn(f"""
while "{folder.name}" not in open("/proc/self/cgroup").read():
    time.sleep(0.001)
fork(linger)
say("root")
linger()
""")
    try:
        (folder / "cgroup.procs").write_text(str(tree.process.pid))
        tree.hear("root")

        assert cgroup.kill(folder) is True
        wait_until(lambda: not tree.root.alive())
        wait_until(lambda: "populated 0" in (folder / "cgroup.events").read_text())
    finally:
        folder.rmdir()


def delegated_group():
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            folder = Path(line.split(" ")[4]) / f"bkd-test-{os.getpid()}"
            with contextlib.suppress(OSError):
                folder.mkdir()
                if (folder / "cgroup.kill").exists():
                    return folder
                folder.rmdir()
    pytest.skip("no control group may be made here")


def test_a_group_that_is_not_there_is_not_killed(tmp_path):
    assert cgroup.kill(tmp_path) is False
    assert cgroup.oom_kills(tmp_path) is None
