"""The end of a cluster while messages run: what is finished, what is given back, and how it exits."""

import os
import signal
import time

import pytest

from ..cluster import alive, kill, until
from .project import JOBS, slowly

TERM, QUIT, INT = signal.SIGTERM, signal.SIGQUIT, signal.SIGINT


@pytest.fixture
def stored(project):
    """A cluster with these settings of its group, started."""
    return lambda **settings: project(jobs=JOBS | {"concurrency": 2} | settings).start()


def counters(cluster, id):
    """Of a message that waits, as the store has it when nobody runs."""
    tables = ("ready", "delayed")
    rows = [row for table in tables for row in cluster.query(f"SELECT * FROM {table} WHERE message_id = ?", id)]
    return [(row["state"], row["runs"], row["attempts"], row["crashes"]) for row in rows]


def leave(cluster, *signals, limit=30.0):
    """Signals to the keeper, one after the other; how long it took to end, and its exit code."""
    begun = time.monotonic()
    for number in signals:
        kill(cluster.process.pid, number)
    code = cluster.exit_code(limit)
    took = time.monotonic() - begun
    until(lambda: not cluster.processes())
    return took, code


def test_what_runs_is_finished_and_nothing_more_is_begun(stored):
    cluster = stored(drain="60s")
    naps = cluster.add("nap", {"seconds": 2}, count=4)
    for id in naps:
        cluster.started(id)
    waiting = cluster.add("note", count=20)

    took, code = leave(cluster, TERM)

    assert code == 0
    assert took < 60.0 / 2
    assert len(cluster.runs(*naps, event="end")) == 4
    assert cluster.runs(*waiting) == []
    assert {counters(cluster, id)[0] for id in waiting} == {("queued", 0, 0, 0)}


def test_ctrl_c_interrupts_no_handler(stored):
    cluster = stored()
    (id,) = cluster.add("nap", {"seconds": 1})
    cluster.started(id)

    os.killpg(cluster.process.pid, INT)

    assert cluster.exit_code() == 0
    until(lambda: not cluster.processes())
    assert len(cluster.runs(id, event="end")) == 1
    assert cluster.query("SELECT state, attempts FROM done") == [{"state": "succeeded", "attempts": 1}]


@pytest.mark.parametrize("kind", ["nap", "block"])
def test_what_takes_too_long_is_given_back_without_counting(stored, kind):
    """A handler that can be interrupted, and one that cannot."""
    cluster = stored(drain="500ms", term="500ms")
    (id,) = cluster.add(kind, {"seconds": 60})
    (other,) = cluster.add("note", {"text": "before"})
    cluster.started(id)
    cluster.end(other)

    took, code = leave(cluster, TERM)

    assert took < 60.0 / 2
    assert counters(cluster, id) == [("queued", 1, 0, 0)]
    assert cluster.query("SELECT result FROM attempt WHERE message_id = ?", id) == [{"result": "interrupted"}]
    assert code == 3


@pytest.mark.parametrize("signals", [(TERM, QUIT), slowly((TERM, TERM)), slowly((TERM, INT, TERM))])
def test_who_asks_twice_costs_a_run_at_most(stored, signals):
    """The second one may mean that everybody is killed; the next start goes on."""
    cluster = stored()
    (id,) = cluster.add("nap", {"seconds": 1})
    cluster.started(id)

    took, code = leave(cluster, *signals)
    cluster.start()

    assert took < 15.0
    assert code in (0, 3)
    told = cluster.end(id)
    assert (told["state"], told["attempts"], told["crashes"]) in (("succeeded", 1, 0), ("succeeded", 2, 1))
    assert len(cluster.runs(id)) == told["iteration"]


@pytest.mark.parametrize("delay", [0.3, slowly(0.0), slowly(0.6)])
def test_a_stop_during_the_start_leaves_nothing_half_done(stored, delay, watch):
    cluster = stored()
    cluster.message("pause", "note")
    ids = cluster.add("note", count=10)
    leave(cluster, TERM)
    cluster.message("resume", "note")
    cluster.start(ready=False)
    watch(delay)

    took, _code = leave(cluster, TERM)

    assert took < 30.0
    done = {row["message_id"]: row["runs"] for row in cluster.query("SELECT * FROM done WHERE state = 'succeeded'")}
    assert sorted(run["id"] for run in cluster.runs(*ids)) == sorted(done)
    assert all(runs == 1 for runs in done.values())
    assert {counters(cluster, id)[0] for id in ids if id not in done} <= {("queued", 0, 0, 0)}
    assert cluster.query("SELECT * FROM lease") == []


def test_a_roll_interrupts_nobody(stored):
    cluster = stored()
    ids = cluster.add("nap", {"seconds": 1}, count=4)
    for id in ids:
        cluster.started(id)
    quick = cluster.add("note", count=200)

    assert cluster.bkd("restart", "jobs").returncode == 0

    assert {cluster.end(id)["state"] for id in [*ids, *quick]} == {"succeeded"}
    assert len(cluster.runs(*ids)) == 4
    assert len(cluster.runs(*quick)) == 200


def test_a_recycled_executor_leaves_between_messages(stored):
    cluster = stored(max_requests=50, count=1)
    before = cluster.pids("jobs")
    ids = cluster.add("note", count=200)
    cluster.ends("note")

    until(lambda: cluster.is_renewed(*before))
    ids += cluster.add("note", count=200)
    cluster.ends("note")

    assert len(cluster.runs(*ids)) == 400
    assert len({run["pid"] for run in cluster.runs(*ids)}) > 1
    assert cluster.query("SELECT count(*) AS n FROM attempt WHERE result <> 'ok'") == [{"n": 0}]


def test_a_dispatcher_that_dies_meanwhile_is_replaced_and_ends_last(stored):
    cluster = stored(concurrency=1, drain="6s", term="500ms")
    dispatcher = cluster.dispatcher
    (short,) = cluster.add("nap", {"seconds": 1})
    (stuck,) = cluster.add("block", {"seconds": 60})
    cluster.started(short)
    cluster.started(stuck)
    kill(cluster.process.pid, TERM)
    until(lambda: cluster.events("stop-asked"))
    kill(dispatcher)

    assert cluster.exit_code() == 3
    until(lambda: not cluster.processes())
    assert cluster.query("SELECT message_id, state FROM done") == [{"message_id": short, "state": "succeeded"}]
    assert counters(cluster, stuck) == [("queued", 1, 0, 0)]
    assert cluster.query("SELECT * FROM lease") == []
    assert cluster.events("worker-exited")[-1]["slot"] == "dispatcher.1"


def test_who_kills_at_once_loses_nothing_that_was_reported(stored):
    """The dispatcher stands still when it is told, and while everybody else gets SIGKILL."""
    cluster = stored()
    (id,) = cluster.add("nap", {"seconds": 0.3})
    cluster.started(id)
    dispatcher, executors = cluster.dispatcher, cluster.pids("jobs")
    kill(dispatcher, signal.SIGSTOP)
    until(lambda: cluster.runs(id, event="end"))
    kill(cluster.process.pid, TERM)
    until(lambda: cluster.events("worker-retired"))
    kill(cluster.process.pid, TERM)
    until(lambda: not any(map(alive, executors)))
    kill(dispatcher, signal.SIGCONT)

    assert cluster.exit_code() == 3
    assert cluster.query("SELECT state, attempts FROM done") == [{"state": "succeeded", "attempts": 1}]
    assert cluster.query("SELECT * FROM lease") == []
