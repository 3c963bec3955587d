"""Masters, zygotes and workers killed in every order, a disk that is full or gone."""

import contextlib
import os
import shutil
import signal
import subprocess
import time

import pytest

from bkd.ipc.message import FunctionWork, Ping, Welcome

from .cluster import Traffic, alive, ended, kill, until
from .test_hard_times import stopped
from .web_worker.master import Master, Peer

STAGES = ('"release-loading"', '"stage":"canary"', '"stage":"rolling"', '"stage":"settling"')
ROLL = {"app": "versioned:app", "min_ready": "400ms", "count": 2}
SECOND_FAILS = """
import os
async def start():
    if os.environ["BKD_SLOT"] == "web.2":
        raise RuntimeError("not here")
"""


def next_master(cluster, first=None):
    """Kill the master, if that has not been done; the status of the next one."""
    if first is None:
        first = cluster.status()["master_pid"]
        kill(first)
    return until(lambda: (status := cluster.answered()) and status["master_pid"] != first and status)


def journal(cluster, words, release):
    """Whether the journal has a line with these words about a release, as it is on the disk now."""
    lines = (cluster.run_dir / "events.jsonl").read_text().splitlines()
    return any(words in line and f'"release":{release}' in line for line in lines)


def everybody(cluster):
    """The pids of workers and zygotes by the name of their slot or group."""
    status = cluster.status()
    workers = {row["name"]: row["pid"] for group in status["groups"] for row in group["workers"]}
    zygotes = {f"{group['name']} zygote": [row["pid"] for row in group["helpers"]] for group in status["groups"]}
    return workers | zygotes


def release_of(cluster, name="web"):
    """The release, once no roll is under way."""
    group = until(lambda: (group := cluster.group(name))["roll"] is None and group["ready"] == group["count"] and group)
    return group["release"]


def edit(cluster, version, more=""):
    """Another `version.py`."""
    (cluster.folder / "version.py").write_text(f"VERSION = {version!r}\n{more}")


@pytest.fixture
def versioned(prepare):
    """A cluster whose code says its version, not started yet: `versioned(**settings)`."""

    def begin(**settings):
        cluster = prepare(web=ROLL | settings)
        edit(cluster, "one")
        return cluster.start()

    return begin


# -- masters


def survive(cluster, times):
    """Kill so many masters in a row while requests are made: nothing changes."""
    assert cluster.bkd("scale", "web=3").returncode == 0
    assert cluster.bkd("hold", "nap.1").returncode == 0
    until(lambda: cluster.group("web")["ready"] == 3 and cluster.worker("bad.1")["state"] == "failed")
    before = everybody(cluster)
    with Traffic(cluster) as traffic:
        for _ in range(times):
            next_master(cluster)
        until(lambda: cluster.group("web")["ready"] == 3)
        until(lambda: traffic.served > 10 * times)
    assert traffic.failed == []
    assert everybody(cluster) == before
    assert (cluster.worker("nap.1")["state"], cluster.group("web")["count"]) == ("held", 3)
    assert cluster.worker("bad.1")["state"] == "failed"
    assert len(cluster.events("worker-exited")) == 2


@pytest.fixture
def busy(prepare):
    """Web workers, a program, a function, and one that has failed after two deaths."""
    bad = {"target": "functions:exits_1", "restart": "always", "max_restarts": 2}
    nap = {"command": ["sleep", "600"], "ready": "after:50ms", "restart": "always"}
    web = {"app": "shop:app", "min_ready": "100ms"}
    cluster = prepare(web=web, nap=nap, bad=bad).start(ready=False)
    until(lambda: cluster.answered() and cluster.group("web")["ready"] == 2, 40.0)
    return cluster


def test_three_masters_in_a_row(busy):
    """Same pids of workers, zygotes and programs; what is held, scaled and failed stays so; no request is lost."""
    survive(busy, 3)


@pytest.mark.slow
def test_ten_masters_in_a_row(busy):
    """The same; the pauses between the masters grow to five seconds."""
    survive(busy, 10)


def roll_without(cluster, number, fact, more=""):
    """Begin a roll to a release of this number, and kill the master as soon as the journal has this fact about it."""
    master = cluster.status()["master_pid"]
    edit(cluster, f"v{number}", more)
    assert cluster.bkd("restart", "web", "--no-wait").returncode == 0
    until(lambda: journal(cluster, fact, number), pause=0.002)
    kill(master)
    next_master(cluster, master)


@pytest.mark.parametrize("stages", [STAGES[1:3], pytest.param(STAGES, marks=pytest.mark.slow)], ids=["two", "all"])
def test_a_master_that_dies_in_the_middle_of_a_roll(versioned, stages):
    """In each of its stages: the next one ends the roll, with one release everywhere and no request lost. Whoever was
    ordered is known to it: nobody who serves is turned away and killed."""
    cluster = versioned()
    with Traffic(cluster, "/") as traffic:
        for number, fact in enumerate(stages, 2):
            roll_without(cluster, number, fact, "import time; time.sleep(0.3)\n")
            assert release_of(cluster) == number
            assert cluster.get("/").startswith(f"v{number}")
    assert traffic.failed == []
    assert cluster.events("frame-rejected", "release-failed") == []


