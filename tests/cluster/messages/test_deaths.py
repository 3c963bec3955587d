"""Processes that die, one of each kind, while messages run: nothing is lost, and no more runs twice than must."""

import signal
import time

import pytest

from ..cluster import alive, ended, kill, until
from .project import JOBS, moment, most_at_once, slowly

FAST = JOBS | {"concurrency": 5}
LEASE = 30.0  # seconds; what nobody noticed would wait for its end
ORPHANED = 40.0  # seconds; less than the 60 of `orphan_timeout` where nothing else is said


@pytest.fixture(scope="module")
def cluster(shared_project):
    """Two executors; each test leaves it with nothing to do."""
    return shared_project(jobs=FAST, ping={"interval": "500ms", "kill": "2s"}).start()


@pytest.fixture(scope="module")
def alone(shared_project):
    """Two executors that take one message at a time."""
    return shared_project(jobs=JOBS | {"mode": "exclusive"}).start()


def renewed(cluster, *old):
    """Every slot has a worker again, none of them one of these."""
    until(lambda: cluster.is_renewed(*old), 30.0)


# -- executors


def test_a_killed_executor_costs_one_attempt_and_its_place_is_free_at_once(cluster):
    (id,) = cluster.add("gate", {"gate": "killed"})
    pid = cluster.started(id)[0]["pid"]
    kill(pid)
    begun = time.monotonic()
    again = cluster.started(id, 2)
    took = time.monotonic() - begun
    cluster.open("killed")

    told = cluster.end(id)

    assert took < LEASE / 3
    assert again[1]["pid"] != pid
    assert (told["state"], told["attempts"], told["crashes"]) == ("succeeded", 2, 1)
    assert [one["outcome"] for one in told["history"]] == ["lost", "ok"]
    renewed(cluster, pid)


def test_what_kills_its_process_three_times_is_quarantined(alone):
    (poison,) = alone.add("die", {"number": signal.SIGSEGV})
    others = alone.add("alone", {"seconds": 0.05}, count=20)

    told = alone.end(poison)

    assert (told["state"], told["reason"], told["crashes"], len(alone.runs(poison))) == ("dead_letter", "poison", 3, 3)
    assert "SIGSEGV" in told["error"]["text"]
    kept = [alone.end(id) for id in others]
    assert {(one["state"], one["crashes"], one["attempts"]) for one in kept} == {("succeeded", 0, 1)}
    alone.ends("alone")


def test_a_limit_of_attempts_holds_for_deaths_as_well(alone):
    (id,) = alone.add("die", {}, max_attempts=2)

    told = alone.end(id)

    assert (told["state"], told["reason"], len(alone.runs(id))) == ("dead_letter", "poison", 2)
    assert "SIGKILL" in told["error"]["text"]


def test_a_lock_is_freed_by_the_death_of_its_holder(cluster):
    (first,) = cluster.add("locked", {"key": "death", "gate": "dead"})
    pid = cluster.started(first)[0]["pid"]
    (second,) = cluster.add("locked", {"key": "death"})
    until(lambda: cluster.show(second)["locks"])
    kill(pid)
    cluster.open("dead")

    assert {cluster.end(id)["state"] for id in (first, second)} == {"succeeded"}
    assert cluster.query("SELECT * FROM lock WHERE key = 'death'") == []
    renewed(cluster, pid)


def test_who_has_answered_and_then_dies_is_believed(cluster):
    ids = [cluster.add("last-words", {"delay": delay})[0] for delay in (0.0, 0.002, 0.05)]

    told = [cluster.end(id) for id in ids]

    assert {one["state"] for one in told} == {"succeeded"}
    dying = [run["pid"] for run in cluster.runs(*ids) if run["attempt"] == 1]
    assert all(ended(pid) for pid in dying)
    renewed(cluster, *dying)
    naps = cluster.add("nap", {"seconds": 0.3}, count=30)
    cluster.ends("nap")
    assert most_at_once(cluster, naps) <= 10


