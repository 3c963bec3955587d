"""What a cluster leaves behind whose keeper and master were killed together, or whose master has forgotten it."""

import subprocess
import sys

import pytest

from .cluster import CLEAN_ENVIRONMENT, Traffic, alive, ended, free_port, kill, until
from .test_hard_times import state, stopped, wipe_slate

STUBBORN = """
import os, signal, socket, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(600)
"""


def kill_both(cluster):
    """Keeper and master at once; the pids of everybody else."""
    status = cluster.status()
    with stopped(status["keeper_pid"]):
        kill(status["master_pid"])
        kill(status["keeper_pid"])
    assert ended(status["master_pid"])
    assert ended(status["keeper_pid"])
    return cluster.processes()


@pytest.fixture
def stray(prepare):
    """A cluster with a web group, a function, and a program that has a port, a child, and no ear for SIGTERM."""
    port = free_port()
    cluster = prepare(
        web={"app": "shop:app", "min_ready": "100ms"},
        tick={"target": "functions:ticker", "restart": "always"},
        port={
            "command": [sys.executable, "-S", "stubborn2.py", str(port)],
            "ready": f"tcp:127.0.0.1:{port}",
            "term": "300ms",
            "drain": "200ms",
        },
    )
    (cluster.folder / "stubborn2.py").write_text(STUBBORN)
    return cluster


def test_keeper_and_master_at_once(stray, prepare):
    """The next start names and ends all of it before it starts anything; a second cluster, and a stranger with the same
    words in its environment, are left alone."""
    other = prepare(nap={"command": ["sleep", "600"], "ready": "after:0s"}).start()
    alone = other.pids("nap")
    stranger = subprocess.Popen(["sleep", "600"], env=CLEAN_ENVIRONMENT | {"BKD_TREE": "0" * 16, "BKD_SLOT": "port.1"})
    try:
        stray.start()
        pids = {name: stray.pids(name)[0] for name in ("web", "tick", "port")}
        left = kill_both(stray)
        assert {*pids.values()} <= {*left}
        begun = stray.bkd("start", "-d")
        assert begun.returncode == 0, begun.stderr
        (said,) = [line for line in begun.stderr.splitlines() if "left of the cluster before" in line]
        assert all(f"{name}.1 (pid {pid})" in said for name, pid in pids.items()), said
        assert [pid for pid in left if alive(pid)] == []
        assert stray.get("/pid")
        assert stray.worker("port.1")["restarts"] == 0
        (event,) = stray.events("leftovers-ended")
        assert (event["survivors"], len(event["processes"]) >= 5) == ([], True)
        assert other.pids("nap") == alone
        assert stranger.poll() is None
        assert stray.stop().returncode in (0, 3)
        until(stray.is_gone)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_start_beside_a_master_without_a_keeper(prepare):
    """A master that outlived its keeper ends what it has: a start meanwhile ends nobody and is refused."""
    cluster = prepare(web={"app": "shop:app", "count": 1, "drain": "30s"}).start()
    worker, status = cluster.pids("web")[0], cluster.status()
    with cluster.send("/sleep?1") as busy:
        until(lambda: cluster.log("web.1").count("asked"))
        with stopped(status["master_pid"]):
            kill(status["keeper_pid"])
            assert ended(status["keeper_pid"])
            refused = cluster.bkd("start")
            assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
            assert alive(worker)
        assert b"slept" in b"".join(iter(lambda: busy.recv(4096), b""))
    assert ended(worker)


def test_numbers_that_are_other_processes_now(prepare):
    """A state of a cluster that is gone, with the pid of somebody else: nobody is touched."""
    cluster = prepare(nap={"command": ["sleep", "600"], "ready": "after:0s"}).start()
    pid, state = cluster.pids("nap")[0], cluster.run_dir / "state"
    kept = until(lambda: (data := state.read_bytes()) and packed(pid) in data and data)
    kill_both(cluster)
    kill(pid)
    assert ended(pid)
    stranger = subprocess.Popen(["sleep", "600"], env=CLEAN_ENVIRONMENT, cwd="/")
    try:
        old, new = packed(pid), packed(stranger.pid)
        if len(old) != len(new):
            pytest.skip("the two numbers are not written in as many bytes")
        state.write_bytes(kept.replace(old, new))
        cluster.start()
        assert stranger.poll() is None
        assert cluster.events("leftovers-ended") == []
    finally:
        stranger.kill()
        stranger.wait()


def packed(number):
    """As MessagePack writes it."""
    if number < 1 << 16:
        return b"\xcd" + number.to_bytes(2, "big")
    return b"\xce" + number.to_bytes(4, "big")


def test_a_master_that_has_forgotten_everything(stray):
    """With the state lost, its file and the keeper's memory of it: workers serve until there are others and are
    drained, no request is lost; programs and zygotes are ended before others are started."""
    stray.start()
    keeper, first = stray.process.pid, stray.status()["master_pid"]
    web, port = stray.pids("web"), stray.pids("port")[0]
    with Traffic(stray) as traffic, stray.send("/sleep?2") as busy:
        kill(first)
        until(lambda: (now := stray.answered()) and now["master_pid"] != first and stray.is_ready())
        second = stray.status()["master_pid"]
        with stopped(keeper):
            kill(second)
            until(lambda: not alive(second) or state(second) == "Z")
            wipe_slate(keeper)
            (stray.run_dir / "state").unlink()
        until(lambda: (now := stray.answered()) and now["master_pid"] != second)
        until(stray.is_ready, 40)
        until(lambda: not [pid for pid in (*web, port) if alive(pid)], 40)
        assert b"slept" in b"".join(iter(lambda: busy.recv(4096), b""))
    assert (traffic.failed, stray.status()["keeper_pid"]) == ([], keeper)
    assert stray.events("workers-forgotten")
    until(lambda: "is ended: " in stray.said())
    assert stray.worker("port.1")["restarts"] == 0
    assert stray.said().count("Ctrl-C or `bkd stop`") == 1
    assert stray.stop().returncode in (0, 3)
    until(stray.is_gone)
