"""Code that cannot be served is told, with exit 1 and the reason, and the old code never stops serving."""

import time

import pytest

from .clients import (
    Load,
    command,
    deploy,
    fewest_serving,
    finished,
    is_settled,
    opened,
    outcome,
    reached,
    releases,
    served,
    stage,
    waiting,
    write,
    zygotes,
)
from .cluster import alive, kill, until

WEB = {"app": "versioned:app", "min_ready": "300ms", "lame_duck": "2s", "term": "1s", "start_timeout": "6s"}


@pytest.fixture(scope="module")
def cluster(share):
    return share(web=WEB)


@pytest.fixture(autouse=True)
def well(cluster):
    """Every test begins and ends with good code, and good code is all that is served."""
    for name in ("first", "open"):
        (cluster.folder / name).unlink(missing_ok=True)
    until(lambda: is_settled(cluster))


def unharmed(cluster, code):
    """Deploy code that is no good, under load: the command's result. The old workers are the same as before, nothing
    was lost, and the next good code goes live."""
    before, number = cluster.pids("web"), cluster.group("web")["release"]
    (version,) = served(cluster)
    with Load(cluster) as load:
        write(cluster.folder / "version.py", code)
        result = cluster.bkd("restart", "web")
        load.goes_on()
    assert (result.returncode, result.stdout) == (1, "")
    assert (cluster.pids("web"), cluster.group("web")["release"], stage(cluster)) == (before, number, None)
    assert (dict(load.lost), load.versions) == ({}, {version})
    assert f"release {number} goes on serving" in result.stderr.splitlines()[-1]
    deploy(cluster, number + 100)
    repaired = cluster.bkd("restart", "web")
    assert repaired.returncode == 0, repaired.stderr
    assert served(cluster) == {str(number + 100)}
    return result


@pytest.mark.parametrize(
    ("code", "trace", "reason"),
    [
        ("VERSION = = 3\n", "VERSION = = 3", "SyntaxError: invalid syntax (version.py, line 1)"),
        ("import no_such_module_anywhere\n", "Traceback (most recent call last)", "No module named"),
        (
            "def load():\n    raise ValueError('no price list')\nload()\n",
            'version.py", line 2, in load',
            "no price list",
        ),
    ],
)
def test_code_that_does_not_import(cluster, code, trace, reason):
    """The traceback is on stderr, and the last line says what it was and what is served now."""
    result = unharmed(cluster, code)
    assert trace in result.stderr
    assert "aborted while loading" in result.stderr.splitlines()[-1]
    assert reason in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.exit('no licence')\n",
        "import os\nos._exit(0)\n",
        "import starts\nstarts.kill_this_process()\n",
        "while True:\n    pass\n",
    ],
    ids=["sys.exit", "os._exit", "abort", "endless"],
)
def test_code_that_ends_the_interpreter(cluster, code):
    """An import that exits, crashes or never ends is no better."""
    result = unharmed(cluster, code)
    assert "aborted while loading" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("start", "word"),
    [("fails", "the database is away"), ("leaves", "no licence"), ("never", "start_timeout")],
)
def test_code_that_does_not_start(cluster, start, word):
    """A canary that raises, exits, or does not become ready within `start_timeout` is the only one of its kind."""
    result = unharmed(cluster, f"VERSION = 'bad'\nfrom starts import {start} as start\n")
    last = result.stderr.splitlines()[-1]
    assert "aborted" in last
    assert "canary" in last
    assert word in result.stderr


def test_a_canary_that_dies_of_itself_costs_no_request(cluster):
    """For most of its time it is watched without work: a moment after its start nobody has a connection to it."""
    unharmed(cluster, "VERSION = 'bad'\nfrom starts import dies_soon as start\n")


def test_a_canary_that_does_not_last(cluster):
    """One that dies before `min_ready` has not taken over anything: the old workers are still the same."""
    before, number = cluster.pids("web"), cluster.group("web")["release"]
    deploy(cluster, "bad", "from starts import dies_soon as start")
    result = cluster.bkd("restart", "--json", "web")
    row = outcome(result)
    assert (result.returncode, row["state"], row["stage"], row["from"]) == (1, "aborted", "canary", number)
    assert "exit code 3" in row["reason"] or "exit 3" in row["reason"]
    assert (cluster.pids("web"), cluster.group("web")["release"]) == (before, number)