def test_nonsense_from_an_executor_costs_its_connection_alone(cluster):
    (id,) = cluster.add("babble", {})

    told = cluster.end(id)

    assert (told["state"], told["result"], len(cluster.runs(id))) == ("succeeded", "1 times", 1)
    naps = cluster.add("nap", {"seconds": 0.2}, count=20)
    cluster.ends("nap")
    assert most_at_once(cluster, naps) <= 10


def test_a_stopped_executor_keeps_its_message_until_the_hard_deadline(alone):
    (id,) = alone.add("alone", {"seconds": 0.05})
    alone.end(id)
    (id,) = alone.add("stopped", {})
    pid = alone.started(id)[0]["pid"]

    told = alone.end(id, 40.0)

    assert not alive(pid)
    assert [one["outcome"] for one in told["history"]] == ["timeout", "ok"]
    renewed(alone, pid)
    ids = alone.add("alone", {"seconds": 0.3}, count=6)
    alone.ends("alone")
    assert most_at_once(alone, ids) == 2


def test_a_stuck_handler_is_gone_soon_after_its_deadline(cluster):
    (id,) = cluster.add("stuck", {}, max_attempts=1)
    run = cluster.started(id)[0]

    assert ended(run["pid"], 40.0)
    gone = time.time() - run["at"]

    assert cluster.end(id)["error"]["class"] == "retryable"
    assert gone < 0.3 + 2.0 + 10.0, gone  # timeout and grace, `term`, and what a busy machine makes of it
    renewed(cluster, run["pid"])


def test_a_handler_that_blocks_its_loop_is_not_run_twice(cluster):
    """Many times longer than silence is tolerated, and nobody takes it for dead."""
    (id,) = cluster.add("block", {"seconds": 5})
    others = cluster.add("note", count=50)

    told = cluster.end(id, 40.0)

    assert (told["state"], told["attempts"], told["crashes"], len(cluster.runs(id))) == ("succeeded", 1, 0, 1)
    assert {cluster.end(other)["state"] for other in others} == {"succeeded"}
    assert moment(told["history"][0]["ended"]) - moment(told["history"][0]["started"]) > 4.9


# -- those who decide


@pytest.mark.parametrize(
    "roles", ["master dispatcher zygote", slowly("dispatcher"), slowly("master"), slowly("zygote")]
)
def test_executors_keep_their_work_when_others_are_killed(cluster, roles):
    gate = "over-" + roles.replace(" ", "-")
    ids = cluster.add("gate", {"gate": gate}, count=6)
    for id in ids:
        cluster.started(id)
    before, people = sorted(cluster.pids("jobs")), everybody(cluster)
    for role in roles.split():
        kill(people[role][0])
    (later,) = until(lambda: answered(lambda: cluster.add("note", {"text": gate})), 40.0)
    cluster.open(gate)

    assert {cluster.end(id)["state"] for id in [*ids, later]} == {"succeeded"}

    assert [len(cluster.runs(id)) for id in [*ids, later]] == [1] * 7
    until(cluster.is_ready)
    assert sorted(cluster.pids("jobs")) == before


def everybody(cluster, *dead):
    """Pids by what they are, once every place is taken, and none of these is among them."""

    def found():
        people = answered(cluster.everybody) or {"": []}
        pids = {pid for some in people.values() for pid in some}
        return all(people.values()) and not pids & set(dead) and cluster.is_renewed(*dead) and people

    return until(found, 40.0)


def answered(question):
    """Its answer, None while nobody is there who has one."""
    try:
        return question()
    except Exception as error:  # noqa: BLE001 - of whatever kind: somebody is being replaced
        print(repr(error))
        return None


def add_murder(cluster, pid, when):
    """It begins when the command that adds it has been answered."""
    return cluster.add("murder", {"pid": pid, "when": when}, delay=0.1)


