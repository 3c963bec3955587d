"""Long hauls, disks that vanish, and the deaths of bkd's own processes."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bkd.supervisor.client import Client

from .cluster import alive, kill, resident, until

COUNT = 40  # no slot is killed more often than the 30 times a minute that cost no delay
ROUNDS = 25
WARM = 5
FEW_THREADS = 8
GROWTH = 4 << 20


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def kill_all(cluster):
    """Kill every process of the group and wait until others are ready."""
    old = set(cluster.pids("job"))
    for pid in old:
        kill(pid)
    until(lambda: is_whole(cluster.group("job"), old))


def is_whole(group, old):
    """Whether all slots are ready, none of them with a process of old."""
    return group["ready"] == COUNT and not old & {row["pid"] for row in group["workers"]}


@pytest.mark.slow
def test_a_thousand_restarts_leave_no_trace(launch):
    """After 1,000 deaths master and keeper have as many files open as before and a few threads, no zombie is left, and
    the memory has not grown by what would count."""
    cluster = launch(job={"target": "functions:ticker", "restart": "always", "count": COUNT})
    processes = cluster.status()["master_pid"], cluster.process.pid
    for _ in range(WARM):
        kill_all(cluster)
    before = [open_files(pid) for pid in processes]
    memory = [resident(pid) for pid in processes]
    for _ in range(ROUNDS - WARM):
        kill_all(cluster)
    until(lambda: [open_files(pid) for pid in processes] == before)
    assert [resident(pid) - was < GROWTH for pid, was in zip(processes, memory, strict=True)] == [True, True]
    assert [threads(pid) < FEW_THREADS for pid in processes] == [True, True]
    rows = cluster.group("job")["workers"]
    assert sum(row["restarts"] for row in rows) == ROUNDS * COUNT
    assert {row["last_exit"]["cause"] for row in rows} == {"killed from outside"}
    assert zombies(cluster.process.pid) == []


def zombies(parent):
    """Children of a process that it has not reaped."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [pid for pid in map(int, children) if not alive(pid)]


def test_the_log_folder_is_removed(launch):
    """Without `run_dir/log` everything goes on: the dead are replaced, and the cluster stops in order."""
    cluster = launch(web={"app": "shop:app"})
    shutil.rmtree(cluster.run_dir / "log")
    old = cluster.pids("web")
    for pid in old:
        kill(pid)
    until(lambda: cluster.is_renewed(*old))
    assert cluster.get("/pid")
    assert cluster.stop().returncode == 0


def test_the_journal_is_removed(launch):
    """Without its journal bkd begins a new one."""
    cluster = launch(web={"app": "shop:app", "count": 1})
    (cluster.run_dir / "events.jsonl").unlink()
    kill(cluster.worker("web.1")["pid"])
    until(lambda: cluster.events("worker-ready"))
    until(cluster.is_ready)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make a small disk")
def test_the_disk_is_full(prepare):
    """With no room for a log or a journal workers are replaced all the same, and the missing events are counted."""
    cluster = prepare(web={"app": "shop:app"})
    cluster.run_dir.mkdir(mode=0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "bkd", cluster.run_dir], check=False)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        cluster.start()
        filler = cluster.run_dir / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        write_events(cluster, 20)
        old = cluster.pids("web")
        for pid in old:
            kill(pid)
        until(lambda: cluster.is_renewed(*old))
        filler.unlink()
        kill(cluster.pids("web")[0])
        until(lambda: cluster.events("dropped"))
        assert cluster.stop().returncode == 0
        until(lambda: not cluster.processes())
    finally:
        subprocess.run(["umount", "-l", cluster.run_dir], check=True)


def write_events(cluster, count):
    """Have the master tell so many facts."""
    client = Client(str(cluster.run_dir / "control.sock"))
    with contextlib.closing(client.sock):
        for _ in range(count):
            told = client.run("signal", {"name": "web.1", "signal": "CONT"}, render="text", progress=print)
            assert told[0] == 0, told


def test_a_dead_zygote_does_not_delay_the_next_repair(launch):
    """The zygote is killed while nothing happens: a new one is loaded, and it forks when it has to."""
    cluster = launch(web={"app": "shop:app", "count": 1})
    first = cluster.group("web")["helpers"][0]["pid"]
    kill(first)
    until(lambda: [row for row in cluster.group("web")["helpers"] if row["pid"] != first and row["state"] == "ready"])
    loaded, old = len(cluster.events("release-loaded")), cluster.worker("web.1")["pid"]
    kill(old)
    until(lambda: cluster.is_renewed(old))
    assert len(cluster.events("release-loaded")) == loaded == 2


def test_nobody_reads_the_output_any_more(prepare):
    """`bkd start | head -1`: with its output's reader gone the cluster serves on, and stops in order."""
    reader, writer = os.pipe()
    cluster = prepare(web={"app": "shop:app"}).start(stdout=writer, stderr=writer)
    os.close(writer)
    os.close(reader)
    old = cluster.pids("web")
    cluster.get("/say?something")
    for pid in old:
        kill(pid)
    until(lambda: cluster.is_renewed(*old))
    assert cluster.get("/pid")
    assert cluster.stop().returncode == 0
    assert cluster.exit_code() == 0