def test_a_master_that_dies_while_a_roll_is_taken_back(versioned):
    """The next one takes it back to its end: the slot that had moved is of the old release again."""
    cluster = versioned()
    with Traffic(cluster, "/") as traffic:
        roll_without(cluster, 2, '"roll-aborted"', SECOND_FAILS)
        assert release_of(cluster) == 1
        assert cluster.get("/").startswith("one")
    assert traffic.failed == []
    assert cluster.events("rolled-back")
    assert cluster.events("frame-rejected") == []


def test_the_ends_of_adopted_workers_are_known(versioned):
    """By their status, whether they left or were killed by their own fault; master, zygote and a worker at once."""
    cluster = versioned()
    next_master(cluster)
    until(cluster.is_ready)
    first, second = cluster.pids("web")
    with contextlib.suppress(OSError, AssertionError):
        cluster.get("/leave?3")
    end = until(lambda: next((end for end in cluster.events("worker-exited")), None))
    assert (end["code"], end["cause"]) == (3, "crash")
    until(cluster.is_ready)
    kill(second if alive(second) else first, signal.SIGSEGV)
    end = until(lambda: next((end for end in cluster.events("worker-exited") if end["signal"]), None))
    assert (end["signal"], end["cause"]) == (signal.SIGSEGV, "crash")
    until(cluster.is_ready)
    status = cluster.status()
    zygote, (gone, stays) = status["groups"][0]["helpers"][0]["pid"], cluster.pids("web")
    for pid in (status["master_pid"], zygote, gone):
        kill(pid)
    next_master(cluster, status["master_pid"])
    until(lambda: cluster.is_renewed(gone) and cluster.group("web")["helpers"])
    assert cluster.worker("web.2")["pid"] == stays
    assert cluster.group("web")["release"] == 1


def test_a_worker_obeys_no_earlier_master(tmp_path):
    """One that has been replaced and goes on is left without a word; the one after it is heard."""
    (tmp_path / "idle.py").write_text("import asyncio\n\nasync def main():\n    await asyncio.sleep(600)\n")
    with Master(tmp_path) as master:
        worker = master.fork(master.load(FunctionWork("idle:main", False)))
        for epoch, is_heard in ((5, True), (4, False), (5, True), (6, True)):
            worker.sock.close()
            worker = Peer(master.listener.accept()[0])
            worker.send(Welcome(epoch=epoch))
            if is_heard:
                assert worker.hear(Ping)
            else:
                assert worker.sock.recv(1) == b""
        worker.sock.close()


# -- the disk


def test_a_state_file_that_is_of_no_use(launch):
    """Cut off, replaced by nonsense, or by a folder: the next master does not need it."""
    cluster = launch(web={"app": "shop:app", "min_ready": "100ms"})
    before, state = everybody(cluster), cluster.run_dir / "state"
    state.write_bytes(state.read_bytes()[:100])
    next_master(cluster)
    until(cluster.is_ready)
    state.write_bytes(os.urandom(5000))
    next_master(cluster)
    until(cluster.is_ready)
    first = cluster.status()["master_pid"]
    with stopped(cluster.process.pid):
        kill(first)
        assert ended(first)
        state.unlink()
        state.mkdir()
    next_master(cluster, first)
    until(cluster.is_ready)
    assert everybody(cluster) == before
    assert [event["epoch"] for event in cluster.events("master-started")] == [1, 2, 3, 4]
    until(lambda: cluster.status()["disk"])
    state.rmdir()
    kill(before["web.1"])
    until(lambda: cluster.status()["disk"] is None)
    assert len(cluster.events("disk-trouble")) == len(cluster.events("disk-well")) == 1


def test_a_run_directory_that_is_removed(launch):
    """Requests are answered, the master comes back to its place, a second cluster does not, and the next master too
    knows all of them."""
    cluster = launch(web={"app": "shop:app", "min_ready": "100ms"})
    before = everybody(cluster)
    with Traffic(cluster) as traffic:
        shutil.rmtree(cluster.run_dir, ignore_errors=True)  # the master makes it again meanwhile
        until(cluster.answered)
        second = cluster.bkd("start")
        assert (second.returncode, "already running" in second.stderr) == (1, True), second.stderr
        next_master(cluster)
        until(cluster.is_ready)
        assert everybody(cluster) == before
        first = cluster.status()["master_pid"]
        shutil.rmtree(cluster.run_dir, ignore_errors=True)  # the master makes it again meanwhile
        kill(first)
        next_master(cluster, first)
        until(cluster.is_ready)
        assert everybody(cluster) == before
    assert traffic.failed == []
    kill(before["web.1"])
    until(lambda: cluster.is_renewed(before["web.1"]))
    until(lambda: cluster.events("run-dir-restored"))
    assert cluster.stop().returncode == 0
    until(cluster.is_gone)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make a small disk")
