"""Events of applications between hosts: who hears them, in order, once, and what is not passed on."""

import asyncio

import msgspec
import pytest

from bkd.ipc.errors import RefusedError
from bkd.supervisor.bus.driver import BusError
from bkd.supervisor.bus.keyring import Keyring
from bkd.supervisor.bus.local import LocalDriver
from bkd.supervisor.bus.orders import BusAnswer, BusEvent
from bkd.supervisor.bus.writer import Writer, instance_of

from .world import NAMES, in_a_world, quiet, until

DATA = msgspec.Raw(msgspec.msgpack.encode({"id": 7}))


class Ears:
    """Stands for the processes of one host: what they are told, and what they answer."""

    def __init__(self, host, answers=None):
        self.heard, self.asked = [], []
        self.answers = answers or {}
        host.exchange.event = lambda *event: self.heard.append(event) or 1
        host.exchange.gather_here = self.gather

    async def gather(self, *question):
        self.asked.append(question)
        return {name: msgspec.Raw(msgspec.msgpack.encode({"value": value})) for name, value in self.answers.items()}


@in_a_world
async def test_the_others_hear_it_once_and_in_order(made):
    h0, h1, h2 = await made.up("h0", "h1", "h2")
    ears = [Ears(host) for host in (h0, h1, h2)]
    names = [f"price:{number}" for number in range(50)]
    counts = await asyncio.gather(*(h0.plane.relay.broadcast("web", "", op, DATA, "web.1") for op in names))
    await until(lambda: len(ears[2].heard) == 50)
    assert set(counts) == {2}
    assert [len(ear.heard) for ear in ears] == [0, 50, 50]
    assert [event[2] for event in ears[1].heard] == names
    assert ears[1].heard[0] == ("web", "", "price:0", DATA, "web.1@h0")


@in_a_world
async def test_only_hosts_with_the_tag_hear_what_is_for_it(made):
    (h0,) = await made.up("h0")
    eu, us = await made.host("h1", tag="eu").up(), await made.host("h2", tag="us").up()
    european, american = Ears(eu), Ears(us)
    assert await h0.plane.relay.broadcast("web", "eu", "price:changed", DATA, "x") == 1
    await until(lambda: european.heard)
    await quiet()
    assert american.heard == []


@in_a_world
async def test_a_host_without_the_group_counts_the_others_all_the_same(made):
    h0 = await made.host("h0", groups=("jobs",)).up()
    await made.up("h1", "h2")
    assert await h0.plane.relay.broadcast("web", "", "price:changed", DATA, "x") == 2
    assert await h0.plane.relay.broadcast("all", "", "price:changed", DATA, "x") == 2
    assert await h0.plane.relay.broadcast("jobs", "", "price:changed", DATA, "x") == 0


@in_a_world
async def test_without_a_bus_it_is_said_and_counted(made):
    h0, _ = await made.up("h0", "h1")
    h0.plane.session.state = "away"
    with pytest.raises(BusError):
        await h0.plane.relay.broadcast("web", "", "price:changed", DATA, "x")
    assert h0.plane.document()["lost"] == 1


@in_a_world
async def test_deletions_that_the_bus_has_not_passed_on_are_made_up_for(made):
    """Nobody knows any more of what: so all caches are emptied, here, and where they were to be told."""
    h0, h1 = await made.up("h0", "h1")
    ears = Ears(h0), Ears(h1)
    state, h0.plane.session.state = h0.plane.session.state, "away"
    with pytest.raises(BusError):
        await h0.plane.relay.broadcast("all", "", "ipc:lru:del", DATA, "web.1")
    h0.plane.session.state = state
    for _ in range(2):
        await h0.plane.relay.up()
    await until(lambda: ears[1].heard)
    await quiet()
    told = [[(op, msgspec.msgpack.decode(data)) for _, _, op, data, _ in ear.heard] for ear in ears]
    assert told == [[("ipc:lru:del", {"all": True})] * 2, [("ipc:lru:del", {"all": True})]]


async def say(host, channel, event, *, op="fleet:event", sender="h9"):
    """What some other host publishes."""
    now = host.plane.wire.now()
    writer = Writer(NAMES, sender, instance_of(now, b"\0\0"), Keyring.unsigned())
    await LocalDriver.publish(host.driver, channel, writer.letter(channel, op, event, now, 30.0))
    await quiet()


