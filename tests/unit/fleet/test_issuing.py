"""A client gives a command to the fleet and hears how every host ends, over the death of its master as well."""

import asyncio
import json
import time

import pytest

from bkd.supervisor.bus import rollout as rules
from bkd.supervisor.fleet import issuing as module
from bkd.supervisor.fleet.issuing import Issued
from bkd.supervisor.roles import Role

from .world import NAMES, PATIENCE, hurried, in_a_world, quiet, until, world

RESTART = {"names": ["web"]}


async def over(task):
    await asyncio.wait_for(task, PATIENCE)


@in_a_world
async def test_every_host_obeys_and_the_verdict_says_so(made):
    hosts = await made.up("h0", "h1", "h2")
    terminal, task = hosts[0].give("scale", {"web": "+1"})
    await over(task)
    assert terminal.code == 0
    assert terminal.out.splitlines() == [f"h{n}: web: 2 -> 3" for n in range(3)] + ["scale: 3 of 3 hosts done"]
    assert [host.count for host in hosts] == [3, 3, 3]


@in_a_world
async def test_json_is_one_document(made):
    h0, _ = await made.up("h0", "h1")
    terminal, task = h0.give("scale", {"web": "+1"}, render="json")
    await over(task)
    document = json.loads(terminal.out)
    assert (document["verb"], document["state"]) == ("scale", "done")
    assert [(row["host"], row["state"], row["reason"]) for row in document["hosts"]] == [
        ("h0", "done", None),
        ("h1", "done", None),
    ]


@in_a_world
async def test_nobody_has_to_wait(made):
    h0, h1 = await made.up("h0", "h1")
    terminal, task = h0.give("scale", {"web": "+1"}, no_wait=True)
    await over(task)
    assert terminal.code == 0
    assert terminal.out.startswith("scale asked of 2 hosts; see ")
    await until(lambda: h1.count == 3)


@in_a_world
async def test_a_dry_run_says_who_would_obey_and_nobody_does(made):
    h0, h1 = await made.up("h0", "h1")
    terminal, task = h0.give("restart", RESTART, dry_run=True, batch="2")
    await over(task)
    await quiet()
    assert terminal.out.startswith("restart on 2 hosts, 2 at a time, in this order:\nHOST")
    assert (h0.deeds.begun, h1.deeds.begun, NAMES.commands in h0.driver._streams) == ([], [], False)
    assert await h0.plane.rollouts.rows() == ()


