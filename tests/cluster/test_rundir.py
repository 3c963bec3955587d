"""What is removed from the run directory while the cluster lives is there again, and nobody is judged for it."""

import contextlib
import os
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest

from .cluster import CLEAN_ENVIRONMENT, Traffic, kill, until
from .test_users import passable

WATCHED = """
import os, socket, sys, time
kept = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
kept.connect(os.environ["NOTIFY_SOCKET"])
def send(text):
    if "connected" in sys.argv:
        kept.send(text)
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as fresh:
        try:
            fresh.sendto(text, os.environ["NOTIFY_SOCKET"])
        except OSError as error:
            print(error, flush=True)
send(b"READY=1\\nWATCHDOG_USEC=2500000")
for number in range(100000):
    send(b"WATCHDOG=1\\nSTATUS=%d" % number)
    print(f"line {number}", flush=True)
    time.sleep(0.1)
"""


@pytest.fixture
def busy(prepare):
    """Two programs with a watchdog, one of which has connected to its socket for good, and a web worker; in the
    background, with metrics."""
    watched = [sys.executable, "-S", "watched.py"]
    cluster = prepare(
        once={"command": [*watched, "connected"], "ready": "notify"},
        each={"command": watched, "ready": "notify"},
        web={"app": "shop:app", "count": 1},
        metrics={"bind": "run_dir"},
    )
    (cluster.folder / "watched.py").write_text(WATCHED)
    assert cluster.bkd("start", "-d").returncode == 0
    return cluster


def said(cluster, name):
    """The number that a program gave last as its status."""
    words = cluster.worker(name)["status_text"] or "0"
    return int(words.rpartition(" ")[2])


def master_of(cluster):
    """Its pid."""
    return cluster.status()["master_pid"]


def is_heard(cluster):
    """Whether both programs are heard now."""
    before = said(cluster, "once.1"), said(cluster, "each.1")
    until(lambda: said(cluster, "once.1") > before[0] and said(cluster, "each.1") > before[1])
    return True


def test_all_of_it(busy, watch):
    """Programs are heard where they look for the socket and where they have connected to it, also by the next master;
    what everybody prints is in the logs again; metrics can be scraped; nobody has ended."""
    before = {name: busy.pids(name) for name in ("once", "each", "web")}
    with Traffic(busy) as traffic:
        for _ in range(2):
            shutil.rmtree(busy.run_dir, ignore_errors=True)
            until(busy.answered)
        assert is_heard(busy)
        watch(2.7)  # longer than the watchdogs allow
        assert is_heard(busy)
        first = master_of(busy)
        kill(first)
        until(lambda: (now := busy.answered()) and now["master_pid"] != first)
        assert is_heard(busy)
    assert traffic.failed == []
    assert {name: busy.pids(name) for name in before} == before
    assert busy.events("worker-hung", "worker-exited") == []
    until(lambda: busy.events("run-dir-restored"))
    assert busy.get("/say?something") == "said"
    until(lambda: "something" in busy.log("web.1"))
    for name in ("once.1", "each.1"):
        until(lambda name=name: has_latest(busy, name))
    assert "succeeded" not in busy.said()
    until(lambda: "master" in busy.log("bkd"))
    with socket.socket(socket.AF_UNIX) as scraper:
        scraper.connect(str(busy.run_dir / "metrics.sock"))
    assert busy.stop().returncode == 0
    until(busy.is_gone)
    assert [*busy.run_dir.glob("notify*/*")] == []


def has_latest(cluster, name):
    """Whether what a program prints comes into its log line by line, none missing and none torn."""
    lines = cluster.log(name).splitlines()
    numbers = [int(line.removeprefix("line ")) for line in lines if line.startswith("line ")]
    assert numbers == sorted(set(numbers))
    whole = [*range(numbers[0], numbers[-1] + 1)] if numbers else []
    assert numbers == whole, name
    return len(numbers) > 20 and numbers[-1] >= said(cluster, name) - 20


def test_a_log_file_alone(launch):
    """Removed while a program and a worker print into theirs: both go on in new ones, also over the death of the
    master, and the room is free."""
    counts = "n=0; while sleep 0.02; do echo line $n; n=$((n+1)); done"
    cluster = launch(loud={"command": ["sh", "-c", counts], "ready": "after:0s"}, web={"app": "shop:app", "count": 1})
    for name in ("loud.1", "web.1"):
        (cluster.run_dir / "log" / f"{name}.log").unlink()
    until(lambda: cluster.log("loud.1").count("line") > 10)
    until(lambda: (cluster.run_dir / "log" / "web.1.log").exists())
    assert cluster.get("/say?something") == "said"
    until(lambda: "something" in cluster.log("web.1"))
    nameless = Path(f"/proc/{cluster.pids('loud')[0]}/fd/1")
    until(lambda: nameless.stat().st_blocks * 512 <= 2 * nameless.stat().st_blksize)
    first, seen = master_of(cluster), len(cluster.log("loud.1").splitlines())
    kill(first)
    until(lambda: (now := cluster.answered()) and now["master_pid"] != first)
    until(lambda: len(cluster.log("loud.1").splitlines()) > seen + 10)
    numbers = [int(line.removeprefix("line ")) for line in cluster.log("loud.1").splitlines()]
    assert numbers == [*range(numbers[0], numbers[-1] + 1)]
    assert cluster.events("run-dir-restored", "worker-exited") == []


