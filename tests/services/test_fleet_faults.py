"""The bus fails in every way it can: every command comes to an end on every host, and none takes effect twice."""

import json
import signal

import pytest

from bkd.supervisor.bus.letter import contents, decode
from bkd.supervisor.bus.orders import Ack

from ..cluster.clients import finished
from ..cluster.cluster import alive, kill, until
from .conftest import running
from .fleet import TOOL, WEB, Detours, fleets

NAMES = ("h1", "h2", "h3")
ENDED = {"done", "failed", "refused", "expired", "unreachable", "skipped"}
HEAD = 40


@pytest.fixture(scope="module")
def server():
    with running("redis62") as server:
        yield server


@pytest.fixture(scope="module")
def detours(server):
    with Detours(server, NAMES) as detours:
        yield detours


@pytest.fixture(scope="module")
def whole_fleet(server, detours, tmp_path_factory):
    with fleets(tmp_path_factory) as launch:
        yield launch(server, NAMES, url=detours.url, web=WEB, tool=TOOL)


@pytest.fixture
def fleet(whole_fleet):
    """Every test begins with one worker of `tool` on each host, and with all of them on the bus."""
    whole_fleet.connected()
    for cluster in whole_fleet.hosts.values():
        cluster.bkd("scale", "tool=1")
    until(lambda: whole_fleet.known() == [*NAMES])
    return whole_fleet


def verdict(result):
    """The states of a command by host, all of them ends."""
    states = {row["host"]: row["state"] for row in json.loads(result.stdout)["hosts"]}
    assert set(states.values()) <= ENDED, states
    return states


def grown(fleet, results):
    """Every host has obeyed each `scale tool=+1` once if it said so, and at most once otherwise."""
    said = [verdict(result) for result in results if result.stdout]
    for name, count in fleet.counts().items():
        least = 1 + sum(states[name] == "done" for states in said)
        assert least <= count <= 1 + len(results), (name, count, said, [result.stderr for result in results])
        ids = [event["id"] for event in fleet.journal(name, "fleet-command-taken")]
        assert len(ids) == len(set(ids))
    return said


def acknowledged(server, id, host):
    """What a host has said of a command, in its order."""
    with server.admin() as client:
        entries = client.xrange(f"shop:reply:{id}")
    acks = [contents(decode(fields[b"p"][HEAD:]), Ack) for _, fields in entries]
    return [ack.state for ack in acks if ack.host == host]


def grow(fleet, *options):
    return fleet.bkd("scale", "tool=+1", "--fleet", "--json", *options)


def growing(fleet, *options):
    return fleet.begun("scale", "tool=+1", "--fleet", "--json", *options)


# -- the server


def test_a_bus_that_dies_and_comes_back_empty(fleet, server):
    first = fleet.first()
    results = [grow(fleet)]
    with fleet.held("h2"):
        rollout = fleet.begun("restart", "tool", "--fleet", "--json")
        fleet.running("h2")
        between = [growing(fleet) for _ in range(2)]
        server.kill()
        try:
            until(lambda: all(c.status()["bus"]["state"] == "away" for c in fleet.hosts.values()))
            told = first.status()["bus"]
            assert (told["connected"], bool(told["error"])) == (False, True)
            refused = grow(fleet)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "only this host can be reached" in refused.stderr
            assert first.get("/")
            assert first.bkd("restart", "web").returncode == 0
            assert first.bkd("scale", "web=2").returncode == 0
        finally:
            server.start()
        fleet.connected()
    results += [finished(caller, 60) for caller in between]
    assert set(verdict(ended := finished(rollout)).values()) <= {"done", "failed", "unreachable"}
    assert ended.returncode in (1, 3)
    until(lambda: fleet.known() == [*NAMES])
    results.append(grow(fleet))
    assert verdict(results[-1]) == dict.fromkeys(NAMES, "done")
    grown(fleet, results)
    assert fleet.states("restart", "tool") == dict.fromkeys(NAMES, "done")
    assert first.bkd("scale", "web=1").returncode == 0


def test_a_bus_that_is_emptied(fleet, server):
    results = [grow(fleet)]
    with fleet.held("h2"):
        rollout = fleet.begun("restart", "tool", "--fleet", "--json")
        fleet.running("h2")
        with server.admin() as client:
            client.flushall()
        results.append(grow(fleet, "--host", "h1"))
    assert set(verdict(finished(rollout)).values()) <= {"done", "failed"}
    until(lambda: fleet.known() == [*NAMES])
    results.append(grow(fleet))
    assert verdict(results[-1]) == dict.fromkeys(NAMES, "done")
    counts = {name: 1 + sum(verdict(result).get(name) == "done" for result in results) for name in NAMES}
    assert fleet.counts() == counts
    assert fleet.states("restart", "tool") == dict.fromkeys(NAMES, "done")


def test_connections_that_are_killed(fleet, server):
    with fleet.held("h2"):
        rollout = fleet.begun("restart", "tool", "--fleet", "--json")
        fleet.running("h2")
        callers = [growing(fleet)]
        with server.admin() as client:
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)
        callers.append(growing(fleet))
        fleet.connected()
    results = [finished(caller) for caller in callers]
    assert verdict(finished(rollout)) == dict.fromkeys(NAMES, "done")
    grown(fleet, results)
    results.append(grow(fleet))
    assert grown(fleet, results)[-1] == dict.fromkeys(NAMES, "done")


