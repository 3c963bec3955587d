"""`bkd restart`: new code takes over worker by worker, and nobody who uses the service notices."""

import json
import signal
import sys
from select import select

import pytest

from .clients import (
    Load,
    command,
    deploy,
    finished,
    is_settled,
    opened,
    outcome,
    reached,
    releases,
    served,
    stage,
    succeeded,
    waiting,
    zygotes,
)
from .cluster import PATIENCE, alive, free_port, kill, until

WEB = {"app": "versioned:app", "min_ready": "300ms", "lame_duck": "2s", "term": "1s"}


def said(cluster, slot, word):
    """Whether a slot's log has a line with this word."""
    return word in cluster.log(slot).splitlines()


# -- nothing is lost


def test_rolls_under_load(launch):
    """Three rolls in a row under clients with kept and with new connections: none of their requests is lost, no worker
    of the old code is left, and each command says what is live now."""
    cluster = launch(web=WEB | {"count": 3})
    for number in (2, 3, 4):
        old = cluster.pids("web")
        with Load(cluster, kept=3, new=3) as load:
            deploy(cluster, number)
            result = cluster.bkd("restart", "web")
            load.goes_on()
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"web: release {number} is live, 3 workers, took ")
        assert (dict(load.lost), load.versions) == ({}, {str(number - 1), str(number)})
        assert not [pid for pid in old if alive(pid)]
        assert served(cluster) == {str(number)}
        assert (releases(cluster), cluster.group("web")["release"], stage(cluster)) == ([number] * 3, number, None)
    facts = [event["fact"] for event in cluster.events("roll-started", "roll-done", "roll-aborted")]
    assert facts == ["roll-started", "roll-done"] * 3


@pytest.mark.parametrize("preload", ["auto", False])
def test_one_worker_rolls_too(launch, preload):
    """A group of one worker, forked or not, is never without it."""
    cluster = launch(web=WEB | {"count": 1, "preload": preload})
    deploy(cluster, 2)
    ready = []
    with Load(cluster) as load:
        restart = command(cluster, "restart", "web")
        while restart.poll() is None:
            ready.append(cluster.group("web")["ready"])
        load.goes_on()
    assert (set(ready), dict(load.lost), served(cluster)) == ({1}, {}, {"2"})
    assert finished(restart).returncode == 0


def test_without_room_for_two(launch):
    """With `max_surge = 0` and `max_unavailable = 1` an old worker is gone before its successor starts."""
    cluster = launch(web=WEB | {"max_surge": 0, "max_unavailable": 1})
    with cluster.send("/wait?go"):
        busy = until(lambda: next((slot for slot in ("web.1", "web.2") if said(cluster, slot, "asked")), None))
        deploy(cluster, 2)
        restart = command(cluster, "restart", "web")
        until(lambda: cluster.worker(busy)["state"] == "draining")
        assert cluster.group("web")["ready"] == 1
        (cluster.folder / "go").touch()
        assert finished(restart).returncode == 0
    assert (served(cluster), releases(cluster), lives(cluster, busy)) == (
        {"2"},
        [2, 2],
        ["started", "exited", "started"],
    )


def lives(cluster, slot):
    """What the journal says of the workers of a slot: `started` and `exited`, in their order."""
    facts = cluster.events("worker-started", "worker-exited")
    return [event["fact"].removeprefix("worker-") for event in facts if event["slot"] == slot]


def test_a_slow_request_is_waited_for(launch):
    """An old worker that is still busy holds up none of the others, its request is answered, and only then does the
    command say that all is done."""
    cluster = launch(web=WEB)
    with cluster.send("/wait?go") as client:
        until(lambda: said(cluster, "web.1", "asked") or said(cluster, "web.2", "asked"))
        old = cluster.pids("web")
        deploy(cluster, 2)
        restart = command(cluster, "restart", "web")
        until(lambda: releases(cluster) == [2, 2] and len([pid for pid in old if alive(pid)]) == 1)
        until(lambda: served(cluster) == {"2"})
        until(lambda: all(worker["uptime"] > 1.0 for worker in cluster.group("web")["workers"]))
        reached(cluster, "settling")
        assert restart.poll() is None
        (cluster.folder / "go").touch()
        answer = client.makefile("rb").read().split(b"\r\n\r\n")[1].decode()
    assert answer in [f"1 {pid}" for pid in old]
    assert finished(restart).returncode == 0
    assert not [pid for pid in old if alive(pid)]