def test_the_lock_alone(launch):
    """As when the folder was being removed while it was made again: it is there again, and another start is refused."""
    cluster = launch(nap={"command": ["sleep", "600"]})
    lock = cluster.run_dir / "lock"
    lock.unlink()
    until(lambda: lock.exists() and lock.read_text() == f"{cluster.process.pid}\n")
    second = cluster.bkd("start")
    assert (second.returncode, "already running" in second.stderr) == (1, True), second.stderr
    assert cluster.stop().returncode == 0


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a folder away")
def test_a_folder_that_others_may_change(launch):
    """Given to somebody else, then opened to all: requests and commands are answered, and each is warned of once."""
    cluster = launch(web={"app": "shop:app", "count": 1})
    before = cluster.pids("web")
    with Traffic(cluster) as traffic:
        os.chown(cluster.run_dir, 65534, 65534)
        until(lambda: cluster.events("run-dir-unfit"))
        os.chown(cluster.run_dir, 0, 0)
        cluster.run_dir.chmod(0o777)
        until(lambda: len(cluster.events("run-dir-unfit")) == 2)
        cluster.run_dir.chmod(0o700)
        assert cluster.pids("web") == before
    given, opened = cluster.events("run-dir-unfit")
    assert "belongs to user 65534" in given["why"]
    assert f"chmod 700 {cluster.run_dir}" in opened["why"]
    until(lambda: cluster.said().count("would refuse this folder") >= 2)
    assert cluster.said().count("would refuse this folder") == 2
    assert traffic.failed == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to run workers as somebody else")
def test_the_door_of_another_user():
    """Workers of another user find the next master at their own socket, which was removed in between."""
    ticker = {"target": "functions:ticker", "user": "games", "restart": "always"}
    with passable(ticker=ticker) as cluster:
        cluster.start()
        before, first = cluster.pids("ticker"), master_of(cluster)
        door = next(cluster.run_dir.glob("worker.*.sock"))
        door.unlink()
        until(lambda: door.exists() and door.stat().st_uid == int(door.name.split(".")[1]))
        assert door.stat().st_mode & 0o777 == 0o600
        shutil.rmtree(cluster.run_dir, ignore_errors=True)
        until(door.exists)
        kill(first)
        until(lambda: (now := cluster.answered()) and now["master_pid"] != first and cluster.is_ready())
        since = time.monotonic()
        until(lambda: (age := cluster.worker("ticker.1")["ping_age"]) is not None and age < time.monotonic() - since)
        assert cluster.pids("ticker") == before
        kill(before[0])
        until(lambda: cluster.is_renewed(*before))
        until(lambda: Path(cluster.run_dir, "log", "ticker.1.log").stat().st_uid == door.stat().st_uid)


def test_a_program_that_dies_with_its_master(launch):
    """Nothing of its socket is left, neither the file nor the keeper's descriptor."""
    cluster = launch(nap={"command": ["sleep", "600"], "restart": "always"})
    keeper = cluster.process.pid
    old, first = cluster.pids("nap")[0], master_of(cluster)
    for pid in (first, old):
        kill(pid)
    until(lambda: cluster.is_renewed(old))
    until(lambda: len([*cluster.run_dir.glob("notify/*")]) == 1)
    until(lambda: len(datagram_sockets(keeper, cluster.run_dir)) == 1)


def datagram_sockets(pid, run_dir):
    """Inodes of the sockets bound below `notify` that a process has open."""
    bound = [line.split() for line in Path("/proc/net/unix").read_text().splitlines() if f"{run_dir}/notify/" in line]
    own = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            own.add(os.readlink(path))
    return [fields[6] for fields in bound if f"socket:[{fields[6]}]" in own]


def test_what_an_earlier_cluster_has_left(prepare):
    """Sockets of programs of a cluster that had no time to remove them are gone after the next start."""
    cluster = prepare(nap={"command": ["sleep", "600"]})
    left = cluster.run_dir / "notify" / "nap.1.77"
    left.parent.mkdir(parents=True, mode=0o700)
    cluster.run_dir.chmod(0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
        stale.bind(str(left))
    assert cluster.bkd("start", "-d", env=CLEAN_ENVIRONMENT).returncode == 0
    until(lambda: not left.exists())
    assert len([*cluster.run_dir.glob("notify/*")]) == 1
