"""The inventory: who is there, who was, and who only says so."""

import asyncio

from bkd.supervisor.bus.keyring import Keyring
from bkd.supervisor.bus.orders import GroupRow, HostRow
from bkd.supervisor.bus.writer import Writer, instance_of
from bkd.supervisor.fleet import hosts as module
from bkd.supervisor.fleet.facts import HostClash
from bkd.supervisor.fleet.selection import FORGOTTEN, STALE

from .world import NAMES, PATIENCE, in_a_world, quiet


def a_row(host, *, sender=None, now=None, instance="", keyring=None, groups=()):
    """A letter that says this of a host."""
    writer = Writer(NAMES, sender or host, instance_of(now, b"\0\0"), keyring or Keyring.unsigned())
    return writer.letter(NAMES.hosts, "fleet:host", HostRow(host, "", "1", instance, groups), now, module.LASTS)


def put(host, field, payload):
    host.driver._hashes.setdefault(NAMES.hosts, {})[field] = payload


@in_a_world
async def test_everybody_knows_everybody(made):
    h0, h1 = await made.up("h0", "h1", tag="eu")
    for host in (h0, h1):
        known = await host.plane.hosts.look()
        assert sorted(known) == ["h0", "h1"]
    row = known["h0"].row
    assert (row.host, row.tag, row.instance) == ("h0", "eu", h0.plane.wire.instance)
    assert row.groups == (GroupRow("web", "web", 2, 2, 1),)


@in_a_world
async def test_who_leaves_as_planned_is_not_waited_for(made):
    h0, h1 = await made.up("h0", "h1")
    await h1.plane.end()
    assert list(await h0.plane.hosts.look()) == ["h0"]


@in_a_world
async def test_who_is_silent_for_a_day_is_deleted_however_late_that_is_seen(made):
    (h0,) = await made.up("h0")
    now = h0.plane.wire.now()
    for name, age in {"young": FORGOTTEN / 2, "old": FORGOTTEN + 1, "ancient": 30 * FORGOTTEN}.items():
        put(h0, name, a_row(name, now=now - age))
    assert sorted(await h0.plane.hosts.look()) == ["h0", "young"]
    assert sorted(await h0.driver.fields(NAMES.hosts)) == ["h0", "young"]
    assert not h0.plane.wire.judge.refused


@in_a_world
async def test_who_says_something_of_another_is_not_believed(made):
    (h0,) = await made.up("h0")
    now = h0.plane.wire.now()
    put(h0, "h1", a_row("h1", sender="h2", now=now))
    put(h0, "h3", a_row("h4", sender="h3", now=now))
    put(h0, "h5", a_row("h5", now=now)[:-1])
    put(h0, "h6", a_row("h6", now=now, keyring=Keyring([b"x" * 32])))
    put(h0, "h7", b"")
    put(h0, "h8", a_row("h8", now=now))
    assert sorted(await h0.plane.hosts.look()) == ["h0", "h8"]


@in_a_world
async def test_two_clusters_of_one_name_are_told(made):
    before, module.PERIOD = module.PERIOD, 0.1
    try:
        (one,) = await made.up("h0")
        two = await made.host("h0", deeds=one.deeds).up()
        made.hosts["other"] = one
        async with asyncio.timeout(PATIENCE):
            while not (one.told(HostClash) or two.told(HostClash)):
                await asyncio.sleep(0.005)
    finally:
        module.PERIOD = before


@in_a_world
async def test_the_next_master_of_a_host_is_no_other_cluster(made):
    before, module.PERIOD = module.PERIOD, 0.01
    try:
        (h0,) = await made.up("h0")
        h0.die()
        made.hosts["h0"] = successor = await h0.next_master().up()
        for _ in range(5):
            await asyncio.sleep(0.02)
        assert not successor.told(HostClash)
    finally:
        module.PERIOD = before


@in_a_world
async def test_nothing_that_lies_there_ends_the_task(made):
    before, module.PERIOD = module.PERIOD, 0.01
    try:
        (h0,) = await made.up("h0")
        put(h0, "\udc80", b"\xff" * 100)
        put(h0, "h9", a_row("h9", now=h0.plane.wire.now(), groups=(GroupRow("web", "web", 1, 1, 1),) * 500))
        h0.driver.why = "cut off"
        await asyncio.sleep(0.05)
        h0.driver.why = ""
        seen = h0.plane.hosts.known["h0"].seen
        async with asyncio.timeout(PATIENCE):
            while h0.plane.hosts.known["h0"].seen <= seen or "h9" not in h0.plane.hosts.known:
                await asyncio.sleep(0.005)
    finally:
        module.PERIOD = before


@in_a_world
async def test_who_should_hear_what_is_said_to_a_role(made):
    h0, _ = await made.up("h0", "h1")
    await made.host("h2", groups=("jobs",), tag="eu").up()
    await h0.plane.hosts.look()
    others = h0.plane.hosts.others
    assert (others("web", ""), others("jobs", ""), others("nope", "")) == ({"h1"}, {"h2"}, set())
    assert others("all", "") == others("server", "") == {"h1", "h2"}
    assert (others("all", "eu"), others("web", "eu")) == ({"h2"}, set())
    made.later(STALE + 1)
    assert others("all", "") == set()


@in_a_world
async def test_the_first_word_is_said_before_anything_is_obeyed(made):
    h0 = made.host("h0")
    h0.begin()
    await quiet()
    assert list(await h0.driver.fields(NAMES.hosts)) == ["h0"]
    assert h0.plane.document()["hosts"] == 1
