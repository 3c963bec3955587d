"""The end: work in progress is finished, nothing is left behind, and the exit code says how it went."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from .cluster import PATIENCE, alive, cpu_seconds, ended, kill, title, until

STUBBORN = {"command": [sys.executable, "stubborn.py"], "ready": "log:pid", "drain": "300ms", "term": "300ms"}
CTRL_C = b"\x03"
SPUN = 0.1  # seconds of CPU that nothing but an endless loop takes here


def stop_by_command(cluster):
    assert cluster.stop().returncode == 0


def stop_by_term(cluster):
    kill(cluster.process.pid, signal.SIGTERM)


def stop_by_int(cluster):
    kill(cluster.process.pid, signal.SIGINT)


def was_asked(cluster):
    """Whether a worker has begun with the request."""
    return "asked" in cluster.log("web.1") + cluster.log("web.2")


def family(cluster, name, size=4):
    """All pids that the stubborn program of a slot has printed."""
    until(lambda: cluster.log(name).count("pid") == size)
    return [int(word) for word in cluster.log(name).split() if word != "pid"]


@pytest.mark.parametrize(
    ("app", "stop", "seconds"),
    [
        ("shop:app", stop_by_command, 3),
        ("shop:app", stop_by_term, 1),
        ("shop:app", stop_by_int, 1),
        ("wsgi:app", stop_by_command, 1),
    ],
)
def test_a_request_in_flight_is_answered(launch, app, stop, seconds):
    """However a stop is asked for: a request in flight is answered in full, and the exit code is 0."""
    cluster = launch(web={"app": app})
    with cluster.send(f"/sleep?{seconds}") as client:
        until(lambda: was_asked(cluster))
        stop(cluster)
        assert b"slept" in client.makefile("rb").read()
    assert cluster.exit_code() == 0
    until(cluster.is_gone)


def test_a_request_that_does_not_end_is_cut_off(launch):
    """After `drain` a worker gets SIGTERM, which ends it in order: exit code 0 still, since nothing was killed."""
    cluster = launch(web={"app": "shop:app", "drain": "500ms", "term": "5s"})
    with cluster.send("/sleep?600"):
        until(lambda: was_asked(cluster))
        assert cluster.stop().returncode == 0
    until(cluster.is_gone)


def test_a_hung_worker_does_not_outlast_the_stop(launch):
    """A worker whose loop does not turn is killed when its time is over: `bkd stop` names it and exits 3."""
    cluster = launch(web={"app": "shop:app", "count": 1, "drain": "300ms", "term": "300ms"})
    pid = cluster.worker("web.1")["pid"]
    before = cpu_seconds(pid)
    with cluster.send("/spin"):
        until(lambda: cpu_seconds(pid) > before + SPUN)
        result = cluster.stop()
    assert (result.returncode, f"web.1 (pid {pid})" in result.stderr) == (3, True)
    assert cluster.exit_code() == 3
    until(cluster.is_gone)


def test_nothing_of_a_stubborn_program_is_left(launch):
    """A program that ignores SIGTERM, its children and what fled into a session of its own are all gone at the
    deadline; `bkd stop` and `bkd start` exit 3, and stderr names what had to be killed."""
    cluster = launch(tree=STUBBORN)
    pids = family(cluster, "tree.1")
    result = cluster.stop()
    assert result.returncode == 3
    assert "tree.1" in result.stderr
    assert [pid for pid in pids if alive(pid)] == []
    assert cluster.exit_code() == 3
    until(cluster.is_gone)


def test_a_stop_takes_no_longer_than_the_slowest(launch):
    """Groups are stopped side by side, each within its own `drain` + `term`."""
    slow = STUBBORN | {"drain": "1s", "term": "500ms"}
    cluster = launch(a=slow, b=slow, ticker={"target": "functions:ticker"})
    assert cluster.stop().returncode == 3
    ends = {event["slot"]: event["mono"] for event in cluster.events("worker-exited")}
    assert abs(ends["a.1"] - ends["b.1"]) < 1.0  # one after the other it would be 1.5 s and more
    assert ends["ticker.1"] < min(ends["a.1"], ends["b.1"])


def test_a_program_gets_its_own_stop_signal(launch):
    """`stop_signal` is what a program is asked with; a program that ends by it in time was not killed."""
    code = "import signal; print('up', flush=True); print('got', signal.sigwait([signal.SIGUSR2]), flush=True)"
    blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); {code}"
    job = {"command": [sys.executable, "-c", blocked], "ready": "log:up", "stop_signal": "USR2"}
    cluster = launch(job=job)
    assert cluster.stop().returncode == 0
    assert f"got {signal.SIGUSR2:d}" in cluster.log("job.1").replace("Signals.", "").replace("SIGUSR2", "12")


def test_ctrl_c_twice(prepare):
    """On a terminal the first Ctrl-C drains and says so, the second one kills at once; workers never see either."""
    cluster = prepare(tree={**STUBBORN, "drain": "60s"}, web={"app": "shop:app", "drain": "60s"})
    terminal, theirs = pty.openpty()
    attach = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    options = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "prefix": [sys.executable, "-c", attach]}
    cluster.start(ready=False, **options)
    os.close(theirs)
    try:
        until(cluster.is_ready, 40.0)
        pids = family(cluster, "tree.1")
        with cluster.send("/sleep?600"):
            until(lambda: was_asked(cluster))
            os.write(terminal, CTRL_C)
            shown(terminal, b"Ctrl-C again kills at once")
            until(lambda: {row["state"] for row in cluster.group("web")["workers"]} >= {"draining"})
            assert alive(pids[0])
            os.write(terminal, CTRL_C)
            assert cluster.exit_code() == 3
        assert [pid for pid in pids if alive(pid)] == []
    finally:
        os.close(terminal)
    until(cluster.is_gone)


def shown(terminal, words):
    """What the terminal showed until these words."""
    data, deadline = b"", time.monotonic() + PATIENCE
    while words not in data:
        assert select.select([terminal], [], [], deadline - time.monotonic())[0], data
        data += os.read(terminal, 65536)
    return data


def test_two_stops_at_once(launch):
    """Whoever asks for a stop that is under way waits for the same end, and gets the same exit code."""
    cluster = launch(tree={**STUBBORN, "drain": "3s"})
    stops = [cluster.popen("stop") for _ in range(2)]
    assert [stop.wait(PATIENCE) for stop in stops] == [3, 3]


def test_a_stop_while_it_starts_in_the_background(prepare):
    """`bkd start -d` that is stopped from elsewhere before all is ready exits 1 and says so."""
    cluster = prepare(job={"target": "functions:notifying", "ready": "notify"})
    starting = cluster.popen("start", "-d", stderr=subprocess.PIPE, text=True)
    until(lambda: starting.poll() is not None or (cluster.answered() and cluster.worker("job.1")["pid"]))
    assert cluster.stop().returncode in (0, 3)
    _, said = starting.communicate(timeout=PATIENCE)
    assert (starting.returncode, "stopped before everything was ready" in said) == (1, True), said
    until(cluster.is_gone)


def test_term_while_starting(prepare):
    """A stop does not wait for a start: SIGTERM during a long import ends the cluster soon."""
    cluster = prepare(web={"app": "slow:app", "env": {"SLOW": "600"}}).start(ready=False)
    until(lambda: cluster.events("release-loading"))
    kill(cluster.process.pid, signal.SIGTERM)
    assert cluster.exit_code() in (0, 3)
    until(cluster.is_gone)


def test_a_killed_keeper(launch):
    """`kill -9` of the keeper is no way to lose track: the master drains everything and goes."""
    cluster = launch(web={"app": "shop:app"}, ticker={"target": "functions:ticker"})
    workers = cluster.pids("web") + cluster.pids("ticker")
    with cluster.send("/sleep?1") as client:
        until(lambda: was_asked(cluster))
        kill(cluster.process.pid)
        assert b"slept" in client.makefile("rb").read()
    assert all(ended(pid) for pid in workers)
    until(lambda: not cluster.processes())
    assert cluster.bkd("status").returncode == 4
    assert any("keeper" in event["why"] for event in cluster.events("stop-asked"))
    until(cluster.is_gone)


def test_keeper_and_master_killed_together(launch):
    """With nobody left to serve for, workers serve on for `orphan_timeout`, then drain and go by themselves."""
    cluster = launch(app={"orphan_timeout": "3s"}, web={"app": "shop:app"}, ticker={"target": "functions:ticker"})
    keeper, master = cluster.process.pid, cluster.status()["master_pid"]
    kill(keeper, signal.SIGSTOP)
    for pid in (master, keeper):
        kill(pid)
    assert cluster.serves()
    until(lambda: not cluster.processes())
    assert cluster.bkd("status").returncode == 4


def test_a_new_start_after_a_killed_keeper(launch):
    """What a keeper that was killed left on disk does not stand in the way of the next start."""
    cluster = launch(web={"app": "shop:app"})
    kill(cluster.process.pid)
    until(lambda: not cluster.processes())
    cluster.start()
    assert cluster.serves()
    assert title(cluster.process.pid)
