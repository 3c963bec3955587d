"""`kill -9` of the master drops nothing: the keeper starts another one, and that one takes over what there is."""

import json
import signal
import sys
import time

import pytest

from .cluster import Traffic, alive, ended, kill, until
from .test_hard_times import stopped


def replace_master(cluster):
    """Kill the master; the status of the next one."""
    first = cluster.status()["master_pid"]
    kill(first)
    return until(lambda: (status := cluster.answered()) and status["master_pid"] != first and status)


@pytest.fixture
def cluster(launch):
    return launch(
        web={"app": "shop:app", "min_ready": "100ms"},
        nap={"command": ["sleep", "600"], "ready": "after:100ms", "restart": "always"},
        ticker={"target": "functions:ticker", "restart": "always"},
    )


def workers(cluster):
    return [pid for group in ("web", "nap", "ticker") for pid in cluster.pids(group)]


def test_the_workers_stay(cluster):
    """Same pids, a request in flight is answered, and the new master learns how each of them ends."""
    before = workers(cluster)
    with cluster.send("/sleep?2") as client:
        until(lambda: "asked" in cluster.log("web.1") + cluster.log("web.2"))
        assert replace_master(cluster)["keeper_pid"] == cluster.process.pid
        until(cluster.is_ready)
        assert workers(cluster) == before
        assert b"slept" in client.makefile("rb").read()
    for name in ("web.1", "nap.1", "ticker.1"):
        pid = cluster.worker(name)["pid"]
        kill(pid)
        end = until(lambda name=name, pid=pid: (end := cluster.worker(name)["last_exit"]) and end["pid"] == pid and end)
        assert (end["signal"], end["cause"]) == (9, "killed from outside")
    until(cluster.is_ready)
    assert cluster.get("/pid")
    assert cluster.stop().returncode == 0
    until(cluster.is_gone)


def test_no_request_is_lost(cluster):
    """Whoever asks while the master is killed and replaced does not notice."""
    with Traffic(cluster) as traffic:
        replace_master(cluster)
        until(cluster.is_ready)
        until(lambda: traffic.served > 10)
    assert traffic.failed == []


def test_everything_dies_but_the_keeper(cluster):
    """Master, zygotes and workers killed together: all of it comes back, and nobody is charged for it."""
    before = workers(cluster)
    status = cluster.status()
    helpers = [helper["pid"] for group in status["groups"] for helper in group["helpers"]]
    for pid in (status["master_pid"], *helpers, *before):
        kill(pid)
    until(lambda: (now := cluster.answered()) and now["master_pid"] != status["master_pid"])
    until(lambda: cluster.is_renewed(*before), 40.0)
    assert cluster.get("/pid")
    assert {event["cause"] for event in cluster.events("worker-exited")} == {"killed from outside"}
    assert cluster.events("breaker-opened") == []


def test_again_and_again(cluster):
    """Three more masters in a row, the workers being the same; every epoch is in the events."""
    before = workers(cluster)
    for _ in range(3):
        replace_master(cluster)
        until(cluster.is_ready)
    assert workers(cluster) == before
    assert [event["epoch"] for event in cluster.events("master-started")] == [1, 2, 3, 4]


def test_commands_wait_for_the_next_master(cluster):
    """A command that is given while no master is there is answered by the next one."""
    kill(cluster.status()["master_pid"])
    assert cluster.bkd("status").returncode == 0


def test_a_worker_that_dies_meanwhile(cluster):
    """Whoever ends while no master is there is replaced by the next one, which knows how it ended."""
    for name in ("web.1", "nap.1", "ticker.1"):
        status = cluster.status()
        pid = cluster.worker(name)["pid"]
        kill(status["master_pid"])
        kill(pid)
        until(lambda status=status: (now := cluster.answered()) and now["master_pid"] != status["master_pid"])
        until(lambda pid=pid: cluster.is_renewed(pid))
        end = cluster.worker(name)["last_exit"]
        assert (end["pid"], end["signal"], end["cause"]) == (pid, 9, "killed from outside")


def test_a_worker_that_dies_while_the_next_master_looks_around(cluster, watch):
    """The keeper says how it ended, however late it does so."""
    replace_master(cluster)
    pid = cluster.pids("web")[0]
    with stopped(cluster.process.pid):
        kill(pid)
        assert ended(pid)
        watch(0.5)
    end = until(lambda: (end := cluster.worker("web.1")["last_exit"]) and end["pid"] == pid and end)
    assert (end["signal"], end["cause"]) == (9, "killed from outside")