def test_code_that_does_not_last(cluster):
    """When a worker dies after the canary was well, the slots that have moved go back to the old code. All the while
    somebody answers."""
    number, before, begun = cluster.group("web")["release"], cluster.pids("web"), len(cluster.events())
    known, (version,) = set(waiting(cluster)), served(cluster)
    deploy(cluster, "bad", "from starts import dies_behind_the_first as start")
    with Load(cluster, kept=0) as load:
        restart = command(cluster, "restart", "--json", "web")
        until(lambda: "bad" in load.versions and set(waiting(cluster)) - known)
        opened(cluster)
        result = finished(restart)
        load.goes_on()
    row = outcome(result)
    assert (result.returncode, row["state"]) == (1, "aborted")
    assert row["stage"] in ("rolling", "settling")
    assert (releases(cluster), cluster.group("web")["release"], served(cluster)) == ([number] * 2, number, {version})
    assert (load.versions, set(load.lost) <= {"reset", "truncated"}) == ({version, "bad"}, True)
    assert fewest_serving(before, cluster.events()[begun:]) >= 1
    assert {event["cause"] for event in cluster.events("worker-exited")} <= {"planned", "crash", "boot failure"}
    assert [worker["next_try"] for worker in cluster.group("web")["workers"]] == [None, None]


def test_the_new_zygote_is_killed(cluster):
    """Without the zygote of the new code there is no new code: the roll is aborted while its canary waits."""
    before, number = cluster.pids("web"), cluster.group("web")["release"]
    deploy(cluster, "bad", "from starts import never as start")
    restart = command(cluster, "restart", "web")
    reached(cluster, "canary")
    with Load(cluster) as load:
        kill(zygotes(cluster)[cluster.group("web")["roll"]["release"]])
        result = finished(restart)
        load.goes_on()
    assert (result.returncode, cluster.pids("web"), releases(cluster)) == (1, before, [number] * 2)
    assert "zygote" in result.stderr.splitlines()[-1]
    assert dict(load.lost) == {}


def test_a_canary_killed_twice(cluster):
    """One kill from outside may be an accident; the second in the same slot aborts."""
    before, known = cluster.pids("web"), set(waiting(cluster))
    deploy(cluster, "bad", "from starts import waits as start")
    restart = command(cluster, "restart", "web")
    for _ in range(2):
        pid = until(lambda: set(waiting(cluster)) - known).pop()
        known.add(pid)
        kill(pid)
    result = finished(restart)
    assert (result.returncode, cluster.pids("web")) == (1, before)
    assert "killed" in result.stderr.splitlines()[-1]


def test_nothing_is_left_of_it(cluster):
    """After an aborted roll there is no process of the bad release."""
    old = set(cluster.processes())
    deploy(cluster, "bad", "from starts import fails as start")
    assert cluster.bkd("restart", "web").returncode == 1
    until(lambda: set(cluster.processes()) <= old)
    assert all(map(alive, cluster.pids("web")))


def test_one_group_may_fail_alone(launch):
    """Of two groups that roll at the same time one is aborted, the other is live: exit 3, and both are told."""
    cluster = launch(web=WEB, api=WEB | {"app": "shop:app", "bind": ["127.0.0.1:0"], "count": 1})
    deploy(cluster, "bad", "raise RuntimeError('no')")
    result = cluster.bkd("restart")
    assert result.returncode == 3
    assert result.stdout.startswith("api: release 2 is live, 1 worker, took ")
    assert result.stderr.splitlines()[-1].startswith("web: release 2 was aborted while loading: ")
    assert (releases(cluster), releases(cluster, "api")) == ([1, 1], [2])


def test_a_function_that_is_broken(launch):
    """The same for functions of yours: the old one works on."""
    cluster = launch(job={"target": "jobs:worker", "min_ready": "200ms"})
    old = cluster.pids("job")
    deploy(cluster, "bad", "raise RuntimeError('no')")
    result = cluster.bkd("restart", "job")
    assert (result.returncode, cluster.pids("job")) == (1, old)
    assert "RuntimeError: no" in result.stderr
    (cluster.folder / "open").touch()


def test_a_canary_whose_loop_is_blocked_does_not_pass(launch):
    """Ready is not enough: its heartbeats have to say that its main loop still turns. It is taken back on demand."""
    cluster = launch(web=WEB | {"min_ready": "1s", "drain": "2s"})
    before = cluster.pids("web")
    deploy(cluster, "bad", "from starts import blocks_soon as start")
    restart = command(cluster, "restart", "--json", "web")
    reached(cluster, "canary")
    until(lambda: "blocked" in cluster.log("web.1"))
    begun = time.monotonic()
    until(lambda: time.monotonic() - begun > 2.0)
    assert stage(cluster) == "canary"
    assert cluster.bkd("rollback", "web").returncode == 0
    assert (finished(restart).returncode, cluster.pids("web")) == (1, before)
