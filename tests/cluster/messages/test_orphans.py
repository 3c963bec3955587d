"""Keeper and master are killed together: executors begin nothing more, have `orphan_timeout` for what they run, and go.
What they came to is in the store, and nothing of it counts as a crash."""

import signal
import time

import pytest

from ..cluster import alive, ended, kill, until
from .project import JOBS, slowly

ORPHANS = JOBS | {"handlers": ["work", "lives"], "drain": "60s"}


def orphaned(cluster):
    """All processes of the cluster, of which keeper and master are dead; and when that was."""
    people = cluster.processes()
    keeper, master = cluster.keeper, cluster.master
    kill(keeper, signal.SIGSTOP)
    kill(master)
    kill(keeper)
    return people, time.monotonic()


def counters(cluster, id):
    """Runs, attempts and crashes of a message, read from the file."""
    tables = ("ready", "delayed", "done")
    found = [row for table in tables for row in cluster.query(f"SELECT * FROM {table} WHERE message_id = ?", id)]
    return [(row["runs"], row["attempts"], row["crashes"]) for row in found]


@pytest.mark.parametrize(
    ("mode", "kind"), [("shared", "gate"), ("shared", "block"), ("exclusive", "alone"), slowly("shared", "sleepy")]
)
def test_what_does_not_finish_is_interrupted_in_time(project, mode, kind):
    """A handler that can be cancelled, one that blocks its loop, one in the main thread, one in a thread."""
    cluster = project(jobs=ORPHANS | {"mode": mode}, app={"orphan_timeout": "2s"}).start()
    (id,) = cluster.add(kind, {"gate": "never"} if kind == "gate" else {"seconds": 3600})
    pid = cluster.started(id)[0]["pid"]
    people, begun = orphaned(cluster)

    assert ended(pid, 2.0 + 8.0)
    took = time.monotonic() - begun
    assert all(ended(pid) for pid in people)

    assert took < 2.0 + 6.0, took
    assert counters(cluster, id) == [(1, 0, 0)]
    assert cluster.query("SELECT result FROM attempt") == [{"result": "interrupted"}]
    assert cluster.query("SELECT * FROM lease") == []


def test_orphans_begin_nothing_more(project):
    cluster = project(jobs=ORPHANS | {"count": 1, "concurrency": 1}, app={"orphan_timeout": "60s"}).start()
    ids = cluster.add("nap", {"seconds": 0.5}, count=100)
    cluster.started(ids[0])
    (pid,), dispatcher = cluster.pids("jobs"), cluster.dispatcher
    orphaned(cluster)

    assert ended(pid)

    done = {row["message_id"] for row in cluster.query("SELECT * FROM done")}
    assert 1 <= len(done) < len(ids)
    assert {run["id"] for run in cluster.runs()} == done
    assert alive(dispatcher)


def test_an_executor_that_is_stopped_is_ended_by_the_dispatcher(project):
    cluster = project(jobs=ORPHANS, app={"orphan_timeout": "1s"}).start()
    (id,) = cluster.add("gate", {"gate": "never"})
    pid = cluster.started(id)[0]["pid"]
    kill(pid, signal.SIGSTOP)
    people, _ = orphaned(cluster)

    assert all(ended(pid, 20.0) for pid in people)

    assert counters(cluster, id) == [(1, 0, 0)]
    assert cluster.query("SELECT * FROM lease") == []


def test_what_they_held_runs_at_once_with_the_next_start(project):
    cluster = project(jobs=ORPHANS, app={"orphan_timeout": "1s"}).start()
    (id,) = cluster.add("gate", {"gate": "open"})
    cluster.started(id)
    people, _ = orphaned(cluster)
    assert all(ended(pid, 20.0) for pid in people)
    cluster.open("open")
    cluster.start()
    ready = time.time()

    assert cluster.started(id, 2)[1]["at"] - ready < 1.0
    told = cluster.end(id)
    assert (told["state"], told["attempts"], told["crashes"], told["iteration"]) == ("succeeded", 1, 0, 2)


def test_a_start_that_ends_orphans_has_their_last_words_written(project):
    """The dispatcher of before is told when its executors are gone."""
    cluster = project(jobs=ORPHANS).start()
    (id,) = cluster.add("gate", {"gate": "open"})
    (first,) = [run["pid"] for run in cluster.started(id)]
    orphaned(cluster)
    cluster.process.wait(10.0)
    cluster.start()
    cluster.open("open")

    told = cluster.end(id)

    assert not alive(first)
    assert (told["state"], told["attempts"], told["crashes"], told["iteration"]) == ("succeeded", 1, 0, 2)
    assert [one["outcome"] for one in told["history"]] == ["interrupted", "ok"]


def test_a_master_that_is_late_finds_them_all(project, watch):
    """The keeper lives, so nobody is an orphan however long the master takes."""
    cluster = project(jobs=ORPHANS, app={"orphan_timeout": "1s"}).start()
    (id,) = cluster.add("gate", {"gate": "late"})
    before = cluster.started(id)[0]["pid"]
    pids = sorted(cluster.pids("jobs"))
    keeper, master = cluster.keeper, cluster.master
    kill(keeper, signal.SIGSTOP)
    kill(master)
    until(lambda: not alive(master))
    watch(2.5)
    kill(keeper, signal.SIGCONT)
    until(cluster.is_ready, 30.0)
    cluster.open("late")

    assert cluster.end(id)["attempts"] == 1
    assert sorted(cluster.pids("jobs")) == pids
    assert alive(before)