def test_what_an_operator_has_asked_for_stays(cluster):
    """Counts and held slots are kept over the death of a master."""
    assert cluster.bkd("scale", "web=3", "ticker=0").returncode == 0
    assert cluster.bkd("hold", "nap.1").returncode == 0
    until(lambda: cluster.group("web")["ready"] == 3 and cluster.group("ticker")["workers"] == [])
    web, nap = cluster.pids("web"), cluster.worker("nap.1")["pid"]
    replace_master(cluster)
    until(lambda: cluster.group("web")["ready"] == 3)
    assert cluster.pids("web") == web
    assert (cluster.group("ticker")["count"], cluster.worker("nap.1")["state"]) == (0, "held")
    assert cluster.worker("nap.1")["pid"] == nap


def test_a_failed_slot_stays_failed(prepare):
    """What was given up is not tried again by a new master; `bkd reset` does that."""
    cluster = prepare(job={"target": "functions:exits_78", "restart": "always"}).start(ready=False)
    until(lambda: cluster.answered() and cluster.worker("job.1")["state"] == "failed", 40.0)
    replace_master(cluster)
    until(lambda: cluster.worker("job.1")["state"] == "failed")
    assert len(cluster.events("worker-started")) == 1


def test_a_zygote_that_dies_with_the_master(cluster):
    """With master and zygote gone together the next master loads the release again, and forks from it."""
    before = workers(cluster)
    zygote = cluster.group("web")["helpers"][0]["pid"]
    kill(zygote)
    replace_master(cluster)
    until(cluster.is_ready)
    assert workers(cluster) == before
    kill(before[0])
    until(lambda: cluster.is_renewed(before[0]), 40.0)


def test_a_hung_worker_is_found_by_the_next_master(launch):
    """A worker that hangs over the change of masters is replaced all the same."""
    cluster = launch(web={"app": "shop:app", "count": 1, "term": "500ms"}, ping={"interval": "1s", "kill": "1s"})
    old = cluster.worker("web.1")["pid"]
    with cluster.send("/spin"):
        replace_master(cluster)
        assert ended(old)
    until(lambda: cluster.is_renewed(old))


def test_a_stop_that_lost_its_master(launch):
    """A master that dies in the middle of a stop does not keep the cluster from being stopped, nor `bkd stop` from
    telling what had to be killed."""
    stubborn = {"command": [sys.executable, "stubborn.py"], "ready": "log:pid", "drain": "2s", "term": "300ms"}
    cluster = launch(tree=stubborn)
    pid = cluster.worker("tree.1")["pid"]
    stop = cluster.popen("stop")
    until(lambda: cluster.worker("tree.1")["state"] == "draining")
    kill(cluster.status()["master_pid"])
    assert stop.wait(40) == 3
    until(cluster.is_gone)
    assert not alive(pid)


def test_a_stop_right_behind_the_death(cluster):
    """Master killed and TERM to the keeper at once: the request in flight is answered, everybody drains, exit 0."""
    with cluster.send("/sleep?2") as client:
        until(lambda: "asked" in cluster.log("web.1") + cluster.log("web.2"))
        kill(cluster.status()["master_pid"])
        kill(cluster.process.pid, signal.SIGTERM)
        assert b"slept" in client.makefile("rb").read()
    assert cluster.exit_code() == 0
    until(cluster.is_gone)


def test_a_signal_without_a_master_counts_once(cluster):
    """TERM while no master is there is one TERM for the next one: it drains, and kills nobody."""
    master = cluster.status()["master_pid"]
    kill(cluster.process.pid, signal.SIGSTOP)
    kill(master)
    kill(cluster.process.pid, signal.SIGTERM)
    kill(cluster.process.pid, signal.SIGCONT)
    assert cluster.exit_code() == 0
    until(cluster.is_gone)


def test_nobody_is_judged_by_what_the_last_master_saw_long_ago(launch):
    """The state on the disk is as old as the last turn; heartbeats since then are in no file."""
    cluster = launch(ping={"interval": "1s", "kill": "1500ms"}, web={"app": "shop:app", "min_ready": "100ms"})
    state = cluster.run_dir / "state"
    until(lambda: time.time() - state.stat().st_mtime > 3.0)
    before = cluster.pids("web")
    replace_master(cluster)
    until(lambda: all((worker["ping_age"] or 9.0) < 1.0 for worker in cluster.group("web")["workers"]))
    assert cluster.pids("web") == before
    assert cluster.events("worker-hung", "worker-late") == []


def test_the_next_master_does_not_need_the_file(launch):
    """It may be half edited just then: what is in force stands in the state."""
    cluster = launch(web={"app": "shop:app", "min_ready": "100ms"})
    before = cluster.pids("web")
    cluster.file.write_text(cluster.file.read_text() + "half = \n")
    first = cluster.status()["master_pid"]
    kill(first)
    there = ("--socket", str(cluster.run_dir / "control.sock"))
    until(lambda: json.loads(cluster.bkd("status", "--json", *there).stdout or "{}").get("master_pid", first) != first)
    groups = json.loads(cluster.bkd("status", "--json", *there).stdout)["groups"]
    assert [worker["pid"] for worker in groups[0]["workers"]] == before
    assert cluster.bkd("stop", *there).returncode == 0
