"""What an operator does with a running cluster, and what the operator sees."""

import json
import os
import signal
import subprocess
import time

import pytest

from .cluster import CLEAN_ENVIRONMENT, PATIENCE, Traffic, alive, cpu_seconds, ended, kill, title, until


@pytest.fixture(scope="module")
def cluster(share):
    return share(web={"app": "shop:app", "count": 2, "min_ready": "100ms"}, ticker={"target": "functions:ticker"})


@pytest.fixture(autouse=True)
def calm(cluster):
    """Every test begins with what the configuration asks for."""
    cluster.bkd("unhold", "web")
    cluster.bkd("scale", "web=2", "ticker=1")
    cluster.bkd("reset", "web")
    until(cluster.is_ready)


def lines_of(process, wanted):
    """What a command that follows has printed, as soon as `wanted` lines are there."""
    return [process.stdout.readline() for _ in range(wanted)]


def scaled(cluster, *changes):
    result = cluster.bkd("scale", *changes)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_status_as_a_document(cluster):
    """`bkd status --json` has every field the documentation promises."""
    status = json.loads(cluster.bkd("status", "--json").stdout)
    top = "app tag host version state keeper_pid master_pid uptime bus groups"
    group = "name kind count ready release bind roll breaker helpers reason workers"
    worker = "name pid state release uptime restarts ping_age verdict rss cpu in_flight lag next_try last_exit"
    assert set(status) >= set(top.split())
    assert all(set(row) >= set(group.split()) for row in status["groups"])
    assert all(set(row) >= set(worker.split()) for part in status["groups"] for row in part["workers"])
    assert (status["app"], status["state"], status["keeper_pid"]) == ("shop", "running", cluster.process.pid)
    assert status["groups"][0]["bind"] == [f"127.0.0.1:{cluster.port}"]
    helper = status["groups"][0]["helpers"][0]
    assert (helper["role"], helper["state"], alive(helper["pid"])) == ("zygote", "ready", True)
    until(lambda: is_well(cluster.worker("web.1")))


def is_well(row):
    """Whether a heartbeat has come of late, and what it told is good."""
    beats = row["rss"] and row["verdict"] == "ok"
    return beats and row["rss"] > 1 << 20 and row["ping_age"] < 5 and row["lag"] < 1


def test_status_for_people(cluster):
    """`bkd status` shows every slot with its pid, in lines that begin with their names."""
    shown = cluster.bkd("status").stdout
    for name in ("web.1", "web.2", "ticker.1"):
        row = next(line for line in shown.splitlines() if line.split()[:1] == [name])
        assert str(cluster.worker(name)["pid"]) in row and "ready" in row


def test_status_again_and_again(cluster):
    """`bkd status --watch` goes on, and Ctrl-C ends it."""
    watching = cluster.popen("status", "--watch", stdout=subprocess.PIPE, text=True)
    until(lambda: watching.stdout.readline().startswith("shop running"))
    until(lambda: watching.stdout.readline().startswith("shop running"))
    watching.send_signal(signal.SIGINT)
    assert watching.wait(PATIENCE) in (0, 130)


def test_the_cluster_is_found(cluster, tmp_path):
    """From anywhere: by `-c`, by `$BKD_CONFIG`, by `--socket`."""
    socket, elsewhere = str(cluster.run_dir / "control.sock"), {"cwd": tmp_path}
    assert cluster.bkd("status", **elsewhere).returncode == 2
    assert cluster.bkd("status", "-c", str(cluster.file), **elsewhere).returncode == 0
    assert cluster.bkd("status", "--socket", socket, **elsewhere).returncode == 0
    named = {"env": {**CLEAN_ENVIRONMENT, "BKD_CONFIG": str(cluster.file)}}
    for command in (["status"], ["events"], ["logs"], ["reset", "web"]):
        assert cluster.bkd(*command, **named, **elsewhere).returncode == 0, command