def test_recycling_keeps_the_group_complete(launch):
    """Workers that have all had their `max_requests` at the same time are replaced one after the other: the group is
    never without one of them, and no request is lost."""
    cluster = launch(web=WEB | {"count": 3, "max_requests": 60})
    first, ready = set(cluster.pids("web")), []

    def renewed():
        group = cluster.group("web")
        ready.append(group["ready"])
        return not first & {worker["pid"] for worker in group["workers"]}

    with Load(cluster) as load:
        until(renewed, 30.0)
    assert dict(load.lost) == {}
    assert set(ready) == {3}
    assert {event["cause"] for event in cluster.events("worker-exited")} == {"planned"}


def test_a_group_may_be_renewed_by_the_clock(launch):
    """`restart_every` gives every slot a fresh worker again and again, without a lost request."""
    cluster = launch(web=WEB | {"restart_every": "1s"})
    with Load(cluster) as load:
        first = set(cluster.pids("web"))
        second = until(lambda: not first & (now := set(cluster.pids("web"))) and now)
        until(lambda: not (first | second) & set(cluster.pids("web")))
    assert dict(load.lost) == {}


# -- what may be asked for


def test_all_groups_at_once(launch):
    """Without a name every group rolls, and each has its line."""
    cluster = launch(web=WEB, api=WEB | {"bind": ["127.0.0.1:0"], "count": 1})
    result = cluster.bkd("restart")
    assert result.returncode == 0, result.stderr
    lines = {line.split(",")[0] for line in result.stdout.splitlines()}
    assert lines == {"api: release 2 is live", "web: release 2 is live"}
    assert (releases(cluster), releases(cluster, "api")) == ([2, 2], [2])


def test_a_slot_gets_a_fresh_worker(launch):
    """`bkd restart web.2` renews that worker alone, with the code that its group has."""
    cluster = launch(web=WEB)
    first, second = cluster.pids("web")
    deploy(cluster, 2)
    with Load(cluster) as load:
        assert cluster.bkd("restart", "web.2").returncode == 0
    assert (cluster.pids("web")[0], releases(cluster), dict(load.lost)) == (first, [1, 1], {})
    assert second not in cluster.pids("web")
    assert not alive(second)
    assert load.versions == {"1"}


def test_hard(launch):
    """`--hard` kills the old workers at once, once the new code is loaded, however long their requests are."""
    cluster = launch(web=WEB | {"drain": "10m"})
    old = cluster.pids("web")
    with cluster.send("/wait?never"):
        until(lambda: said(cluster, "web.1", "asked") or said(cluster, "web.2", "asked"))
        deploy(cluster, 2)
        assert cluster.bkd("restart", "--hard", "web").returncode == 0
    assert not [pid for pid in old if alive(pid)]
    assert (served(cluster), releases(cluster)) == ({"2"}, [2, 2])


def test_without_waiting(launch):
    """`--no-wait` returns while the roll goes on; status shows how far it is."""
    cluster = launch(web=WEB)
    deploy(cluster, 2, "from starts import waits as start")
    result = cluster.bkd("restart", "--no-wait", "--json", "web")
    row = outcome(result)
    assert (result.returncode, row["state"], row["release"], row["from"]) == (0, "started", 2, 1)
    reached(cluster, "canary")
    roll = cluster.group("web")["roll"]
    assert roll.pop("age") >= 0.0
    assert roll | {"release": 2, "from": 1, "stage": "canary", "moved": 0, "count": 2} == roll
    opened(cluster)
    until(lambda: is_settled(cluster) and releases(cluster) == [2, 2])


def test_json(launch):
    """One document on stdout, and nothing else there."""
    cluster = launch(web=WEB)
    result = cluster.bkd("restart", "--json")
    (row,) = json.loads(result.stdout)["groups"]
    took = row.pop("took")
    known = {"name": "web", "state": "done", "release": 2, "from": 1, "reason": None, "trace": None}
    assert row == known | {"stage": row["stage"]}
    assert (result.returncode, 0.3 < took < 30.0) == (0, True)