@in_a_world
async def test_only_hosts_with_the_group_are_asked(made):
    h0 = await made.host("h0", groups=("jobs",)).up()
    (h1,) = await made.up("h1")
    await h0.plane.hosts.look()
    terminal, task = h0.give("scale", {"web": "+1"})
    await over(task)
    assert (terminal.out.splitlines()[-1], h1.count) == ("scale: 1 of 1 host done", 3)


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({"verb": "shell", "arguments": {}}, "the fleet obeys"),
        ({"verb": "restart", "arguments": []}, "the fleet obeys"),
        ({"verb": "restart", "arguments": {"names": ["web.1"]}}, "single slots"),
        ({"verb": "restart", "arguments": {}, "hosts": ["h9"]}, "no host h9; the bus knows h0"),
        ({"verb": "restart", "arguments": {}, "tag": "eu"}, "no host with the tag eu"),
        ({"verb": "restart", "arguments": {}, "batch": "0"}, "no batch"),
        ({"verb": "restart", "arguments": {}, "batch": "x"}, "no batch"),
        ({"verb": "restart", "arguments": {}, "expires": 0.5}, "--expires"),
        ({"verb": "restart", "arguments": {}, "expires": 301}, "--expires"),
        ({"verb": "restart", "arguments": {}, "expires": float("nan")}, "--expires"),
        ({"verb": "restart", "arguments": {}, "expires": "15s"}, "--expires"),
        ({"verb": "restart", "arguments": {}, "max_fail": "many"}, "--max-fail"),
        ({"verb": "restart", "arguments": {"names": 7}}, "names of groups"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_on_the_bus(about, why, tmp_path, monkeypatch):
    hurried(monkeypatch)

    async def refused():
        async with world(tmp_path) as made:
            (h0,) = await made.up("h0")
            terminal, task = h0.ask("fleet", about)
            await over(task)
            assert NAMES.commands not in h0.driver._streams
            assert await h0.plane.rollouts.rows() == ()
            return terminal

    terminal = asyncio.run(refused())
    assert terminal.code == 2
    assert why in terminal.err


@in_a_world
async def test_who_may_only_look_may_only_look(made):
    (h0,) = await made.up("h0")
    terminal, task = h0.give("restart", RESTART, role=Role.VIEWER)
    await over(task)
    assert (terminal.code, "operator" in terminal.err) == (1, True)
    terminal, task = h0.ask("fleet-look", {"verb": "restart", "arguments": RESTART}, role=Role.VIEWER)
    await over(task)
    assert terminal.code == 2
    terminal, task = h0.ask("fleet-look", {"verb": "events", "arguments": {}}, role=Role.VIEWER)
    await over(task)
    assert terminal.code == 0


@in_a_world
async def test_without_a_bus_only_this_host_can_be_reached(made):
    (h0,) = await made.up("h0")
    h0.plane.session.state, h0.plane.session.error = "away", "connection refused"
    terminal, task = h0.give("restart", RESTART)
    await over(task)
    assert terminal.err == "bkd: the bus is away (connection refused): only this host can be reached\n"
    assert terminal.code == 1


@in_a_world
async def test_a_host_that_never_answers_is_unreachable(made):
    h0, h1 = await made.up("h0", "h1")
    h1.die()
    terminal, task = h0.give("scale", {"web": "+1"})
    await until(lambda: h0.count == 3)
    made.later(17)
    await over(task)
    assert terminal.code == 3
    assert "h1: unreachable: last seen" in terminal.err
    assert terminal.err.endswith("bkd: scale: 1 of 2 hosts done, 1 unreachable\n")


@in_a_world
async def test_an_answer_that_comes_after_all_counts(made):
    h0, h1 = await made.up("h0", "h1")
    h1.driver.why = "cut off"
    terminal, task = h0.give("restart", RESTART, hosts=["h1"])
    await quiet()
    h1.driver.why = ""
    h1.plane.intake.ring()
    await over(task)
    assert terminal.code == 0


@in_a_world
async def test_the_bus_may_be_away_while_one_waits(made):
    h0, h1 = await made.up("h0", "h1")
    h1.deeds.held.clear()
    terminal, task = h0.give("restart", RESTART, hosts=["h1"])
    await until(lambda: h1.deeds.begun)
    h0.driver.why = "cut off"
    h1.deeds.held.set()
    await until(lambda: made.bus.acks(terminal.resume["fleet"])[-1].state == "done")
    await quiet()
    assert not task.done()
    h0.driver.why = ""
    await over(task)
    assert terminal.code == 0


@in_a_world
async def test_nobody_waits_for_ever_for_a_bus_that_is_away(made):
    h0, h1 = await made.up("h0", "h1")
    h1.deeds.held.clear()
    terminal, task = h0.give("restart", RESTART, hosts=["h1"])
    await until(lambda: h1.deeds.begun)
    session = h0.plane.session
    session.state, session.error = "away", "cut off"
    session.since = time.monotonic() - module.LONGEST_AWAY - 1
    await over(task)
    assert terminal.code == 1
    assert terminal.err.splitlines()[-1] == (
        f"bkd: the bus is away (cut off); when it is back: bkd fleet show {terminal.resume['fleet']}"
    )


@in_a_world
async def test_a_second_rollout_of_a_group_has_to_wait_for_the_first(made):
    h0, h1 = await made.up("h0", "h1")
    h1.deeds.held.clear()
    first, task = h0.give("restart", RESTART)
    await until(lambda: h1.deeds.begun)
    second, refused = h1.give("restart", RESTART)
    await over(refused)
    assert second.code == 1
    assert "ann@h0 has a restart of web going on" in second.err
    h1.deeds.held.set()
    await over(task)
    assert (first.code, len(h1.deeds.begun)) == (0, 1)


@in_a_world
async def test_whoever_asked_waits_on_when_its_master_dies(made):
    h0, h1 = await made.up("h0", "h1")
    h1.deeds.held.clear()
    terminal, _ = h0.give("restart", RESTART, hosts=["h1"])
    await until(lambda: h1.deeds.begun)
    h0.die()
    made.hosts["h0"] = successor = await h0.next_master().up()
    again, task = successor.ask("await", terminal.resume)
    await quiet()
    h1.deeds.held.set()
    await over(task)
    assert (again.code, len(h1.deeds.begun)) == (0, 1)
    assert again.out == "restart: 1 of 1 host done\n"


@in_a_world
async def test_what_was_over_before_is_answered_at_once(made):
    h0, _ = await made.up("h0", "h1")
    terminal, task = h0.give("scale", {"web": "+1"})
    await over(task)
    h0.die()
    made.hosts["h0"] = successor = await h0.next_master().up()
    again, task = successor.ask("await", terminal.resume)
    await over(task)
    assert (again.code, again.out) == (0, terminal.out)


@pytest.mark.parametrize(
    "told",
    [{"fleet": "x"}, {"fleet": "x", "verb": "scale", "hosts": 7, "expires": 1.0}, {"fleet": 1, "verb": 2, "hosts": []}],
)
def test_nonsense_is_not_waited_for(told, tmp_path, monkeypatch):
    hurried(monkeypatch)

    async def asked():
        async with world(tmp_path) as made:
            (h0,) = await made.up("h0")
            terminal, task = h0.ask("await", told)
            await over(task)
            return terminal

    terminal = asyncio.run(asked())
    assert (terminal.code, terminal.err) == (2, "bkd: what is to be waited for?\n")


def test_what_the_next_master_is_asked_is_the_same_command():
    issued = Issued("a", "scale", ("h1", "h2"), 7.0)
    again = Issued.resumed(json.loads(json.dumps(issued.resume())))
    assert (again.id, again.verb, list(again.progress.hosts), again.expires) == ("a", "scale", ["h1", "h2"], 7.0)


@in_a_world
async def test_a_worker_that_may_gives_commands_too(made):
    h0, h1 = await made.up("h0", "h1")
    id = await h0.plane.relay.command("scale", {"web": "+1"}, tag="", issuer="web.1@h0")
    await until(lambda: (h0.count, h1.count) == (3, 3))
    assert h1.record.taken[id].issuer == "web.1@h0"


@in_a_world
async def test_rollouts_are_listed_and_shown_and_aborted(made):
    h0, h1, h2 = await made.up("h0", "h1", "h2")
    h1.deeds.held.clear()
    terminal, task = h0.give("restart", RESTART, hosts=["h1", "h2"])
    await until(lambda: h1.deeds.begun)
    id = terminal.resume["fleet"]
    await until(lambda: made.bus.acks(id, "h2"))
    shown, asked = h2.ask("fleet-show", {"id": id[:10]}, render="json")
    await over(asked)
    assert [row["state"] for row in json.loads(shown.out)["hosts"]][:1] == ["running"]
    aborted, asked = h2.ask("fleet-abort", {"id": id})
    await over(asked)
    assert aborted.code == 0
    h1.deeds.held.set()
    await over(task)
    assert (terminal.code, h2.deeds.begun) == (1, [])
    listed, asked = h0.ask("fleet-list", {}, render="json")
    await over(asked)
    assert [row["state"] for row in json.loads(listed.out)["rollouts"]] == ["aborted"]


@in_a_world
async def test_a_host_that_had_begun_and_is_silent_is_given_up(made):
    h0, h1 = await made.up("h0", "h1")
    h1.deeds.held.clear()
    h1.commands.table["stop"] = h1.commands.table["restart"]
    h1.deeds.forgets = True
    terminal, task = h0.give("stop", hosts=["h1"])
    await until(lambda: h1.deeds.begun)
    h1.die()
    await quiet()
    assert not task.done()
    made.later(module.GIVEN_UP + 7)
    await over(task)
    assert terminal.code == 3
    assert rules.UNKNOWN not in terminal.err