def test_titles_say_who_is_who(cluster):
    """`ps` shows application, slot, release and state of every process."""
    status = cluster.status()
    assert title(status["master_pid"]) == "bkd: shop master"
    until(lambda: title(cluster.worker("web.1")["pid"]) == "bkd: shop web.1 r1 ready")
    until(lambda: title(cluster.worker("ticker.1")["pid"]) == "bkd: shop ticker.1 r1 ready")
    assert title(cluster.group("web")["helpers"][0]["pid"]).startswith("bkd: shop web zygote r1")
    assert "bkd" in title(status["keeper_pid"])


def test_scaling_up_and_down(cluster):
    """More slots are added at the end, fewer are drained from the end; those that stay keep their processes."""
    first = cluster.pids("web")
    assert "web: 2 -> 4" in scaled(cluster, "web=4")
    until(cluster.is_ready)
    assert cluster.pids("web")[:2] == first
    scaled(cluster, "web=-3")
    until(lambda: cluster.pids("web") == first[:1])
    assert ended(first[1])
    assert cluster.serves()
    scaled(cluster, "web=+1")
    until(lambda: len(cluster.pids("web")) == 2 and cluster.is_ready())
    assert cluster.pids("web")[0] == first[0]


def test_scaling_to_nothing_and_back(cluster):
    """With no worker left connections wait in the queue, and are answered when there are workers again."""
    old = cluster.pids("web")
    scaled(cluster, "web=0", "ticker=0")
    assert all(ended(pid) for pid in old)
    until(lambda: cluster.group("web")["workers"] == [])
    with cluster.send("/pid") as client:
        scaled(cluster, "web=1")
        assert client.makefile("rb").read().endswith(str(until(lambda: cluster.pids("web")[0])).encode())


def test_a_slot_that_is_scaled_away_finishes_its_request(cluster):
    """Scaling down drains: a request in flight is answered."""
    asked = times_asked(cluster)
    with cluster.send("/sleep?1") as client:
        until(lambda: times_asked(cluster) > asked)
        scaled(cluster, "web=0")
        assert b"slept" in client.makefile("rb").read()


def times_asked(cluster):
    """How many requests for `/sleep` workers have begun with."""
    return sum(cluster.log(f"web.{number}").count("asked") for number in (1, 2))


def test_scaling_loses_no_request(cluster):
    """While slots come and go every request is answered."""
    with Traffic(cluster) as traffic:
        for count in (4, 1, 3, 1, 2):
            scaled(cluster, f"web={count}")
            until(lambda count=count: len(cluster.pids("web")) == count and cluster.is_ready())
    assert (traffic.failed, traffic.served > 20) == ([], True)


def test_faults_in_one_change_change_nothing(cluster):
    """`bkd scale` with one wrong group among right ones does nothing at all."""
    result = cluster.bkd("scale", "web=5", "nothing=1")
    assert (result.returncode, cluster.group("web")["count"]) == (2, 2)


def test_hold_and_unhold(cluster):
    """A held slot is not replaced when its process ends; given back it is."""
    pid = cluster.worker("web.2")["pid"]
    assert cluster.bkd("hold", "web.2").returncode == 0
    assert cluster.worker("web.2")["state"] == "held"
    kill(pid)
    until(lambda: cluster.worker("web.2")["pid"] is None)
    assert cluster.group("web")["ready"] == 1
    assert cluster.bkd("unhold", "web.2").returncode == 0
    until(lambda: cluster.worker("web.2")["state"] == "ready")


def test_signals(cluster):
    """`bkd signal` reaches one slot or all of a group, by any name of the signal, and an end by it is planned."""
    pid = cluster.worker("ticker.1")["pid"]
    result = cluster.bkd("signal", "ticker", "KILL")
    assert (result.returncode, f"pid {pid}" in result.stdout) == (0, True)
    until(lambda: (row := cluster.worker("ticker.1"))["pid"] not in (pid, None) and row["state"] == "ready")
    assert cluster.worker("ticker.1")["last_exit"]["cause"] == "planned"
    for name in ("CONT", "SIGCONT", "18"):
        assert cluster.bkd("signal", "web.1", name).returncode == 0


