"""Everything dies, over and over, while messages run: none is lost, and no more runs are repeated than there were
deaths. Long tests; they say in the end what the store finds wrong with itself."""

import random
import time
from contextlib import suppress

import pytest

from bkd.ipc.errors import BkdError

from ...services.postgres import fresh_url
from ..cluster import kill, until
from .project import JOBS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
STORMY = JOBS | {"count": 3, "concurrency": 4, "env": {"PYTHONUNBUFFERED": "1"}}
SEED = 20260


def storm(cluster, roles, every, lasts, seed=SEED):
    """Kill one process of these roles each time; how many of each were killed."""
    dice, killed, end = random.Random(seed), dict.fromkeys(roles, 0), time.monotonic() + lasts
    while time.monotonic() < end:
        role = dice.choice(roles)
        with suppress(BkdError, OSError):
            pids = cluster.everybody()[role]
            if pids:
                kill(dice.choice(pids))
                killed[role] += 1
        time.sleep(every)
    return killed


def settle(cluster, kind, limit=120.0):
    """Wait until nothing is left to be run; the numbers of this kind."""
    cluster.ends(kind, limit=limit)
    return cluster.tally(kind)


def check(cluster, kind, ids, most):
    """No message is lost, at most so many runs were repeated, and the store is in order."""
    runs = cluster.runs(*ids)
    extra = len(runs) - len(ids)
    print(f"{len(ids)} messages, {extra} extra runs of {most}")
    assert {run["id"] for run in runs} == set(ids)
    assert extra <= most
    assert cluster.faults() == []
    assert cluster.tally(kind)["succeeded"] == len(ids)


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
@pytest.mark.parametrize("seed", range(2))
def test_a_storm_of_deaths_of_every_kind_but_the_keeper(project, engine, seed):
    """One message at a time in each executor, so that a death costs one run at most."""
    url = fresh_url() if engine == "postgres" else "sqlite:run/bkd.db"
    cluster = project(jobs=STORMY | {"mode": "exclusive"}, store={"url": url}).start()
    ids = cluster.add("alone", {"seconds": 0.01}, count=2000, max_attempts=100)

    killed = storm(cluster, ["executor", "dispatcher", "master", "zygote"], 0.5, 10.0, seed)
    settle(cluster, "alone")

    print(killed)
    check(cluster, "alone", ids, sum(killed.values()))
    assert sum(killed.values()) >= 10


def test_a_storm_in_which_the_keeper_dies_as_well(project):
    """Somebody starts the cluster again each time, as systemd does."""
    cluster = project(jobs=STORMY | {"mode": "exclusive"}).start()
    ids = cluster.add("alone", {"seconds": 0.01}, count=2000, max_attempts=100)
    deaths = 0
    for _ in range(4):
        deaths += sum(storm(cluster, ["executor", "dispatcher", "master"], 0.5, 1.5).values())
        kill(cluster.process.pid)
        deaths += STORMY["count"]  # the next start ends whatever is left
        cluster.process.wait(10.0)
        cluster.start(ready=False)
        until(cluster.answered, 20.0)
    settle(cluster, "alone")

    check(cluster, "alone", ids, deaths)


def test_a_child_is_killed_every_tenth_of_a_second(project):
    cluster = project(jobs=STORMY | {"count": 4}).start()
    ids = cluster.add("nap", {"seconds": 0.02}, count=1000, max_attempts=500)

    killed = {"executor": 0}
    while cluster.tally("nap")["succeeded"] < 900 and killed["executor"] < 60:
        killed["executor"] += storm(cluster, ["executor"], 0.1, 1.0, killed["executor"])["executor"]
    settle(cluster, "nap")

    assert {run["id"] for run in cluster.runs(*ids)} == set(ids)
    runs = [(run["id"], run["run"]) for run in cluster.runs(*ids)]
    assert len(set(runs)) == len(runs)
    assert cluster.tally("nap")["succeeded"] == 1000
    assert cluster.faults() == []


@pytest.mark.parametrize("role", ["dispatcher", "master", "executor"])
@pytest.mark.parametrize("delay", [0.0, 0.001, 0.004])
def test_a_death_at_each_moment_around_an_outcome(project, role, delay):
    """The moments at which an outcome is on its way, being written, or just stored."""
    cluster = project(jobs=JOBS).start()
    extra = 0
    for _ in range(5):
        victim = 0 if role == "executor" else cluster.everybody()[role][0]
        (id,) = cluster.add("murder", {"pid": victim, "when": "returned", "delay": delay}, delay=0.1)
        assert cluster.end(id, 20.0)["state"] == "succeeded"
        extra += len(cluster.runs(id)) - 1
        until(lambda old=victim: renewed(cluster, old), 30.0)

    print(role, delay, extra)
    assert extra <= (5 if role == "executor" else 0)
    assert cluster.faults() == []


def renewed(cluster, old):
    """Everybody is there, and this one is not."""
    with suppress(BkdError, OSError):
        people = cluster.everybody()
        pids = {pid for some in people.values() for pid in some}
        return cluster.is_ready() and all(people.values()) and old not in pids
    return False


@pytest.mark.parametrize("role", ["dispatcher", "master", "executor"])
def test_a_death_during_a_stop(project, role):
    """What was not finished is run by the next start; nothing is run again that is known to have finished."""
    cluster = project(jobs=JOBS).start()
    ids = cluster.add("nap", {"seconds": 0.2}, count=100)
    until(lambda: cluster.runs(*ids))
    stop = cluster.popen("stop")
    pids = cluster.everybody()[role]
    for pid in pids:
        kill(pid)
    stop.wait(60.0)
    until(lambda: not cluster.processes(), 40.0)
    cluster.start()
    settle(cluster, "nap")

    check(cluster, "nap", ids, 0 if role == "master" else 2 * 10)
