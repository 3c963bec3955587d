"""Two hosts on one PostgreSQL, and what they do when it, or one of them, is gone."""

import os
import signal
import time
from contextlib import contextmanager, suppress

import psycopg
import pytest

from ...services.postgres import discard, fresh_url, new_server
from ..cluster import until
from .project import JOBS, moment

SETTINGS = JOBS | {"concurrency": 5}


class Fleet:
    """Two projects of one application, `a` and `b`, in one database."""

    def __init__(self, url, a, b):
        self.url, self.a, self.b = url, a, b

    def runs(self, *ids, **which):
        """What handlers on both hosts have written."""
        return sorted(self.a.runs(*ids, **which) + self.b.runs(*ids, **which), key=lambda one: one["at"])

    def place(self, id):
        """The host where it has been started, and the other one."""
        until(lambda: self.runs(id))
        until(lambda: self.has_begun(id))
        return (self.a, self.b) if self.a.runs(id) else (self.b, self.a)

    def has_begun(self, *ids):
        """Whether the store knows that these are running, which it is told half a second later."""
        with psycopg.connect(self.url, autocommit=True) as base:
            rows = base.execute("SELECT began FROM bkd.lease WHERE message_id = ANY(%s)", (list(ids),)).fetchall()
        return len(rows) == len(ids) and all(began for (began,) in rows)

    def forget(self, cluster):
        """The other host takes this one for dead, as it would half a minute after its last word."""
        with psycopg.connect(self.url, autocommit=True) as base:
            done = base.execute("UPDATE bkd.node SET until = 1 WHERE name LIKE %s", (f"{cluster.host}/%",))
            assert done.rowcount == 1


@contextmanager
def stopped(cluster):
    """Every process of a host stands still."""
    pids = cluster.processes()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def host(make, name, url):
    """One of several hosts of an application."""
    cluster = make(
        jobs=SETTINGS, app={"host": name}, store={"url": url}, ping={"interval": "5s", "kill": "60s"}
    ).start()
    cluster.host = name
    return cluster


@pytest.fixture(scope="module")
def fleet(shared_project):
    url = fresh_url()
    return Fleet(url, host(shared_project, "a", url), host(shared_project, "b", url))


