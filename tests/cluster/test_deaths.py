"""Workers that die are replaced at once, and what they leave behind is cleared away."""

import http.client
import signal

import pytest

from .cluster import alive, ended, kill, until

MIN_READY = 0.1


@pytest.fixture(scope="module")
def cluster(share):
    return share(web={"app": "shop:app", "count": 2, "min_ready": f"{MIN_READY}s"})


@pytest.fixture(autouse=True)
def calm(cluster):
    """Every test begins with a group that has no past."""
    cluster.bkd("reset", "web")
    until(cluster.is_ready)


def replaced(cluster, name, old):
    """The slot's row as soon as another process than `old` is ready there, else None."""
    row = cluster.worker(name)
    return row if row["state"] == "ready" and row["pid"] != old else None


def ask_to_die(cluster, path):
    """Give one worker a request that it does not survive; its slot and pid."""
    before = {row["pid"]: row["name"] for row in cluster.group("web")["workers"]}
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        cluster.get(path)
    dead = until(lambda: [pid for pid in before if not alive(pid)])
    return before[dead[0]], dead[0]


def end_of(cluster, pid):
    """What was told of the end of a process."""
    return next(event for event in cluster.events("worker-exited") if event["pid"] == pid)


def orphan(cluster, how="/orphan"):
    """Have a worker leave a process behind: its pid, and the worker's."""
    left, _, owner = cluster.get(how).partition(" of ")
    return int(left), int(owner)


def test_twenty_kills_in_a_row(cluster):
    """Each `kill -9` from outside is repaired at once, counted, and never held against the slot."""
    first = cluster.worker("web.1")
    old = first["pid"]
    for _ in range(20):
        kill(old)
        row = until(lambda old=old: replaced(cluster, "web.1", old))
        assert (row["next_try"], row["last_exit"]["cause"]) == (None, "killed from outside")
        assert (row["last_exit"]["pid"], row["last_exit"]["signal"]) == (old, 9)
        old = row["pid"]
    assert row["restarts"] == first["restarts"] + 20
    exits = [event for event in cluster.events("worker-exited") if event["slot"] == "web.1"][-20:]
    assert [event["delay"] for event in exits] == [0.0] * 20


def test_all_workers_at_once(cluster):
    """When every worker is killed in the same moment all come back, and the port never refused a connection."""
    old = cluster.pids("web")
    for pid in old:
        kill(pid)
    assert int(cluster.get("/pid")) not in old
    until(lambda: cluster.is_renewed(*old))


@pytest.mark.parametrize(
    ("path", "code", "number"), [("/leave?3", 3, None), ("/segv", None, int(signal.SIGSEGV)), ("/leave?0", 0, None)]
)
def test_a_crash_is_told_from_a_kill(cluster, path, code, number):
    """A worker that ends by itself has crashed, whatever its exit code; how is in the status and in the events."""
    name, pid = ask_to_die(cluster, path)
    row = until(lambda: replaced(cluster, name, pid))
    last = row["last_exit"]
    assert (last["cause"], last["code"], last["signal"], last["pid"]) == ("crash", code, number, pid)
    event = end_of(cluster, pid)
    assert (event["slot"], event["cause"], event["code"], event["signal"]) == (name, "crash", code, number)


def test_the_first_crash_after_a_healthy_life_costs_no_time(cluster):
    """A worker that has been healthy for `min_ready` has one retry without a delay."""
    until(lambda: all(row["uptime"] > MIN_READY for row in cluster.group("web")["workers"]))
    name, pid = ask_to_die(cluster, "/leave?1")
    until(lambda: replaced(cluster, name, pid))
    assert end_of(cluster, pid)["delay"] == 0.0


@pytest.mark.parametrize("how", ["/orphan", "/fork"])
def test_what_a_dead_worker_leaves_behind_is_ended(cluster, how):
    """A process that a worker has detached from itself does not outlive it, be it a program or a copy of the worker."""
    left = orphan(cluster, how)[0]
    for pid in cluster.pids("web"):
        kill(pid)
    assert ended(left)


def test_the_living_keep_what_they_have_left_behind(cluster):
    """Only the dead worker's leftovers are ended, not its siblings'."""
    before = cluster.pids("web")
    left, owner = orphan(cluster)
    other = next(pid for pid in before if pid != owner)
    kill(other)
    until(lambda: cluster.is_renewed(other))
    until(lambda: [event for event in cluster.events("worker-exited") if event["pid"] == other])
    assert alive(left)


def test_a_dead_zygote_is_replaced(cluster):
    """`kill -9` of the zygote harms no worker, and the next worker's death is repaired all the same."""
    helper = cluster.group("web")["helpers"][0]
    before = cluster.pids("web")
    kill(helper["pid"])
    until(lambda: [new for new in cluster.group("web")["helpers"] if new["pid"] != helper["pid"]])
    assert cluster.pids("web") == before
    kill(before[0])
    until(lambda: replaced(cluster, "web.1", before[0]))


def test_a_worker_that_dies_with_its_zygote_comes_back(cluster):
    """Both at once: a new zygote is loaded and the slot is filled from it."""
    helper, old = cluster.group("web")["helpers"][0]["pid"], cluster.worker("web.1")["pid"]
    kill(helper)
    kill(old)
    until(lambda: replaced(cluster, "web.1", old))