def test_wrong_names(launch):
    """A group that is not there is wrong usage, told in a line, and nothing rolls; without a cluster it is exit 4."""
    cluster = launch(web=WEB)
    result = cluster.bkd("restart", "wbe")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "web" in result.stderr
    assert cluster.bkd("restart", "web", "wbe").returncode == 2
    cluster.stop()
    assert cluster.events("roll-started") == []
    assert cluster.bkd("restart", "web").returncode == 4


# -- two at a time


def test_a_second_restart_while_the_first_loads(launch):
    """The newer code wins at once, and both commands end with it."""
    cluster = launch(web=WEB)
    deploy(cluster, 2, "import starts\nstarts.hold()")
    first = command(cluster, "restart", "--json", "web")
    until(lambda: said(cluster, "web.zygote", "holding"))
    deploy(cluster, 3)
    second = command(cluster, "restart", "--json", "web")
    ends = [finished(first), finished(second)]
    assert [end.returncode for end in ends] == [0, 0], [end.stderr for end in ends]
    assert {outcome(end)["release"] for end in ends} == {3}
    assert (served(cluster), releases(cluster)) == ({"3"}, [3, 3])


def test_a_second_restart_while_the_first_rolls(launch):
    """It is told that it comes after the first one; both end well, and what is on the disk then is served."""
    cluster = launch(web=WEB)
    deploy(cluster, 2, "from starts import waits_behind_the_first as start")
    first = command(cluster, "restart", "--json", "web")
    reached(cluster, "rolling")
    deploy(cluster, 3)
    second = command(cluster, "restart", "--json", "web")
    assert select([second.stderr], [], [], PATIENCE)[0]
    opened(cluster)
    ends = [finished(first), finished(second)]
    assert [end.returncode for end in ends] == [0, 0], [end.stderr for end in ends]
    assert [outcome(end)["release"] for end in ends] == [2, 3]
    assert (served(cluster), releases(cluster)) == ({"3"}, [3, 3])


# -- what happens meanwhile


def rolling(cluster, start="waits_behind_the_first"):
    """A roll that stands still in the middle, until `opened`: its command. Version 2 has one ready worker."""
    deploy(cluster, 2, f"from starts import {start} as start")
    restart = command(cluster, "restart", "--json", "web")
    reached(cluster, "rolling")
    return restart


def test_an_old_worker_is_killed(launch):
    """An old worker that is killed in the middle of a roll is replaced by one of the new release."""
    cluster = launch(web=WEB | {"count": 3})
    restart = rolling(cluster)
    old = next(row for row in cluster.group("web")["workers"] if row["release"] == 1)
    kill(old["pid"])
    until(lambda: cluster.worker(old["name"])["release"] == 2)
    opened(cluster)
    result = finished(restart)
    assert (result.returncode, releases(cluster), served(cluster)) == (0, [2, 2, 2], {"2"}), result.stderr


def test_a_new_worker_is_killed(launch):
    """A new worker that is killed from outside is replaced once, and the roll goes on."""
    cluster = launch(web=WEB)
    deploy(cluster, 2, "from starts import waits as start")
    restart = command(cluster, "restart", "--json", "web")
    kill(until(lambda: waiting(cluster))[0])
    opened(cluster)
    result = finished(restart)
    assert (result.returncode, releases(cluster), served(cluster)) == (0, [2, 2], {"2"}), result.stderr


def test_it_is_scaled(launch):
    """More workers, asked for in the middle of a roll, are there at its end, all with the new code."""
    cluster = launch(web=WEB)
    restart = rolling(cluster)
    assert cluster.bkd("scale", "web=4").returncode == 0
    until(lambda: cluster.group("web")["count"] == 4)
    opened(cluster)
    result = finished(restart)
    assert (result.returncode, releases(cluster), served(cluster)) == (0, [2] * 4, {"2"}), result.stderr
    until(cluster.is_ready)


def test_it_is_scaled_down(launch):
    """Fewer workers end the roll all the same."""
    cluster = launch(web=WEB | {"count": 4})
    restart = rolling(cluster)
    assert cluster.bkd("scale", "web=1").returncode == 0
    opened(cluster)
    result = finished(restart)
    assert (result.returncode, releases(cluster), served(cluster)) == (0, [2], {"2"}), result.stderr