# -- the network


def test_a_host_that_was_cut_off_catches_up_and_lets_be_what_is_too_old(fleet, server, detours):
    late = fleet.hosts["h2"].status()["bus"]["late"]
    with detours.cut_off("h2"):
        until(lambda: not fleet.hosts["h2"].status()["bus"]["connected"])
        old = grow(fleet, "--expires", "3s")
        new = [growing(fleet, "--expires", "1m") for _ in range(2)]
        until(lambda: fleet.counts() == {"h1": 4, "h2": 1, "h3": 4})
    results = [finished(caller) for caller in new]
    assert (old.returncode, verdict(old)) == (3, {"h1": "done", "h2": "unreachable", "h3": "done"})
    reason = json.loads(old.stdout)["hosts"][1]["reason"]
    assert "last seen" in reason
    assert [(result.returncode, verdict(result)) for result in results] == [(0, dict.fromkeys(NAMES, "done"))] * 2
    assert fleet.counts() == {"h1": 4, "h2": 3, "h3": 4}
    assert fleet.hosts["h2"].status()["bus"]["late"] == late + 1
    until(lambda: acknowledged(server, json.loads(old.stdout)["id"], "h2") == ["expired"])
    assert fleet.journal("h2", "fleet-command-ignored")[-1]["id"] == json.loads(old.stdout)["id"]


def test_a_master_that_dies_while_its_host_is_cut_off(fleet, detours):
    with detours.cut_off("h2"):
        until(lambda: not fleet.hosts["h2"].status()["bus"]["connected"])
        caller = growing(fleet, "--expires", "1m")
        until(lambda: fleet.counts() == {"h1": 2, "h2": 1, "h3": 2})
        fleet.kill_master("h2")
    assert verdict(finished(caller)) == dict.fromkeys(NAMES, "done")
    fleet.kill_master("h2")
    fleet.connected("h2")
    assert fleet.counts() == dict.fromkeys(NAMES, 2)


def test_a_master_that_dies_in_the_middle_of_many(fleet):
    """It says of each command what became of it, or that it cannot know; none is done twice."""
    master = fleet.hosts["h2"].status()["master_pid"]
    callers = [growing(fleet) for _ in range(6)]
    until(lambda: fleet.group_of("h2")["count"] > 1, pause=0)
    kill(master)
    results = [finished(caller) for caller in callers]
    assert len(grown(fleet, results)) == len(callers)
    assert {fleet.counts()[name] for name in ("h1", "h3")} == {7}
    assert not alive(master)


@pytest.mark.parametrize("way", ["up", "down"])
def test_one_direction_swallows_all_of_one_host(fleet, detours, way):
    with detours.swallowing("h2", ways=[way]):
        caller = growing(fleet, "--expires", "1m")
        until(lambda: fleet.counts() | {"h2": 2} == dict.fromkeys(NAMES, 2))
        until(lambda: not fleet.hosts["h2"].status()["bus"]["connected"], 60.0)
        assert fleet.hosts["h2"].get("/")
    result = finished(caller)
    assert verdict(result) == dict.fromkeys(NAMES, "done")
    assert fleet.counts() == dict.fromkeys(NAMES, 2)


def test_nothing_comes_through_to_anybody_for_a_while(fleet, detours):
    callers = [growing(fleet)]
    with detours.swallowing(*NAMES, ways=["up", "down"]):
        callers += [growing(fleet), growing(fleet)]
        until(lambda: all(not c.status()["bus"]["connected"] for c in fleet.hosts.values()), 60.0)
        assert fleet.hosts["h3"].bkd("restart", "tool").returncode == 0
    results = [finished(caller) for caller in callers]
    fleet.connected()
    until(lambda: fleet.known() == [*NAMES])
    results.append(grow(fleet))
    assert grown(fleet, results)[-1] == dict.fromkeys(NAMES, "done")


def test_a_slow_network(fleet, detours):
    detours.tell(NAMES, "delay", 0.07)
    try:
        assert verdict(grow(fleet)) == dict.fromkeys(NAMES, "done")
        assert fleet.states("restart", "tool", "--batch", "3") == dict.fromkeys(NAMES, "done")
    finally:
        detours.tell(NAMES, "delay", 0.0)
    assert fleet.counts() == dict.fromkeys(NAMES, 2)


def test_a_host_that_slept_says_that_it_is_too_late(fleet):
    fleet.signal_host("h3", signal.SIGSTOP)
    try:
        old = grow(fleet, "--expires", "3s")
    finally:
        fleet.signal_host("h3", signal.SIGCONT)
    assert (old.returncode, verdict(old)["h3"]) == (3, "unreachable")
    until(lambda: json.loads(old.stdout)["id"] in [e["id"] for e in fleet.journal("h3", "fleet-command-ignored")])
    assert fleet.counts() == {"h1": 2, "h2": 2, "h3": 1}