def test_two_hosts_run_each_message_once(fleet):
    room = 2 * SETTINGS["count"] * SETTINGS["concurrency"]
    ids = fleet.a.add("gate", {"gate": "both"}, count=room)
    until(lambda: len(fleet.runs(*ids)) == room)
    for cluster in (fleet.a, fleet.b):
        cluster.open("both")
    quick = fleet.b.add("note", count=200)

    for cluster in (fleet.a, fleet.b):
        cluster.ends("gate", "note")
    assert {fleet.b.end(id)["state"] for id in ids} == {"succeeded"}

    assert sorted(run["id"] for run in fleet.runs(*ids, *quick)) == ids + quick
    assert [len(cluster.runs(*ids)) for cluster in (fleet.a, fleet.b)] == [room // 2] * 2


def test_a_message_is_cancelled_from_another_host(fleet):
    (id,) = fleet.a.add("gate", {"gate": "never"})
    _there, here = fleet.place(id)

    done = here.message("cancel", id)

    assert (done["ids"], done["still_running"]) == ([id], [])
    told = here.end(id)
    assert (told["state"], len(fleet.runs(id)), told["actions"][-1]["verb"]) == ("cancelled", 1, "cancel")


def test_a_kind_is_paused_everywhere(fleet):
    fleet.a.message("pause", "note")
    until(lambda: fleet.b.tally("note") is None or fleet.b.tally("note")["paused"])
    ids = fleet.b.add("note", count=20)
    others = fleet.b.add("noop", count=20)
    assert {fleet.a.end(id)["state"] for id in others} == {"succeeded"}
    assert fleet.runs(*ids) == []
    fleet.b.message("resume", "note")

    assert {fleet.a.end(id)["state"] for id in ids} == {"succeeded"}


def test_who_comes_too_late_changes_nothing(fleet):
    """A host stands still for longer than its lease; another one runs its message; then it goes on."""
    (id,) = fleet.a.add("gate", {"gate": "late"})
    slow, quick = fleet.place(id)
    with stopped(slow):
        fleet.forget(slow)
        until(lambda: quick.runs(id))
        quick.open("late")
        told = quick.end(id)
        assert (told["state"], told["attempts"]) == ("succeeded", 2)
        slow.open("late")
    works_on(fleet)
    if slow.runs(id, event="end"):  # else it was told in time that the message is somebody else's, and cancelled
        until(lambda: quick.show(id)["history"][0]["late"])

    late = quick.show(id)
    assert (late["state"], late["finished"], late["attempts"]) == ("succeeded", told["finished"], 2)
    assert [one["fence"] for one in late["history"]] == [1, 2]
    until(lambda: slow.is_ready())


def test_a_message_that_was_put_off_too_late_has_one_owner(fleet):
    (id,) = fleet.a.add("snooze", {"gate": "aba"})
    slow, quick = fleet.place(id)
    with stopped(slow):
        fleet.forget(slow)
        until(lambda: quick.runs(id))
        slow.open("aba")
    works_on(fleet)
    assert quick.show(id)["state"] == "running"
    quick.open("aba")

    assert quick.end(id)["state"] == "succeeded"
    assert len(fleet.runs(id)) == 2


def works_on(fleet):
    """Both hosts run messages again, each of them once."""
    ids = []

    def both():
        ids.extend(fleet.a.add("nap", {"seconds": 0.2}, count=30))
        for id in ids:
            fleet.b.end(id)
        return fleet.a.runs(*ids) and fleet.b.runs(*ids)

    until(both, 60.0)
    assert sorted(run["id"] for run in fleet.runs(*ids)) == ids


def test_a_host_that_died_is_inherited(fleet, shared_project):
    """All its processes are killed; what it was running is run by the others."""
    third = host(shared_project, "c", fleet.url)
    ids = fleet.a.add("portal", {"gate": "heirs"}, count=60)
    until(lambda: len(third.runs(*ids)) == SETTINGS["count"] * SETTINGS["concurrency"])
    mine = {run["id"] for run in third.runs(*ids)}
    until(lambda: fleet.has_begun(*mine))
    third.close()
    third.host = "c"
    fleet.forget(third)
    for cluster in (fleet.a, fleet.b):
        cluster.open("heirs")

    assert {fleet.a.end(id)["state"] for id in ids} == {"succeeded"}

    assert {run["id"] for run in fleet.runs(*ids) if run["run"] == 2} == mine
    assert len(fleet.runs(*ids)) == 60


@pytest.fixture
def durable():
    """A server that this test alone may kill."""
    server = new_server(durable=True)
    try:
        yield server
    finally:
        discard(server)


@pytest.mark.slow
def test_a_server_that_is_killed_costs_nothing_but_time(project, durable):
    cluster = host(project, "x", durable.database())
    before = cluster.processes()
    ids = cluster.add("nap", {"seconds": 0.02}, count=1000)
    late = []
    for outage in (0.2, 1.0, 3.0, 0.0):
        done = len(cluster.runs(*ids, event="end"))
        until(lambda done=done: len(cluster.runs(*ids, event="end")) >= min(done + 100, 1000))
        durable.kill()
        time.sleep(outage)
        durable.start()
        returned, known = time.time(), len(outages(cluster))
        until(lambda known=known: len(outages(cluster)) > known or (outages(cluster) and not is_away(cluster)), 20.0)
        late.append(outages(cluster)[-1] - returned)
        assert cluster.end(cluster.add("note", {"text": "back"})[0], 5.0)["state"] == "succeeded"
    cluster.ends("nap", limit=60.0)

    assert {cluster.end(id)["state"] for id in ids} == {"succeeded"}
    assert sorted(run["id"] for run in cluster.runs(*ids)) == sorted(ids)
    assert sorted(cluster.processes()) == sorted(before)
    assert cluster.faults() == []
    assert sorted(late)[-2] < 1.0, late  # one of them may meet a busy moment
    assert max(late) < 3.0, late


def outages(cluster):
    """When each of them was over, as the journal has it."""
    return [moment(event["time"]) for event in cluster.events("store-back")]


def is_away(cluster):
    """Whether the last word about the store is that it is away."""
    return cluster.events("store-away", "store-back")[-1]["fact"] == "store-away"


@pytest.mark.slow
def test_a_server_that_is_killed_while_outcomes_are_written(project, durable):
    """Again and again, in the middle of whatever it does."""
    cluster = host(project, "x", durable.database())
    ids = cluster.add("note", {"text": "flush"}, count=3000)
    for _ in range(6):
        time.sleep(0.3)
        durable.kill()
        durable.start()
    cluster.ends("note", limit=60.0)

    done = cluster.tally("note")
    assert done["succeeded"] == 3000
    runs = cluster.runs(*ids)
    assert len({(run["id"], run["run"]) for run in runs}) == len(runs)
    assert len(runs) - 3000 <= 0
    assert cluster.faults() == []


@pytest.mark.slow
def test_a_block_that_is_longer_than_the_lease_of_a_host(project):
    """An executor whose loop stands still for twice as long as a host may be silent, with another host at hand."""
    url = fresh_url()
    fleet = Fleet(url, host(project, "a", url), host(project, "b", url))
    (id,) = fleet.a.add("block", {"seconds": 65})

    told = fleet.a.end(id, 90.0)

    assert (told["state"], told["attempts"], len(fleet.runs(id))) == ("succeeded", 1, 1)


@pytest.mark.slow
def test_a_transaction_that_stays_open_slows_nothing_down_much(project):
    """Rows that nobody may clean up: claims still find the living ones quickly."""
    url = fresh_url()
    cluster = host(project, "x", url)

    def drained(count=2000):
        begun = time.monotonic()
        cluster.add("noop", count=count)
        cluster.ends("noop", limit=120.0)
        return time.monotonic() - begun

    drained()
    before = min(drained(), drained())
    with psycopg.connect(url) as idle:
        idle.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        idle.execute("SELECT 1 FROM bkd.message LIMIT 1")
        for _ in range(10):
            drained()
        after = min(drained(), drained())

    print(before, after)
    assert after < 3 * before, (before, after)
