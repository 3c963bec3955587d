"""Commands of the fleet, over five hosts on one machine: real clusters on a real bus."""

import json
import signal
from contextlib import ExitStack

import pytest

from ..cluster.clients import deploy, finished
from ..cluster.cluster import kill, until
from .conftest import running
from .fleet import FIVE, TOOL, WEB, fleets

TAGS = {"h1": "blue", "h2": "blue", "h3": "green", "h4": "green", "h5": "green"}
ALL_DONE = dict.fromkeys(FIVE, "done")
ROW = {"host", "state", "reason", "took"}
EAR = """
from bkd.ipc import ipc

@ipc.on("price:changed")
def heard(event):
    print("heard", event.data, flush=True)
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """`start(names, **options)`: a fleet on a bus of its own."""
    with ExitStack() as stack:
        launch = stack.enter_context(fleets(tmp_path_factory))
        yield lambda names=FIVE, **options: launch(stack.enter_context(running("redis")), names, **options)


@pytest.fixture(scope="module")
def doomed(start):
    """Another fleet: h3 died at work, h5 stands still. Patience and leases run out while other tests are at work; who
    waits for that are `dying` and `unreached`."""
    fleet = start(tool=TOOL, other=TOOL)
    fleet.signal_host("h5", signal.SIGSTOP)
    fleet.unreached = fleet.begun("restart", "other", "--fleet", "--json", *_hosts("h1", "h5"))
    with fleet.held("h3"):
        fleet.dying = fleet.begun("restart", "tool", "--fleet", "--json", *_hosts("h1", "h2", "h3", "h4"))
        until(lambda: fleet.group_of("h3")["roll"])
        fleet.kill_host("h3")
    return fleet


@pytest.fixture(scope="module")
def fleet(start, doomed):
    return start(tags=TAGS, web=WEB, tool=TOOL)


def _hosts(*names):
    return [word for name in names for word in ("--host", name)]


# -- in turn


def test_a_rollout_loses_nothing_and_goes_from_host_to_host(fleet):
    fleet.deploy("2")
    with fleet.under_load() as loads:
        document = fleet.ask("restart", "web", "--fleet", limit=60)
    assert {load.answers[-1][1] for load in loads.values()} == {"2"}
    assert document.keys() == {"id", "verb", "state", "hosts"}
    assert (document["verb"], document["state"]) == ("restart", "done")
    assert [(row["host"], row["state"], row["reason"]) for row in document["hosts"]] == [
        (name, "done", None) for name in FIVE
    ]
    assert all(row.keys() == ROW and row["took"] > 0 for row in document["hosts"])
    turns = fleet.intervals("web")
    assert [name for name, _, _ in turns] == [*FIVE]
    ends, begins = [end for _, _, end in turns], [begin for _, begin, _ in turns]
    assert [end < begin for end, begin in zip(ends, begins[1:], strict=False)] == [True] * 4


@pytest.mark.parametrize("batch", ["2", "40%"])
def test_so_many_at_a_time_and_no_more(fleet, batch):
    with fleet.held(*FIVE):
        caller = fleet.begun("restart", "tool", "--fleet", "--json", "--batch", batch)
        fleet.running("h1", "h2")
        (fleet.hosts["h2"].folder / "closed").unlink()
        fleet.running("h1", "h3")
    result = finished(caller)
    assert result.returncode == 0, result.stderr
    turns = fleet.intervals("tool")
    assert max(sum(begin <= at < end for _, begin, end in turns) for _, at, _ in turns) == 2


@pytest.mark.parametrize(
    ("chosen", "hosts"),
    [
        (["--tag", "blue"], ["h1", "h2"]),
        (["--host", "h4", "--host", "h2"], ["h2", "h4"]),
        (["--tag", "green", "--host", "h4", "--host", "h2"], ["h4"]),
    ],
)
def test_only_the_hosts_that_are_meant(fleet, chosen, hosts):
    before = fleet.releases("tool")

    assert fleet.states("restart", "tool", *chosen) == dict.fromkeys(hosts, "done")
    changed = [name for name, release in fleet.releases("tool").items() if release != before[name]]
    assert changed == hosts


def test_a_dry_run_says_which_hosts_and_changes_nothing(fleet):
    before = fleet.releases("tool"), fleet.bkd("fleet", "list").stdout.split()[0:3]
    taken = {name: len(fleet.journal(name, "fleet-command-taken")) for name in FIVE}

    document = fleet.ask("restart", "tool", "--fleet", "--dry-run", "--tag", "green", "--batch", "2")
    text = fleet.bkd("scale", "tool=9", "--fleet", "--dry-run")

    assert (document["verb"], document["batch"]) == ("restart", 2)
    assert [(row["host"], row["tag"]) for row in document["hosts"]] == [(n, "green") for n in ("h3", "h4", "h5")]
    assert (text.returncode, text.stderr) == (0, "")
    assert [line.split()[0] for line in text.stdout.splitlines()[2:]] == [*FIVE]
    assert (fleet.releases("tool"), fleet.bkd("fleet", "list").stdout.split()[0:3]) == before
    assert {name: len(fleet.journal(name, "fleet-command-taken")) for name in FIVE} == taken
    assert {name: fleet.group_of(name)["count"] for name in FIVE} == dict.fromkeys(FIVE, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["restart", "tool", "--fleet", "--host", "h9"], "no host h9; the bus knows h1 (tag blue), "),
        (["restart", "tool", "--fleet", "--tag", "red"], "no host with the tag red and with the group tool; "),
        (["restart", "cache", "--fleet"], "no host with the group cache; "),
        (["restart", "tool.1", "--fleet"], "tool.1: the fleet is asked for groups"),
        (["restart", "tool", "--fleet", "--batch", "0"], "is no batch"),
        (["restart", "tool", "--tag", "blue"], "--tag is for --fleet"),
        (["scale", "tool=2", "--fleet", "--expires", "1h"], "--expires takes from 1s to 5m"),
        (["fleet", "show", "ffff"], "no rollout ffff"),
    ],
)
def test_what_makes_no_sense_is_exit_2_and_one_line(fleet, arguments, said):
    result = fleet.bkd(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


# -- failures


def test_a_bad_deploy_on_one_host_leaves_the_rest_alone(fleet):
    """Exit 1, the reason and the traceback of that host on the terminal; the hosts behind it never began."""
    before = fleet.releases()
    deploy(fleet.hosts["h2"], "3", "raise ValueError('no price list')")
    with fleet.under_load("h2", "h3"):
        result = fleet.bkd("restart", "web", "--fleet")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "h2: Traceback (most recent call last)" in result.stderr
    lines = result.stderr.splitlines()
    assert any(line.startswith("h2: failed") and "ValueError: no price list" in line for line in lines)
    assert lines[-1] == "bkd: restart: 1 of 5 hosts done, 1 failed, 3 skipped"
    assert fleet.shown() == ("failed", {"h1": "done", "h2": "failed"} | dict.fromkeys(["h3", "h4", "h5"], "skipped"))
    assert fleet.releases() == before | {"h1": before["h1"] + 1}
    assert {name: fleet.group_of(name, "web")["ready"] for name in FIVE} == dict.fromkeys(FIVE, 1)
    assert fleet.states("rollback", "web") == {"h1": "done"}  # the others have not moved
    assert fleet.releases() == before
    deploy(fleet.hosts["h2"], "2")


def test_the_document_of_a_failed_rollout_has_the_reason(fleet):
    with fleet.broken("h2"):
        document = fleet.ask("restart", "tool", "--fleet", "--tag", "blue", code=1)
    assert document["state"] == "failed"
    good, bad = document["hosts"]
    assert (good["state"], good["reason"]) == ("done", None)
    assert (bad["state"], "tool" in bad["reason"]) == ("failed", True)


def test_as_many_may_fail_as_were_allowed(fleet):
    with fleet.broken("h2"):
        assert fleet.states("restart", "tool", "--max-fail", "1", code=1) == ALL_DONE | {"h2": "failed"}
    with fleet.broken("h2", "h4"):
        states = fleet.states("restart", "tool", "--max-fail", "1", code=1)
    assert states == ALL_DONE | {"h2": "failed", "h4": "failed", "h5": "skipped"}


# -- one at a time, and its end


def test_a_second_rollout_of_a_group_is_told_who_has_it(fleet):
    with fleet.held("h1"):
        caller = fleet.begun("restart", "tool", "--fleet")
        fleet.running("h1")
        second = fleet.bkd("restart", "tool", "--fleet")
        third = fleet.hosts["h3"].bkd("rollback", "tool", "--fleet")
        other = fleet.bkd("restart", "web", "--fleet", "--host", "h5")
    assert finished(caller).returncode == 0
    for refused in (second, third):
        assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (1, "", 1)
        assert "@h1 has a restart of tool going on; wait, or `bkd fleet abort " in refused.stderr
    assert other.returncode == 0, other.stderr


def test_abort_skips_those_that_have_not_begun(fleet):
    with fleet.held("h2"):
        caller = fleet.begun("restart", "tool", "--fleet", "--json")
        fleet.running("h2")
        (rollout, *_rest) = fleet.ask("fleet", "list")["rollouts"]
        aborted = fleet.hosts["h4"].bkd("fleet", "abort", rollout["id"])
        assert (aborted.returncode, aborted.stderr) == (0, "")
    result = finished(caller)
    document = json.loads(result.stdout)
    assert result.returncode == 1
    assert [row["state"] for row in document["hosts"]] == ["done", "done", "skipped", "skipped", "skipped"]
    assert "aborted by " in document["hosts"][-1]["reason"]
    assert fleet.shown()[0] == "aborted"
    assert fleet.bkd("fleet", "abort", rollout["id"]).returncode == 1


# -- deaths in the middle of it


def test_the_caller_may_be_killed(fleet):
    with fleet.held("h2"):
        caller = fleet.begun("restart", "tool", "--fleet")
        fleet.running("h2")
        kill(caller.pid)
        assert finished(caller).returncode == -signal.SIGKILL
    until(lambda: fleet.shown("h5") == ("done", ALL_DONE))


def test_the_issuers_master_may_be_killed_and_the_caller_gets_its_verdict(fleet):
    with fleet.held("h2"):
        caller = fleet.begun("restart", "tool", "--fleet", "--json")
        fleet.running("h2")
        fleet.kill_master("h1")
    result = finished(caller)
    assert result.returncode == 0, result.stderr
    assert {row["host"]: row["state"] for row in json.loads(result.stdout)["hosts"]} == ALL_DONE


def test_the_master_at_work_may_be_killed(fleet):
    before = fleet.releases("tool")
    with fleet.held("h2"):
        caller = fleet.begun("restart", "tool", "--fleet", "--json")
        fleet.running("h2")
        fleet.kill_master("h2")
    result = finished(caller)
    assert result.returncode == 0, (result.stdout, result.stderr)
    assert {row["host"]: row["state"] for row in json.loads(result.stdout)["hosts"]} == ALL_DONE
    assert fleet.releases("tool") == {name: release + 1 for name, release in before.items()}


def test_the_master_of_a_host_that_waits_may_be_killed(fleet):
    before = fleet.releases("tool")
    with fleet.held("h1"):
        caller = fleet.begun("restart", "tool", "--fleet", "--json")
        fleet.running("h1")
        fleet.kill_master("h3")
    result = finished(caller)
    assert result.returncode == 0, (result.stdout, result.stderr)
    assert fleet.releases("tool") == {name: release + 1 for name, release in before.items()}


def test_a_host_that_dies_at_work_has_failed_after_its_lease(doomed):
    result = finished(doomed.dying)
    document = json.loads(result.stdout)
    assert (result.returncode, document["state"]) == (1, "failed")
    assert [row["state"] for row in document["hosts"]] == ["done", "done", "failed", "skipped"]
    assert "not heard of for" in document["hosts"][2]["reason"]
    assert document["hosts"][3]["reason"] == "h3 failed"
    assert doomed.group_of("h4")["release"] == 1


def test_a_host_that_stands_still_is_not_reached_and_does_not_obey_later(doomed):
    result = finished(doomed.unreached)
    first, last = json.loads(result.stdout)["hosts"]
    assert (result.returncode, first["state"], last["state"]) == (3, "done", "unreachable")
    assert "last seen" in last["reason"]

    status = doomed.bkd("status", "--fleet", "--json")
    assert status.returncode == 3
    answered = {row["host"]: row["answered"] for row in json.loads(status.stdout)["hosts"]}
    assert answered == dict.fromkeys(FIVE, True) | {"h3": False, "h5": False}
    assert "h5: unreachable: last seen " in status.stderr

    doomed.signal_host("h5", signal.SIGCONT)
    until(lambda: doomed.journal("h5", "fleet-command-ignored"))
    assert doomed.group_of("h5", "other")["release"] == 1


# -- the other verbs


def test_rollback(fleet):
    before = {name: cluster.get("/").split()[0] for name, cluster in fleet.hosts.items()}
    fleet.deploy("new")
    assert fleet.bkd("restart", "web", "--fleet", "--batch", "5").returncode == 0
    with fleet.under_load("h1", "h4"):
        assert fleet.states("rollback", "web", "--batch", "5") == ALL_DONE
    assert {name: cluster.get("/").split()[0] for name, cluster in fleet.hosts.items()} == before
    assert fleet.states("rollback", "tool", code=1) == {"h1": "failed"} | dict.fromkeys(FIVE[1:], "skipped")


def test_reload(fleet):
    texts = {name: cluster.file.read_text() for name, cluster in fleet.hosts.items()}
    for name, cluster in fleet.hosts.items():
        line = 'nonsense = "1"\n' if name == "h4" else 'env = { PRICE = "7" }\n'
        cluster.file.write_text(texts[name].replace("[workers.web]\n", f"[workers.web]\n{line}"))
    result = fleet.bkd("reload", "--fleet", "--batch", "2")
    assert result.returncode == 1
    assert "h4: " in result.stderr and "nonsense" in result.stderr
    states = fleet.shown()[1]
    assert [states[name] for name in ("h1", "h2", "h3")] == ["done"] * 3
    assert states["h4"] in ("failed", "refused")
    assert [fleet.hosts[name].get("/environment?PRICE") for name in ("h1", "h2", "h3")] == ["7"] * 3
    for name, cluster in fleet.hosts.items():
        cluster.file.write_text(texts[name])
    assert fleet.states("reload", "--batch", "5") == ALL_DONE
    assert [fleet.hosts[name].get("/environment?PRICE") for name in FIVE] == [""] * 5


def test_scale(fleet):
    document = fleet.ask("scale", "tool=+1", "--fleet")
    assert (document["verb"], document["state"]) == ("scale", "done")
    assert {row["host"]: row["state"] for row in document["hosts"]} == ALL_DONE
    assert {name: fleet.group_of(name)["count"] for name in FIVE} == dict.fromkeys(FIVE, 2)
    text = fleet.bkd("scale", "tool=1", "--fleet")
    assert text.returncode == 0
    assert [line for line in text.stdout.splitlines() if line.startswith("h")] == [f"{n}: tool: 2 -> 1" for n in FIVE]
    assert fleet.states("scale", "tool=lots", code=1) == dict.fromkeys(FIVE, "refused")


def test_send(fleet):
    def heard():
        return {name: fleet.hosts[name].log("web.1").count("heard {'sku': 7}") for name in ("h2", "h4")}

    for name in heard():
        deploy(fleet.hosts[name], "ear", EAR)
    assert fleet.bkd("restart", "web", "--fleet", "--batch", "2", *_hosts(*heard())).returncode == 0
    assert fleet.states("send", "price:changed", '{"sku": 7}', "--to", "web") == ALL_DONE
    until(lambda: heard() == {"h2": 1, "h4": 1})
    assert fleet.states("send", "price:changed", '{"sku": 7}', "--to", "web:green") == {
        name: "done" for name in FIVE if TAGS[name] == "green"
    }
    until(lambda: heard() == {"h2": 1, "h4": 2})
    for op in ("ipc:lru:del", "worker:ping"):
        assert fleet.states("send", op, code=1) == dict.fromkeys(FIVE, "refused")


def test_status_and_events_of_all_hosts(fleet):
    document = fleet.ask("status", "--fleet")
    assert document.keys() == {"hosts"}
    assert [(row["host"], row["tag"], row["answered"]) for row in document["hosts"]] == [
        (name, TAGS[name], True) for name in FIVE
    ]
    for row in document["hosts"]:
        assert row.keys() == {"host", "tag", "answered", "seen", "status"}
        assert 0 <= row["seen"] < 60
        assert row["status"].keys() == fleet.hosts["h1"].status().keys()
        assert row["status"]["host"] == row["host"]
    table = fleet.bkd("status", "--fleet", "--tag", "green").stdout
    assert [name in table for name in FIVE] == [False, False, True, True, True]

    lines = fleet.bkd("events", "--fleet", "--since", "5m").stdout.splitlines()
    assert {line.split()[2] for line in lines} == {*FIVE}
    assert [line[:19] for line in lines] == sorted(line[:19] for line in lines)
    rows = [json.loads(line) for line in fleet.bkd("events", "--fleet", "--json").stdout.splitlines()]
    assert {row["host"] for row in rows} == {*FIVE}
    assert {"time", "fact", "host"} <= rows[0].keys()


def test_stop_ends_all_hosts_and_its_caller_gets_the_verdict(start):
    fleet = start(("h1", "h2", "h3"), tool=TOOL)
    document = fleet.ask("stop", "--fleet", limit=60)
    assert (document["verb"], document["state"]) == ("stop", "done")
    assert {row["host"]: row["state"] for row in document["hosts"]} == dict.fromkeys(fleet.hosts, "done")
    assert {name: cluster.exit_code() for name, cluster in fleet.hosts.items()} == dict.fromkeys(fleet.hosts, 0)
    until(lambda: all(cluster.is_gone() for cluster in fleet.hosts.values()))


def test_one_host_without_a_bus_is_a_fleet_of_one(start):
    fleet = start(("h1",), url="local:", bus={"secret_file": ""}, tool=TOOL)
    bus = fleet.first().status()["bus"]
    assert (bus["url"], bus["connected"], bus["refused"]) == ("local:", True, {})
    assert fleet.states("restart", "tool") == {"h1": "done"}
    assert fleet.states("scale", "tool=2") == {"h1": "done"}
    assert fleet.states("reload") == {"h1": "done"}
    assert fleet.states("rollback", "tool", code=1) == {"h1": "failed"}
    with fleet.broken("h1"):
        assert fleet.states("restart", "tool", code=1) == {"h1": "failed"}
    assert [row["state"] for row in fleet.ask("fleet", "list")["rollouts"]] == ["failed", "failed", "done", "done"]
    assert fleet.known() == ["h1"]
    assert "h1" in fleet.bkd("events", "--fleet").stdout
    assert fleet.states("stop") == {"h1": "done"}
    until(fleet.first().is_gone)