def test_logs(cluster):
    """`bkd logs` shows the last lines of the slots that are named, each with its slot before it."""
    for number in range(5):
        cluster.get(f"/say?line-{number}")
    shown = until(lambda: (text := cluster.bkd("logs", "web").stdout).count("line-") == 5 and text)
    assert all(line.startswith("web.") for line in shown.splitlines())
    one = cluster.bkd("logs", "-n", "1", "web", "ticker.1").stdout.splitlines()
    assert len([line for line in one if line.startswith("ticker.1")]) == 1
    assert len([line for line in one if line.startswith("web.")]) <= 2
    assert cluster.bkd("logs", "-n", "0", "web").stdout == ""


def test_following_the_logs(cluster):
    """`bkd logs -f` goes on with what is printed from now on, and Ctrl-C ends it."""
    following = cluster.popen("logs", "-f", "-n", "0", "web", stdout=subprocess.PIPE, text=True)
    until(lambda: "inotify" in "".join(open_files(following.pid)))
    cluster.get("/say?the-news")
    assert lines_of(following, 1)[0].endswith("| the-news\n")
    following.send_signal(signal.SIGINT)
    assert following.wait(PATIENCE) in (0, 130)


def open_files(pid):
    """What a process has open."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    return found


def test_events(cluster):
    """`bkd events` tells what happened in order, for people and as JSON, all or since a while ago."""
    scaled(cluster, "web=3")
    until(cluster.is_ready)
    shown = cluster.bkd("events").stdout.splitlines()
    documents = [json.loads(line) for line in cluster.bkd("events", "--json").stdout.splitlines()]
    assert cluster.events()[: len(documents)] == documents
    assert len(shown) <= len(documents)
    assert [event["time"] for event in documents] == sorted(event["time"] for event in documents)
    assert any("web scaled from 2 to 3" in line for line in shown)
    assert documents[0]["fact"] == "cluster-started"
    given = [event for event in documents if event["fact"] == "command"][-1]
    assert (given["verb"], given["arguments"], given["outcome"]) == ("scale", {"web": "3"}, "done")
    assert cluster.bkd("events", "--since", "1h").stdout.splitlines()[0] == shown[0]
    assert cluster.bkd("events", "--since", "0s").stdout == ""


def test_following_the_events(cluster):
    """`bkd events -f` shows what happens when it happens."""
    following = cluster.popen("events", "-f", "--since", "0s", "--json", stdout=subprocess.PIPE, text=True)
    until(lambda: "inotify" in "".join(open_files(following.pid)))
    pid = cluster.worker("web.1")["pid"]
    kill(pid)
    exited = event_of(following, "worker-exited", pid=pid)
    assert (exited["slot"], exited["signal"]) == ("web.1", 9)
    assert event_of(following, "worker-started", slot="web.1")["pid"] != pid
    following.send_signal(signal.SIGINT)
    assert following.wait(PATIENCE) in (0, 130)


def event_of(following, fact, **known):
    """The next of these events that a command shows; others, of what came before, may lie between."""
    events = map(json.loads, following.stdout)
    return next(event for event in events if event["fact"] == fact and event.items() >= known.items())


def test_the_foreground_shows_everything(cluster):
    """`bkd start` shows what bkd does and what workers print, each line with its slot before it."""
    cluster.get("/say?for-the-terminal")
    until(lambda: "| for-the-terminal" in cluster.said())
    line = next(line for line in cluster.said().splitlines() if "for-the-terminal" in line)
    assert line.startswith("web.")
    assert "web.1 ready" in cluster.said() and f"http://127.0.0.1:{cluster.port}" in cluster.said()


def test_the_idle_cost_nothing(cluster, watch):
    """An idle cluster's master uses less than 1 % of a CPU, and status stays cheap: at best, for what else the machine
    does costs CPU, too."""
    master = cluster.status()["master_pid"]

    def used(seconds):
        before = cpu_seconds(master)
        watch(seconds)
        return cpu_seconds(master) - before

    def answered():
        began = time.monotonic()
        cluster.status()
        return time.monotonic() - began

    assert any(used(2.0) <= 0.03 for _ in range(5))
    assert any(answered() < 0.2 for _ in range(5))
