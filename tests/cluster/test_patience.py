"""Workers that look dead and are not: none of them is killed."""

import os
import signal
import subprocess
import sys

import pytest

from .cluster import Traffic, alive, kill, until

PING = {"interval": "1s", "kill": "2s"}
LONGER = 2.5  # than `kill`, and shorter than twice that, which those have who get no CPU


@pytest.fixture(scope="module")
def cluster(share):
    return share(web={"app": "shop:app", "count": 2}, ping=PING)


@pytest.fixture(autouse=True)
def unharmed(cluster):
    """After every test the same workers are there, and nobody was said to hang."""
    before = cluster.pids("web")
    yield before
    assert (cluster.pids("web"), cluster.events("worker-hung")) == (before, [])


def test_nobody_pays_for_a_master_that_was_stopped(cluster, watch):
    """A master that stood still for longer than `ping.kill` judges nobody for it, and says so; requests are answered.
    Workers with nothing else to do are not even reported."""
    master, told = cluster.status()["master_pid"], len(cluster.events("overslept"))
    with Traffic(cluster) as traffic:
        kill(master, signal.SIGSTOP)
        watch(LONGER)
        kill(master, signal.SIGCONT)
        until(lambda: len(cluster.events("overslept")) > told)
        watch(LONGER / 2)
    assert traffic.failed == []
    assert cluster.status()["master_pid"] == master
    assert cluster.events("worker-late") == []


def test_nobody_pays_for_a_host_that_slept(cluster, watch):
    """The same when everything stood still together, as when a laptop is closed."""
    everything, told = cluster.processes(), len(cluster.events("overslept"))
    for pid in everything:
        kill(pid, signal.SIGSTOP)
    watch(LONGER)
    for pid in everything:
        kill(pid, signal.SIGCONT)
    until(lambda: len(cluster.events("overslept")) > told)
    watch(LONGER / 2)


def test_the_starved(cluster, unharmed, watch):
    """A worker that gets no CPU because others take it is not at fault."""
    everywhere, home = os.sched_getaffinity(0), {min(os.sched_getaffinity(0))}
    spinner = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        os.sched_setaffinity(spinner.pid, home)
        schedule(unharmed[0], os.SCHED_IDLE, home)
        watch(LONGER)
    finally:
        schedule(unharmed[0], os.SCHED_OTHER, everywhere)
        spinner.kill()
        spinner.wait()


def schedule(pid, policy, cpus):
    """Have all threads of a process run under this policy, on these CPUs."""
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), cpus)
        os.sched_setscheduler(int(task), policy, os.sched_param(0))


def test_the_held(cluster, unharmed, watch):
    """A slot that an operator holds may stand still for as long as a debugger needs."""
    assert cluster.bkd("hold", "web.1").returncode == 0
    kill(unharmed[0], signal.SIGSTOP)
    watch(LONGER)
    assert cluster.worker("web.1")["state"] == "held"
    assert alive(unharmed[0])
    kill(unharmed[0], signal.SIGCONT)
    assert cluster.bkd("unhold", "web.1").returncode == 0
    until(lambda: cluster.worker("web.1")["state"] == "ready")
    watch(LONGER / 2)


def test_an_import_of_several_seconds(launch):
    """Booting has a limit of its own: heartbeats do not count, whether the zygote imports or the worker itself."""
    slow = {"app": "slow:app", "count": 1, "env": {"SLOW": "4"}, "bind": ["127.0.0.1:0"]}
    cluster = launch(forked={**slow}, executed={**slow, "preload": False}, ping=PING)
    assert [event["cause"] for event in cluster.events("worker-exited")] == []
    assert len(cluster.events("worker-started")) == 2


def test_never_means_never(launch, watch):
    """With `ping.kill = "0s"` a worker without progress is reported and left alone."""
    cluster = launch(web={"app": "shop:app", "count": 1, "term": "1s"}, ping={"interval": "500ms", "kill": "0s"})
    pid = cluster.worker("web.1")["pid"]
    with cluster.send("/block?3600"):
        until(lambda: cluster.events("worker-late"))
        watch(LONGER)
        until(lambda: cluster.worker("web.1")["verdict"] == "stuck")
        assert cluster.pids("web") == [pid]


@pytest.mark.parametrize("app", ["shop:app", "wsgi:app"])
def test_a_request_may_take_its_time(launch, app):
    """A handler that waits without blocking the loop is not a hang, however old its request; a thread of a WSGI
    application may block for as long as it likes."""
    cluster = launch(web={"app": app, "count": 1}, ping={"interval": "1s", "kill": "1s"})
    with cluster.send("/sleep?3") as client:
        assert b"slept" in client.makefile("rb").read()
    assert cluster.events("worker-late", "worker-hung") == []