@pytest.mark.parametrize(
    ("stage", "how"), [("loading", "stop"), ("canary", "TERM"), ("rolling", "stop"), ("rolling", "TERM")]
)
def test_it_is_stopped(launch, stage, how):
    """A stop in the middle of a roll ends everything; whoever waits for the roll gets exit 1 and the reason."""
    cluster = launch(web=WEB | {"term": "10s"})
    waits = {"canary": "from starts import waits as start", "loading": "import starts\nstarts.hold()"}
    deploy(cluster, 2, waits.get(stage, "from starts import waits_behind_the_first as start"))
    restart = command(cluster, "restart", "web")
    reached(cluster, stage)
    if how == "stop":
        assert cluster.stop().returncode == 0
    else:
        kill(cluster.process.pid, signal.SIGTERM)
    assert cluster.exit_code() == 0
    result = finished(restart)
    assert (result.returncode, result.stdout) == (1, "")
    assert "stop" in result.stderr.splitlines()[-1]
    until(cluster.is_gone)


def test_the_old_zygote_dies(launch):
    """Without the old zygote the roll goes on, since nothing is wanted from it any more."""
    cluster = launch(web=WEB)
    restart = rolling(cluster)
    kill(zygotes(cluster)[1])
    opened(cluster)
    result = finished(restart)
    assert (result.returncode, releases(cluster), served(cluster)) == (0, [2, 2], {"2"}), result.stderr


def test_the_master_dies(launch):
    """A new master takes the roll up where it was: it ends one way or the other, and no request is lost."""
    cluster = launch(web=WEB)
    with Load(cluster) as load:
        rolling(cluster)
        master = cluster.status()["master_pid"]
        kill(master)
        opened(cluster)
        succeeded(cluster, master)
        until(lambda: is_settled(cluster))
        load.goes_on()
    assert dict(load.lost) == {}
    number = cluster.group("web")["release"]
    assert (releases(cluster), served(cluster)) == ([number] * 2, {str(number)})


def test_a_held_slot_keeps_its_release(launch):
    """What an operator holds is left alone: the command ends with 3 and says so, and the slot moves when it is given
    back."""
    cluster = launch(web=WEB)
    old = cluster.pids("web")
    assert cluster.bkd("hold", "web.1").returncode == 0
    deploy(cluster, 2)
    result = cluster.bkd("restart", "web")
    assert result.returncode == 3
    assert "web.1" in result.stderr + result.stdout
    assert (releases(cluster), cluster.pids("web")[0], alive(old[0])) == ([1, 2], old[0], True)
    assert cluster.bkd("unhold", "web.1").returncode == 0
    until(lambda: is_settled(cluster) and releases(cluster) == [2, 2])
    until(lambda: served(cluster) == {"2"})


# -- other kinds


def test_a_function_finishes_its_work(launch):
    """A function of yours is asked to end, and its work in hand is waited for; its successor runs already."""
    cluster = launch(job={"target": "jobs:worker", "min_ready": "200ms"})
    deploy(cluster, 2)
    restart = command(cluster, "restart", "job")
    until(lambda: said(cluster, "job.1", "asked 1") and said(cluster, "job.1", "begun 2"))
    until(lambda: (worker := cluster.worker("job.1"))["release"] == 2 and worker["uptime"] > 1.0)
    reached(cluster, "settling", "job")
    assert restart.poll() is None
    opened(cluster)
    assert finished(restart).returncode == 0
    assert [line for line in cluster.log("job.1").splitlines() if line.endswith("1")][-1] == "finished 1"
    assert releases(cluster, "job") == [2]


def test_a_program_is_replaced(launch):
    """A program of kind `command`, slow to end, is gone before its successor starts: both want the same port."""
    port = free_port()
    ready = f"tcp:127.0.0.1:{port}"
    cluster = launch(cache={"command": [sys.executable, "program.py", str(port)], "ready": ready, "min_ready": "200ms"})
    old = cluster.worker("cache.1")["pid"]
    assert cluster.get(port=port) == f"1 {old}"
    deploy(cluster, 2)
    result = cluster.bkd("restart", "cache")
    assert result.returncode == 0, result.stderr
    assert cluster.get(port=port) == f"2 {cluster.worker('cache.1')['pid']}"
    assert not alive(old)
    assert lives(cluster, "cache.1") == ["started", "exited", "started"]