@pytest.mark.parametrize("when", ["after", slowly("before"), slowly("returned")])
def test_a_process_dies_at_each_point_of_a_run(cluster, when):
    """Crash points of a run, for the executor itself, and for each of the others."""
    people = everybody(cluster)
    victims = {"executor": 0, "dispatcher": people["dispatcher"][0], "master": people["master"][0]}
    victims["zygote"] = people["zygote"][0]

    told = {}
    for role, pid in victims.items():
        (id,) = until(lambda pid=pid: answered(lambda: add_murder(cluster, pid, when)), 40.0)
        told[role] = cluster.end(id, 40.0)
        victim = pid or told[role]["history"][0]["pid"]
        assert ended(victim)
        everybody(cluster, victim)

    assert {one["state"] for one in told.values()} == {"succeeded"}
    runs = {role: len(cluster.runs(one["id"])) for role, one in told.items()}
    twice = 2 if when == "after" else 1
    assert runs.pop("executor") in ((1, 2) if when == "returned" else (twice,))
    assert set(runs.values()) == {1}


# -- everybody


def test_a_cluster_that_was_killed_goes_on_where_it_was(project):
    cluster = project(jobs=JOBS).start()
    (id,) = cluster.add("gate", {"gate": "on"})
    cluster.message("pause", "note")
    (waiting,) = cluster.add("note", {"text": "paused"})
    cluster.started(id)
    for pid in cluster.processes():
        kill(pid)
    until(lambda: not cluster.processes())
    cluster.start()
    ready = time.time()

    again = cluster.started(id, 2)
    cluster.open("on")

    assert again[1]["attempt"] == 2
    assert again[1]["at"] - ready < LEASE / 3
    assert cluster.end(id)["state"] == "succeeded"
    assert (cluster.show(waiting)["state"], cluster.tally("note")["paused"]) == ("queued", True)
    cluster.message("resume", "note")
    assert cluster.end(waiting)["attempts"] == 1


def test_executors_without_keeper_and_master_finish_and_leave(project):
    """What they were doing is stored, since the dispatcher leaves after them."""
    cluster = project(jobs=JOBS, app={"orphan_timeout": "1s"}).start()
    ids = cluster.add("gate", {"gate": "orphans"}, count=2)
    for id in ids:
        cluster.started(id)
    people = cluster.processes()
    kill(cluster.keeper)
    kill(cluster.master)
    cluster.open("orphans")

    assert all(ended(pid, ORPHANED) for pid in people)

    assert cluster.query("SELECT state, attempts FROM done") == [{"state": "succeeded", "attempts": 1}] * 2
    assert cluster.query("SELECT * FROM lease") == []


@pytest.mark.slow
def test_orphans_that_do_not_finish_leave_as_well(project):
    """After `orphan_timeout` they are drained; what they held is free at once when the cluster is started again."""
    cluster = project(jobs=JOBS, app={"orphan_timeout": "1s"}).start()
    (id,) = cluster.add("gate", {"gate": "endless"})
    cluster.started(id)
    people = cluster.processes()
    kill(cluster.keeper)
    kill(cluster.master)

    assert all(ended(pid, 40.0) for pid in people)
    cluster.open("endless")
    cluster.start()
    ready = time.time()

    assert cluster.started(id, 2)[1]["at"] - ready < LEASE / 3
    told = cluster.end(id)
    assert (told["state"], told["iteration"]) == ("succeeded", 2)


def test_a_start_over_living_executors_runs_nothing_at_the_same_time(project):
    """Keeper and master are killed and the cluster is started at once, while its executors still work."""
    cluster = project(jobs=JOBS).start()
    (id,) = cluster.add("ticking", {"seconds": 2})
    pid = cluster.started(id)[0]["pid"]
    until(lambda: cluster.runs(id, event="tick"))
    keeper, master = cluster.keeper, cluster.master
    kill(keeper)
    kill(master)
    cluster.process.wait(10.0)
    cluster.start()

    told = cluster.end(id, 40.0)

    assert told["state"] == "succeeded"
    runs = cluster.runs(id)
    last = max(tick["at"] for tick in cluster.runs(id, event="tick") if tick["pid"] == pid)
    assert len(runs) <= 2
    assert all(run["at"] > last for run in runs[1:])
