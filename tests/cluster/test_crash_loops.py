"""Workers that cannot stay up: delays, names for what goes wrong, and an end where an end makes sense."""

import sys

from .cluster import cpu_seconds, until

PROBE = 2.0
COSTS = 0.02


def slot(cluster, name):
    """A slot's row, None until there is one."""
    return cluster.worker(name) if cluster.answered() else None


def settled(cluster, name, state):
    """The slot's row once it is in this state."""
    return until(lambda: (row := slot(cluster, name)) and row["state"] == state and row, 40.0)


def test_a_worker_that_exits_at_once_is_tried_ever_more_rarely(prepare, watch):
    """Delays grow, status says `backoff` and when the next try is, and the master has nearly nothing to do."""
    cluster = prepare(job={"target": "functions:exits_1", "restart": "always"}).start(ready=False)
    until(lambda: (row := slot(cluster, "job.1")) and row["restarts"] >= 6, 40.0)
    waits = [event["delay"] for event in cluster.events("worker-exited")]
    assert sum(waits[:2]) < sum(waits[2:6]), waits
    row = until(lambda: (row := slot(cluster, "job.1"))["state"] == "backoff" and row["next_try"] > 0 and row)
    assert row["next_try"] <= 30
    assert row["pid"] is None
    assert row["last_exit"]["code"] == 1
    master = cluster.status()["master_pid"]
    assert min(costs(master, watch) for _ in range(3)) < COSTS * PROBE


def costs(master, watch):
    """CPU seconds used in one probe; on a busy machine some of it was others'."""
    before = cpu_seconds(master)
    watch(PROBE)
    return cpu_seconds(master) - before


def test_a_slow_crash_loop_is_named(prepare):
    """A worker that lives for a second each time looks healthy; the events and the status say that it is not."""
    cluster = prepare(job={"target": "functions:lives_shortly", "restart": "always", "min_ready": "200ms"})
    cluster.start(ready=False)
    event = until(lambda: cluster.events("crash-loop"), 40.0)[0]
    assert (event["slot"], event["deaths"] >= 3) == ("job.1", True)
    assert cluster.group("job")["reason"] == "crash loop: job.1"
    assert "job.1 is in a crash loop" in cluster.bkd("events").stdout


def test_exit_code_78_is_final_until_reset(prepare):
    """Exit code 78 says "my configuration is wrong": the slot is `failed` at once; `bkd reset` tries it again."""
    cluster = prepare(job={"target": "functions:exits_78", "restart": "always"}).start(ready=False)
    row = settled(cluster, "job.1", "failed")
    assert (row["pid"], row["restarts"], row["next_try"]) == (None, 1, None)
    assert cluster.bkd("reset", "job.1").returncode == 0
    until(lambda: cluster.worker("job.1")["restarts"] == 2)
    assert settled(cluster, "job.1", "failed")["last_exit"]["code"] == 78


def test_max_restarts_is_final_until_reset(prepare):
    """After `max_restarts` deaths of its own making a slot is `failed`, and the events say what to do."""
    cluster = prepare(job={"target": "functions:exits_1", "restart": "always", "max_restarts": 3}).start(ready=False)
    row = settled(cluster, "job.1", "failed")
    assert row["restarts"] == 3
    assert "bkd reset job.1" in cluster.bkd("events").stdout
    assert cluster.bkd("reset", "job").returncode == 0
    until(lambda: cluster.worker("job.1")["restarts"] == 6 and cluster.worker("job.1")["state"] == "failed")


def test_kills_from_outside_do_not_count_as_restarts_of_its_own(prepare):
    """`max_restarts` is about faults of the application, not about an operator's `kill -9`."""
    cluster = prepare(job={"target": "functions:ticker", "restart": "always", "max_restarts": 2}).start()
    for _ in range(3):
        old = cluster.worker("job.1")["pid"]
        cluster.bkd("signal", "job.1", "KILL")
        until(lambda old=old: cluster.is_renewed(old))


def test_restart_never(prepare):
    """With `restart = "never"` a worker that ended well is `done`, one that did not is `failed`; neither comes back."""
    cluster = prepare(
        good={"target": "functions:exits_0", "restart": "never"},
        bad={"target": "functions:exits_1", "restart": "never"},
    ).start(ready=False)
    assert settled(cluster, "good.1", "done")["last_exit"]["code"] == 0
    assert settled(cluster, "bad.1", "failed")["last_exit"]["code"] == 1
    assert len(cluster.events("worker-started")) == 2


def test_restart_on_failure(prepare):
    """With `restart = "failure"` a worker that ended well is `done`, one that did not is tried again."""
    cluster = prepare(
        good={"command": [sys.executable, "-c", ""], "restart": "failure", "ready": "after:10s"},
        bad={"command": [sys.executable, "-c", "raise SystemExit(4)"], "restart": "failure", "ready": "after:10s"},
    ).start(ready=False)
    assert settled(cluster, "good.1", "done")["last_exit"]["code"] == 0
    assert until(lambda: (row := cluster.worker("bad.1"))["restarts"] >= 2 and row)["last_exit"]["code"] == 4


def test_the_breaker_opens_and_closes(prepare):
    """When much of a group dies within a minute one slot at a time is tried; it closes when one stays healthy."""
    group = {"target": "functions:dies_while_told", "restart": "always", "count": 3, "min_ready": "500ms"}
    cluster = prepare(job=group).start()
    (cluster.folder / "die").touch()
    opened = until(lambda: cluster.events("breaker-opened"))
    assert opened[0]["group"] == "job"
    until(lambda: cluster.group("job")["breaker"] == "open")
    assert "breaker is open" in cluster.group("job")["reason"]
    (cluster.folder / "die").unlink()
    until(lambda: cluster.events("breaker-closed"), 40.0)
    until(cluster.is_ready, 40.0)
    assert cluster.group("job")["breaker"] == "closed"


def test_a_program_that_is_not_there(prepare):
    """A command that cannot be run is told by name and tried again later; its neighbours do not suffer."""
    cluster = prepare(
        nothing={"command": ["no-such-program-anywhere"], "restart": "always"},
        nap={"command": ["sleep", "600"], "ready": "after:100ms"},
    ).start(ready=False)
    settled(cluster, "nap.1", "ready")
    failed = until(lambda: cluster.events("worker-exited"))[0]
    assert "no-such-program-anywhere" in failed["reason"]
    until(lambda: (row := slot(cluster, "nothing.1"))["state"] == "backoff" and row["next_try"] > 0)


def test_exit_when_failed(prepare):
    """With `exit_when = "failed"` the whole cluster ends with exit code 1 when a group is lost."""
    cluster = prepare(app={"exit_when": "failed"}, job={"target": "functions:exits_78", "restart": "always"})
    cluster.start(ready=False)
    assert cluster.exit_code() == 1
    until(cluster.is_gone)