@in_a_world
async def test_what_no_application_may_say_here_none_of_another_host_may(made):
    (h1,) = await made.up("h1")
    ears = Ears(h1)
    for op in ("worker:drain", "bkd:stop", "shell:run", "ipc:lock", "web:ready", "nonsense", "a:" + "b" * 300):
        await say(h1, "shop:web", BusEvent("web", "", op, DATA), sender=f"h-{op[:20].replace(':', '-')}")
        await say(h1, "shop:web", BusEvent("web", "", op, DATA, answer="x-1"), sender=f"g-{op[:20].replace(':', '-')}")
    assert (ears.heard, ears.asked, h1.exchange.refused) == ([], [], 14)
    await say(h1, "shop:web", BusEvent("web", "", "ipc:lru:del", DATA))
    assert [event[2] for event in ears.heard] == ["ipc:lru:del"]


@in_a_world
async def test_an_event_on_the_channel_of_another_role_is_not_passed_on(made):
    (h1,) = await made.up("h1")
    ears = Ears(h1)
    await say(h1, "shop:all", BusEvent("web", "", "a:b", DATA), sender="h7")
    await say(h1, "shop:reply:h1", BusEvent("web", "", "a:b", DATA), sender="h8")
    assert ears.heard == []


@in_a_world
async def test_rubbish_on_a_channel_is_counted_and_harms_nobody(made):
    (h1,) = await made.up("h1")
    ears = Ears(h1)
    for payload in (b"", b"bkd1" + bytes(40), b"\xff" * 70_000):
        await LocalDriver.publish(h1.driver, "shop:web", payload)
    await say(h1, "shop:web", BusAnswer("x", DATA), op="fleet:event", sender="h7")
    await say(h1, "shop:reply:h1", BusEvent("web", "", "a:b"), op="fleet:answer", sender="h7")
    await say(h1, "shop:web", BusEvent("web", "", "a:b", DATA), sender="h8")
    assert len(ears.heard) == 1


@in_a_world
async def test_all_answers_are_gathered(made):
    h0, h1, h2 = await made.up("h0", "h1", "h2")
    Ears(h1, {"web.1@h1": 1, "web.2@h1": 2})
    asked = Ears(h2, {"web.1@h2": 3})
    answers = await h0.plane.relay.gather("web", "", "price:get", DATA, "web.1", 5.0)
    assert {name: msgspec.msgpack.decode(answer) for name, answer in answers.items()} == {
        "web.1@h1": {"value": 1},
        "web.2@h1": {"value": 2},
        "web.1@h2": {"value": 3},
    }
    assert asked.asked == [("web", "", "price:get", DATA, "web.1@h0", 5.0)]
    assert not h0.plane.relay._asked


@in_a_world
async def test_a_host_that_does_not_answer_is_named_at_the_deadline(made):
    h0, h1, h2 = await made.up("h0", "h1", "h2")
    Ears(h1, {"web.1@h1": 1})
    h2.die()
    answers = await h0.plane.relay.gather("web", "", "price:get", DATA, "x", 0.05)
    assert msgspec.msgpack.decode(answers["h2"]) == {"error": "timeout", "reason": "the host did not answer"}
    assert sorted(answers) == ["h2", "web.1@h1"]


@in_a_world
async def test_answers_that_are_too_long_for_the_bus_are_refused_by_name(made):
    h0, h1 = await made.up("h0", "h1")
    Ears(h1, {"web.1@h1": "x" * 600_000, "web.2@h1": 1})
    answers = await h0.plane.relay.gather("web", "", "price:get", DATA, "x", 5.0)
    assert {msgspec.msgpack.decode(answer)["error"] for answer in answers.values()} == {"refused"}
    assert sorted(answers) == ["web.1@h1", "web.2@h1"]


@pytest.mark.parametrize("within", [float("nan"), float("inf"), -1.0, 1e300])
def test_nobody_outside_makes_this_host_wait_for_ever(within, tmp_path, monkeypatch):
    @in_a_world
    async def asked(made):
        (h1,) = await made.up("h1")
        ears = Ears(h1)
        await say(h1, "shop:web", BusEvent("web", "", "a:b", DATA, answer="x-1", within=within))
        assert 0.0 <= ears.asked[0][-1] <= 30.0

    asked(tmp_path, monkeypatch)


@in_a_world
async def test_an_answer_that_nobody_asked_for_is_dropped(made):
    (h0,) = await made.up("h0")
    await say(h0, "shop:reply:h0", BusAnswer("nobody-1", DATA), op="fleet:answer")
    assert not h0.plane.relay._asked


@in_a_world
async def test_an_event_that_this_host_cannot_deliver_is_counted(made):
    (h1,) = await made.up("h1")

    def refuse(*event):
        raise RefusedError("too large")

    h1.exchange.event = refuse
    await say(h1, "shop:web", BusEvent("web", "", "a:b", DATA))
    assert h1.exchange.refused == 1
