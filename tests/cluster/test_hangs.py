"""Workers that make no progress are replaced in time."""

import signal
import sys
import time

import pytest

from .cluster import alive, ended, kill, until

REPLACED = 3.0  # 1.7 s where nothing else runs
KILL = 1.0
STUCK = ("stuck", "starved")  # the second one where others take all of the CPU
PING = {"interval": "1s", "kill": f"{KILL:g}s"}


@pytest.fixture(scope="module")
def cluster(share):
    return share(web={"app": "shop:app", "count": 1, "min_ready": "100ms", "term": "500ms"}, ping=PING)


@pytest.fixture(scope="module")
def times():
    """How long it took to replace each worker that hung."""
    return []


@pytest.fixture(autouse=True)
def calm(cluster):
    """Every test begins with a worker that is well and has no past."""
    cluster.bkd("reset", "web")
    until(cluster.is_ready)


def hang(cluster, path):
    """Give the worker a request that it will not come back from: its pid, the row of its successor, and how long it
    took."""
    old = cluster.worker("web.1")["pid"]
    with cluster.send(path):
        return old, *successor(cluster, old)


def successor(cluster, old):
    """The slot's row when it is ready again, and how long that took."""
    began = time.monotonic()
    row = until(lambda: (row := cluster.worker("web.1"))["state"] == "ready" and row["pid"] not in (old, None) and row)
    return row, time.monotonic() - began


def hung(cluster, pid):
    """What was told when a worker was found to hang."""
    return next(event for event in cluster.events("worker-hung") if event["pid"] == pid)


@pytest.mark.parametrize(
    ("path", "verdicts"),
    [
        ("/spin", ("busy", "starved")),
        ("/block?600", STUCK),
        ("/power", ("busy", "starved")),
        ("/hold_gil?600000000", STUCK),
    ],
)
def test_a_hung_handler(cluster, times, path, verdicts):
    """An endless loop, a blocking sleep, a long computation in C, a C call that keeps the lock: each is replaced, and
    the events say what it was."""
    old, row, took = hang(cluster, path)
    times.append(took)
    assert ended(old)
    assert cluster.get("/pid") == str(row["pid"])
    event = hung(cluster, old)
    assert (event["slot"], event["verdict"] in verdicts) == ("web.1", True)
    last = until(lambda: (end := cluster.worker("web.1")["last_exit"]) and end["pid"] == old and end)
    assert last["cause"] == "hung"


def test_a_stopped_worker(cluster, times):
    """SIGSTOP from whoever: the worker is replaced, and goes by SIGKILL since it hears nothing else."""
    old = cluster.worker("web.1")["pid"]
    kill(old, signal.SIGSTOP)
    times.append(successor(cluster, old)[1])
    assert ended(old)
    assert hung(cluster, old)["verdict"] == "stopped"


def test_it_is_replaced_in_time(cluster, times):
    """At best: what else the machine does delays it, and a worker that gets no CPU has twice `ping.kill`."""
    assert any(took < REPLACED for took in times or (hang(cluster, "/block?600")[2] for _ in range(5)))


def test_it_is_reported_before_it_is_killed(launch, watch):
    """After `ping.interval` without progress the status and the events say so; if it comes back, all is well again."""
    cluster = launch(web={"app": "shop:app", "count": 1}, ping={"interval": "500ms", "kill": "10s"})
    old = cluster.worker("web.1")["pid"]
    with cluster.send("/block?3") as client:
        until(lambda: cluster.worker("web.1")["verdict"] in STUCK)
        assert b"blocked" in client.makefile("rb").read()
    until(lambda: cluster.worker("web.1")["verdict"] == "ok")
    assert cluster.worker("web.1")["pid"] == old
    (late,) = cluster.events("worker-late", "worker-hung")
    assert (late["fact"], late["verdict"] in STUCK) == ("worker-late", True)


def test_a_request_that_takes_too_long(launch):
    """With `request_timeout` a worker whose oldest request is older than that is replaced, though its loop turns."""
    cluster = launch(web={"app": "shop:app", "count": 1, "request_timeout": "1s", "term": "500ms"}, ping=PING)
    old = cluster.worker("web.1")["pid"]
    with cluster.send("/sleep?600"):
        assert ended(old)
    assert hung(cluster, old)["verdict"] == "overdue"


def test_a_start_that_takes_too_long(prepare):
    """A worker that is not ready within `start_timeout` is ended and tried again."""
    cluster = prepare(
        web={"app": "slow:app", "count": 1, "env": {"SLOW": "600"}, "preload": False, "start_timeout": "1s"},
        never={"command": [sys.executable, "notifier.py"], "ready": "notify", "start_timeout": "1s"},
    ).start(ready=False)
    for name in ("web.1", "never.1"):
        first = until(lambda name=name: cluster.answered() and cluster.worker(name)["pid"])
        again = until(lambda name=name, first=first: (pid := cluster.worker(name)["pid"]) != first and pid)
        assert ended(first)
        assert again is None or alive(again) or cluster.worker(name)["restarts"] > 1
        assert until(lambda name=name: cluster.worker(name)["last_exit"])["cause"] == "boot failure"


def test_an_import_that_takes_too_long(prepare):
    """The same for the import of a group that is forked."""
    web = {"app": "slow:app", "count": 1, "env": {"SLOW": "600"}, "start_timeout": "1s"}
    cluster = prepare(web=web).start(ready=False)
    event = until(lambda: cluster.events("release-failed", "release-dropped"))[0]
    assert "start_timeout" in event.get("why", "") + event.get("reason", "")