def test_a_disk_without_room(prepare):
    """A deploy, the death of the master and another deploy; what is wrong is said once, and once when it is over."""
    cluster = prepare(web=ROLL)
    edit(cluster, "one")
    cluster.run_dir.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "bkd", cluster.run_dir]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        cluster.start()
        filler = cluster.run_dir / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        with Traffic(cluster, "/") as traffic:
            assert cluster.bkd("restart", "web").returncode == 0
            before = everybody(cluster)
            assert cluster.status()["disk"]
            next_master(cluster)
            until(cluster.is_ready)
            assert everybody(cluster) == before
            assert release_of(cluster) == 2
            assert cluster.bkd("rollback", "web").returncode == 0
        assert traffic.failed == []
        filler.unlink()
        kill(cluster.pids("web")[0])
        until(lambda: cluster.status()["disk"] is None)
        assert cluster.stop().returncode == 0
        until(lambda: not cluster.processes())
    finally:
        subprocess.run(["umount", "-l", cluster.run_dir], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount")
def test_a_disk_that_is_read_only(prepare):
    """The next master, a deploy and a death do without it; what is wrong is said, and when it is over."""
    cluster = prepare(web=ROLL)
    edit(cluster, "one")
    cluster.start()
    if subprocess.run(["mount", "--bind", cluster.run_dir, cluster.run_dir], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        read_only = ["mount", "-o", "remount,bind,ro", cluster.run_dir]
        until(lambda: subprocess.run(read_only, check=False).returncode == 0)  # not while something is being written
        before = everybody(cluster)
        with Traffic(cluster, "/") as traffic:
            next_master(cluster)
            until(cluster.is_ready)
            assert everybody(cluster) == before
            edit(cluster, "two")
            assert cluster.bkd("restart", "web").returncode == 0
            assert "Read-only file system" in cluster.status()["disk"]
        assert traffic.failed == []
        gone = cluster.pids("web")[0]
        kill(gone)
        until(lambda: cluster.is_renewed(gone))
        assert cluster.get("/").startswith("two")
    finally:
        subprocess.run(["umount", "-l", cluster.run_dir], check=True)
    kill(cluster.pids("web")[0])
    until(lambda: cluster.status()["disk"] is None)
    assert cluster.stop().returncode == 0


# -- zygotes


def without_zygote(cluster, release=1):
    """Kill the zygote of a release."""
    pid = next(row["pid"] for row in cluster.group("web")["helpers"] if row["release"] == release)
    kill(pid)
    assert ended(pid)
    return pid


def test_a_zygote_is_loaded_again_while_its_files_are_the_same(versioned):
    """Touched is not edited; the release keeps its number, and a worker that dies is of it."""
    cluster = versioned()
    old = without_zygote(cluster)
    os.utime(cluster.folder / "version.py", (time.time(), time.time() + 5))
    until(lambda: [row for row in cluster.group("web")["helpers"] if row["pid"] != old and row["state"] == "ready"])
    gone = cluster.pids("web")[0]
    kill(gone)
    until(lambda: cluster.is_renewed(gone))
    assert (release_of(cluster), cluster.events("release-lost")) == (1, [])


def test_a_zygote_whose_files_were_edited_is_not(versioned):
    """Its workers serve on, and status says why; the next death rolls the group. A release that is kept for a rollback
    is lost in the same way."""
    cluster = versioned()
    before = cluster.pids("web")
    with Traffic(cluster, "/") as traffic:
        edit(cluster, "two")
        without_zygote(cluster)
        until(lambda: (2, "ready") in [(row["release"], row["state"]) for row in cluster.group("web")["helpers"]])
        group = cluster.group("web")
        assert "release 1 is not restorable: version.py was edited since" in group["reason"]
        assert (group["release"], cluster.pids("web"), cluster.get("/")[:3]) == (1, before, "one")
        next_master(cluster)
        until(lambda: cluster.is_ready() and cluster.group("web")["reason"] == group["reason"])
    assert traffic.failed == []
    kill(before[0])
    until(lambda: cluster.group("web")["release"] == 2)
    assert release_of(cluster) == 2
    assert cluster.get("/").startswith("two")
    edit(cluster, "three")
    assert cluster.bkd("restart", "web").returncode == 0
    edit(cluster, "four")
    without_zygote(cluster, 2)
    until(lambda: len(cluster.events("release-lost")) == 2)
    answer = cluster.bkd("rollback", "web")
    assert answer.returncode == 1
    assert "release 2 is not restorable: version.py was edited since" in answer.stderr
    assert cluster.get("/").startswith("three")
