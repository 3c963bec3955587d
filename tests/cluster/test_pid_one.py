"""bkd as PID 1 of a container: it reaps strangers, ends by SIGTERM, and gives its exit code to whoever waits for it."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from .cluster import kill, until

CONTAINER = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]


@pytest.fixture
def contain(prepare):
    """A cluster whose `bkd start` is PID 1; `cluster.process` is the one that waits for it."""
    if os.getuid() != 0 or subprocess.run([*CONTAINER, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root, and a kernel that makes PID namespaces")
    return lambda **sections: prepare(**sections).start(prefix=CONTAINER, ready=False)


def keeper(cluster):
    """PID 1's pid out here."""
    pid = cluster.process.pid
    return int(until(Path(f"/proc/{pid}/task/{pid}/children").read_text).split()[0])


def inside(cluster):
    """The status once everything is ready; its pids are those of the container."""
    until(cluster.is_ready)
    return cluster.status()


def test_it_is_pid_1_and_stops_by_term(contain):
    """SIGTERM, which the kernel withholds from a PID 1 that does not ask for it, drains and exits 0."""
    cluster = contain(web={"app": "shop:app"})
    assert inside(cluster)["keeper_pid"] == 1
    with cluster.send("/sleep?1") as client:
        until(lambda: "asked" in cluster.said())
        kill(keeper(cluster), signal.SIGTERM)
        assert b"slept" in client.makefile("rb").read()
    assert cluster.exit_code() == 0


def test_output_goes_where_the_container_collects_it(contain):
    """As PID 1 workers write to bkd's own output, not into files."""
    cluster = contain(web={"app": "shop:app"})
    inside(cluster)
    cluster.get("/say?to-the-container")
    until(lambda: "to-the-container" in cluster.said())
    assert list((cluster.run_dir / "log").glob("web*")) == []


def test_strangers_are_reaped_in_silence(contain):
    """A process that nobody knows, left to PID 1 by a program, leaves no zombie and no word in the events, not even
    before the next death that is told."""
    cluster = contain(web={"app": "shop:app", "count": 1})
    inside(cluster)
    left, _, owner = cluster.get("/orphan").partition(" of ")
    worker = cluster.pids("web")[0]
    assert (int(left) > 1, owner) == (True, str(worker))
    stranger = outside(cluster, int(left))
    kill(stranger)
    until(lambda: not Path(f"/proc/{stranger}").exists())
    kill(outside(cluster, worker))
    until(lambda: cluster.is_renewed(worker))
    assert [event["pid"] for event in cluster.events("worker-exited")] == [worker]
    assert [event for event in cluster.events() if event.get("pid") == int(left)] == []


def outside(cluster, pid):
    """The pid out here of one of the cluster's processes, which has this one in its container."""
    return next(found for found in cluster.processes() if namespaced(found) == pid)


def namespaced(pid):
    """The pid that a process has in its own namespace, 0 when it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])
    return 0


def test_a_lost_group_ends_the_container(contain):
    """As PID 1 bkd exits 1 when a group has failed for good, so that whoever runs the container learns of it."""
    cluster = contain(job={"target": "functions:exits_78", "restart": "always"})
    assert cluster.exit_code() == 1


def test_what_had_to_be_killed_is_in_the_exit_code(contain):
    """Exit code 3 of PID 1: something did not end in time."""
    cluster = contain(job={"target": "functions:ignores_everything", "drain": "200ms", "term": "200ms"})
    inside(cluster)
    kill(keeper(cluster), signal.SIGTERM)
    assert cluster.exit_code() == 3
