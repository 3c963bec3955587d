"""What is short or in the way: places, memory, disk, logs, a store that somebody else locks; many that enqueue."""

import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from ..cluster import CLEAN_ENVIRONMENT, alive, until
from ..smalldisk import fill, small_disk
from ..test_explaining_scarcity import INTO, control_group
from .project import JOBS, most_at_once

NEEDS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="needs root to make a small disk")
CLIENT = """
import json, sys, time
from bkd.ipc import ipc
from bkd.workers import sync_enqueue

ipc.connect("bkd.toml")
took, end = [], time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    begun = time.monotonic()
    sync_enqueue("note", {"text": "from a client"})
    took.append(time.monotonic() - begun)
    time.sleep(0.02)
took.sort()
print(json.dumps({"count": len(took), "p99": took[len(took) * 99 // 100]}))
"""


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_nothing_waits_behind_what_takes_long(project, mode):
    """A kind that was quick until now, so that executors are given more of it than they can run at once."""
    cluster = project(jobs=JOBS | {"mode": mode, "concurrency": 1}).start()
    cluster.open("wide")
    quick = cluster.add("gate", {"gate": "wide"}, count=100)
    assert {cluster.end(id)["state"] for id in quick} == {"succeeded"}

    (long,) = cluster.add("gate", {"gate": "shut"})
    more = cluster.add("gate", {"gate": "wide"}, count=200)

    assert {cluster.end(id)["state"] for id in more} == {"succeeded"}
    assert cluster.show(long)["state"] == "running"
    assert {cluster.show(id)["attempts"] for id in more} == {1}
    cluster.open("shut")
    assert cluster.end(long)["state"] == "succeeded"


def test_no_more_run_at_once_than_there_are_places(project):
    cluster = project(jobs=JOBS | {"count": 1, "concurrency": 3}).start()
    ids = cluster.add("nap", {"seconds": 0.2}, count=10)

    assert {cluster.end(id)["state"] for id in ids} == {"succeeded"}

    assert most_at_once(cluster, ids) == 3


def test_a_group_runs_what_its_modules_declare_and_nothing_else(project):
    other = JOBS | {"handlers": ["other"], "count": 1}
    cluster = project(jobs=JOBS | {"count": 1}, others=other)
    (cluster.folder / "other.py").write_text(
        "from bkd.workers import handler\nfrom work import tell\n\n"
        "@handler('other')\nasync def other(context) -> None:\n    tell(context, 'start')\n"
    )
    text = (cluster.folder / "other.py").read_text().replace("from work import tell", "import json, os")
    text = text.replace("tell(context, 'start')", "open(f'other-{context.id}-{os.getpid()}', 'w').close()")
    (cluster.folder / "other.py").write_text(text)
    cluster.start()
    notes, others = cluster.add("note", count=20), cluster.add("other", count=20)

    assert {cluster.end(id)["state"] for id in [*notes, *others]} == {"succeeded"}

    assert {run["pid"] for run in cluster.runs(*notes)} == set(cluster.pids("jobs"))
    pids = {int(path.name.split("-")[2]) for path in cluster.folder.glob("other-*-*")}
    assert pids == set(cluster.pids("others"))


def test_an_executor_has_no_store_and_no_listener_open(project):
    cluster = project().start()
    (id,) = cluster.add("descriptors", {})

    found = cluster.end(id)["result"]

    names = sorted(found.values())
    assert not [name for name in names if "bkd.db" in name or "runs.jsonl" in name]
    inodes = {name[8:-1] for name in names if name.startswith("socket:[")}
    assert not inodes & listening(), (names, listening())
    assert len(inodes) <= 4, names


def listening():
    """Inodes of unix sockets that listen."""
    with open("/proc/net/unix") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return {row[6] for row in rows if int(row[3], 16) & 0x10000}


def test_a_handler_that_takes_too_much_memory_is_told_apart(project):
    with control_group(500 << 20) as group:
        cluster = project(jobs=JOBS | {"count": 1})
        try:
            cluster.start(prefix=[*INTO, str(group)])
            (id,) = cluster.add("hungry", {"size": 2_000_000_000})
            (other,) = cluster.add("note", {"text": "later"}, delay=1.0)

            told = cluster.end(id, 40.0)

            assert (told["state"], told["reason"], told["crashes"]) == ("dead_letter", "poison", 2)
            assert "memory" in told["error"]["text"], told["error"]
            assert cluster.end(other)["state"] == "succeeded"
        finally:
            cluster.close()


def test_a_limit_of_memory_is_an_error_of_the_handler(project):
    cluster = project(jobs=JOBS | {"mode": "exclusive", "count": 1}).start()
    (id,) = cluster.add("bounded", {"size": 3 << 30})

    told = cluster.end(id)

    assert (told["reason"], told["crashes"]) == ("exhausted", 0)
    assert told["history"][-1]["error"]["code"] == "MemoryError"


@NEEDS_ROOT
def test_a_full_disk_loses_nothing_and_is_got_over(project):
    cluster = project(store={"url": "sqlite:base/bkd.db"}, jobs=JOBS)
    with small_disk(cluster.folder / "base", "3m") as disk:
        cluster.start()
        (first,) = cluster.add("gate", {"gate": "room"})
        cluster.started(first)
        before = cluster.processes()
        filler = fill(disk)
        stored = add_until_refused(cluster)
        cluster.open("room")
        until(lambda: cluster.runs(first, event="end"))
        until(lambda: cluster.events("store-away"))
        assert not cluster.events("store-back")
        filler.unlink()
        told = cluster.end(first, 15.0)

        assert (told["state"], len(cluster.runs(first))) == ("succeeded", 1)
        assert {cluster.end(id)["state"] for id in stored} <= {"succeeded"}
        assert sorted(cluster.processes()) == sorted(before)
        assert cluster.faults() == []
        cluster.close()


def add_until_refused(cluster):
    """Messages that were taken before there was no room; who asks then waits, and gives up here."""
    stored = []
    for _ in range(200):
        done = cluster.popen(
            "message", "add", "note", json.dumps({"text": "x" * 60_000}), "--json", stdout=subprocess.PIPE, stderr=-3
        )
        until(lambda: done.poll() is not None or cluster.events("store-away"))  # noqa: B023
        if done.poll() is None:
            done.kill()
            done.communicate()
            return stored
        out, _ = done.communicate()
        if done.returncode:
            return stored
        stored += json.loads(out)["ids"]
    raise AssertionError("there is still room")


def test_a_store_that_is_locked_for_a_while_loses_nothing(project, watch):
    cluster = project(jobs=JOBS).start()
    cluster.add("note", {"text": "before"})
    base = sqlite3.connect(cluster.run_dir / "bkd.db", timeout=30.0, isolation_level=None)
    base.execute("BEGIN IMMEDIATE")
    done = cluster.popen("message", "add", "note", '{"text": "meanwhile"}', "--json", stdout=subprocess.PIPE)
    watch(3.0)
    assert done.poll() is None
    base.close()
    out, _ = done.communicate(timeout=30.0)

    assert done.returncode == 0
    (id,) = json.loads(out)["ids"]
    told = cluster.end(id)

    assert (told["state"], len(cluster.runs(id))) == ("succeeded", 1)


def test_a_log_that_cannot_be_written_stops_no_message(project):
    cluster = project(jobs=JOBS | {"env": {"LOGURU_LEVEL": "TRACE"}})
    cluster.run_dir.mkdir(mode=0o700)
    if os.getuid() != 0:
        pytest.skip("needs root to make a small disk")
    (cluster.run_dir / "log").mkdir(mode=0o700)
    with small_disk(cluster.run_dir / "log", "256k") as disk:
        cluster.start()
        fill(disk)
        ids = cluster.add("note", {"text": "unlogged" * 100}, count=100) + cluster.add("once", {})

        assert {cluster.end(id)["state"] for id in ids[:-1]} == {"succeeded"}
        assert cluster.end(ids[-1])["reason"] == "exhausted"
        assert cluster.is_ready()
        until(lambda: f"message {ids[-1]} is a dead letter" in cluster.said())
        cluster.close()


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_many_processes_enqueue_at_once(project, seconds):
    cluster = project(jobs=JOBS).start()
    order = [sys.executable, "-c", CLIENT, str(seconds)]
    clients = [
        subprocess.Popen(order, cwd=cluster.folder, env=CLEAN_ENVIRONMENT, stdout=subprocess.PIPE) for _ in range(8)
    ]
    told = [json.loads(client.communicate(timeout=seconds + 40)[0]) for client in clients]

    assert {client.returncode for client in clients} == {0}
    cluster.ends("note")
    assert len({run["id"] for run in cluster.runs()}) == len(cluster.runs()) == sum(one["count"] for one in told)
    print(told)


def test_a_stopped_process_is_no_dead_one(project):
    """An executor is stopped: the lease stays its own, and nothing is run twice."""
    cluster = project(jobs=JOBS | {"concurrency": 1}, ping={"interval": "500ms", "kill": "0s"}).start()
    (id,) = cluster.add("gate", {"gate": "stopped"})
    pid = cluster.started(id)[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    others = cluster.add("note", count=20)
    for other in others:
        assert cluster.end(other)["state"] == "succeeded"
    assert alive(pid)
    os.kill(pid, signal.SIGCONT)
    cluster.open("stopped")

    assert cluster.end(id)["attempts"] == 1
