"""Whoever owns the bus can write what he likes: nothing of it takes effect, and all of it is refused and counted."""

import json
import math
import time
from collections import Counter
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import msgspec
import pytest

from bkd.supervisor.bus.keyring import Keyring
from bkd.supervisor.bus.letter import Letter, encode
from bkd.supervisor.bus.names import Names
from bkd.supervisor.bus.orders import Ack, BusEvent, FleetCommand
from bkd.supervisor.bus.writer import command_id, instance_of

from ..cluster.clients import finished
from ..cluster.cluster import resident, until
from .conftest import running
from .fleet import KEY, TOOL, fleets

NAMES = ("h1", "h2")
SHOP = Names("shop")
OURS, STRANGE, NONE = (
    Keyring([KEY.encode()]),
    Keyring([b"a key that this fleet has never heard of"]),
    Keyring.unsigned(),
)
SEEDS = [b"api:restart", b"config:init", b"worker:restart", b'{"__op": "api:restart"}', b"", b"bkd1", b"\x00" * 40]
GROW = FleetCommand("scale", {"tool": "+1"}, NAMES, "root@h1")
CHANNELS = ("shop:server", "shop:all", "shop:tool")
FLOOD = 40_000
RSS_BOUND = 10 << 20


@pytest.fixture(scope="module")
def server():
    with running("valkey") as server:
        yield server


@pytest.fixture(scope="module")
def fleet(server, tmp_path_factory):
    with fleets(tmp_path_factory) as launch:
        yield launch(server, NAMES, tool=TOOL)


@pytest.fixture
def bus(server):
    with server.admin() as client:
        yield client


class Attack:
    """`with Attack(fleet, {"forged": 3})`: in the end each host has refused so many more for these reasons, none for
    others, and nothing has changed anywhere."""

    def __init__(self, fleet, expected, names=NAMES):
        self.fleet, self.expected, self.names = fleet, Counter(expected), names

    def __enter__(self):
        at_rest(self.fleet)
        self.before = {name: seen(cluster) for name, cluster in self.fleet.hosts.items()}

    def __exit__(self, kind, *_error):
        if kind is None:
            for name in self.names:
                until(lambda name=name: self.refused(name) == self.expected)
            for name, cluster in self.fleet.hosts.items():
                assert seen(cluster).state == self.before[name].state

    def refused(self, name):
        return seen(self.fleet.hosts[name]).refused - self.before[name].refused


class Seen(NamedTuple):
    refused: Counter
    state: list


def seen(cluster):
    """What a host has refused, and all of it that a command could change."""
    status = cluster.status()
    (tool,) = status["groups"]
    workers = [worker["pid"] for worker in tool["workers"]]
    taken = (cluster.run_dir / "events.jsonl").read_bytes().count(b'"fleet-command-taken"')
    state = [status["state"], status["master_pid"], tool["count"], tool["release"], workers, taken]
    return Seen(Counter(status["bus"]["refused"]), state)


def refused(fleet, name):
    return seen(fleet.hosts[name]).refused


def at_rest(fleet):
    """Wait until there are as many workers as were asked for."""
    for cluster in fleet.hosts.values():
        until(cluster.is_ready)


def states(fleet):
    at_rest(fleet)
    return [seen(cluster).state for cluster in fleet.hosts.values()]


def put(bus, payload):
    """As a master gives a command: into the stream, and a bell, which may be any command that was ever signed."""
    bus.xadd("shop:commands", {"p": payload})
    bus.publish("shop:server", RING)


def expected(payloads, times):
    """Reasons by number when each is written so many times."""
    return Counter([reason for _payload, reason in payloads] * times)


def letter(
    data=GROW, *, app="shop", channel="shop:commands", sender="h1", id="", issued=0.0, lasts=60.0, op="fleet:command"
):
    issued = issued or time.time()
    id = id or command_id(time.time(), msgspec.msgpack.encode(time.monotonic_ns())[-6:])
    raw = data if isinstance(data, msgspec.Raw) else msgspec.Raw(msgspec.msgpack.encode(data))
    return encode(Letter(app, sender, channel, id, issued, issued + lasts, op, raw))


def event(channel, role, number=1):
    id = f"{instance_of(time.time(), b'xx')}-{number}"
    body = BusEvent(role, "", "price:changed", by="web.1@h9")
    return letter(body, channel=channel, sender="h9", id=id, lasts=30.0, op="fleet:event")


RING = OURS.sign(letter())


def flipped(payload, at):
    return payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]


# -- without a key


def test_bare_strings_mean_nothing(fleet, bus):
    with Attack(fleet, {"malformed": len(SEEDS) * (len(CHANNELS) + 1)}):
        for seed in SEEDS:
            for channel in CHANNELS:
                bus.publish(channel, seed)
            put(bus, seed)


def test_a_channel_of_one_master_is_no_better(fleet, bus):
    with Attack(fleet, {"malformed": len(SEEDS) + 1}, ["h2"]):
        for seed in [*SEEDS, b"probe 1234"]:
            bus.publish("shop:reply:h2", seed)


def test_what_was_not_signed_with_the_key(fleet, bus):
    payloads = [
        (NONE.sign(letter()), "unsigned"),
        (STRANGE.sign(letter()), "unknown-key"),
        (flipped(OURS.sign(letter()), 5), "unknown-key"),
        (flipped(OURS.sign(letter()), 20), "forged"),
        (flipped(OURS.sign(letter()), 41), "forged"),
        (flipped(OURS.sign(letter()), -1), "forged"),
        (OURS.sign(letter())[:-1], "forged"),
        (OURS.sign(letter()) + b"\xc0", "forged"),
        (flipped(OURS.sign(letter()), 1), "malformed"),
        (NONE.sign(b"\x91" * 60_000), "unsigned"),
        (b"x" * (1 << 20), "oversized"),
        (OURS.sign(letter())[:60] + bytes(1 << 20), "oversized"),
    ]
    with Attack(fleet, expected(payloads, 2)):
        for payload, _reason in payloads:
            put(bus, payload)
            bus.publish("shop:all", payload)


# -- with something that was signed, in the wrong place or at the wrong time


def test_what_was_signed_but_makes_no_sense_here(fleet, bus):
    bodies = [
        (letter(app="blog", channel="blog:commands"), "foreign"),
        (letter(app="blog"), "foreign"),
        (event("shop:all", "all"), "foreign"),
        (letter(issued=time.time() - 100), "expired"),
        (letter(issued=time.time() + 600), "clock"),
        (letter(lasts=301.0), "malformed"),
        (letter(lasts=-1.0), "malformed"),
        (letter(issued=math.nan), "malformed"),
        (letter(lasts=math.inf), "malformed"),
        (letter(lasts=math.nan), "malformed"),
        (letter(id="1-1"), "malformed"),
        (letter() + b"\xc0", "malformed"),
        (b"\x91" * 60_000, "malformed"),
        (b"\xff" * 100, "malformed"),
        (letter(msgspec.Raw(b"\x91" * 60_000 + b"\xc0")), "malformed"),
        (letter(msgspec.Raw(b"\xa1\xff")), "malformed"),
        (letter({"verb": "scale", "arguments": [], "targets": NAMES}), "malformed"),
        (letter({"verb": b"\xff", "arguments": {}, "targets": NAMES}), "malformed"),
    ]
    with Attack(fleet, expected(bodies, 1)):
        for body, _reason in bodies:
            put(bus, OURS.sign(body))


def test_a_verb_that_is_none_of_the_fleets_is_refused(fleet, bus):
    before = states(fleet)
    for verb in ("shell", "upgrade", "signal", "__class__", "fleet", "await"):
        put(bus, OURS.sign(letter(FleetCommand(verb, {"name": "tool", "signal": "KILL"}, NAMES, "root@h1"))))
    until(lambda: all(len(c.events("fleet-command-ended")) >= 6 for c in fleet.hosts.values()), pause=0.2)
    ends = {event["state"] for event in fleet.journal("h2", "fleet-command-ended")[-6:]}
    assert "refused" in ends
    assert ends <= {"refused", "expired"}  # on a busy machine the last ones come too late
    assert states(fleet) == before


def test_what_was_said_elsewhere(fleet, bus):
    command = OURS.sign(letter())
    with Attack(fleet, {"foreign": 4}):
        bus.publish("shop:all", command)
        bus.publish("shop:tool", command)
        bus.publish("shop:all", OURS.sign(event("shop:tool", "tool")))
        bus.publish("shop:server", OURS.sign(event("shop:tool", "tool")))


def test_a_bell_alone_is_no_command(fleet, bus):
    """What rings is signed, but counts only where it lies in the stream."""
    with Attack(fleet, {"malformed": 1}):
        for _ in range(3):
            bus.publish("shop:server", OURS.sign(letter()))
        bus.publish("shop:server", b"the last one")


def test_an_event_is_heard_once(fleet, bus):
    first, second = (OURS.sign(event("shop:tool", "tool", number)) for number in (1, 2))
    with Attack(fleet, {"replayed": 3}):
        for payload in (first, first, second, first, second):
            bus.publish("shop:tool", payload)


def test_a_command_that_is_played_back(fleet, bus):
    """Once, whatever happens between: an empty bus, another master, a cluster that was started afresh."""
    assert fleet.states("scale", "tool=+1", "--expires", "5m") == dict.fromkeys(NAMES, "done")
    (_, fields), *_rest = bus.xrevrange("shop:commands", count=1)
    with Attack(fleet, {"replayed": 1}):
        bus.xadd("shop:commands", fields)
        bus.publish("shop:server", RING)
    bus.flushall()
    with Attack(fleet, {"replayed": 2}):
        for id in ("1-1", "1-2"):
            bus.xadd("shop:commands", fields, id=id)
        bus.publish("shop:server", RING)
    assert fleet.journal("h1", "bus-resync")
    fleet.kill_master("h2")
    until(lambda: fleet.known() == [*NAMES])  # who answers has read what there was
    with Attack(fleet, {"replayed": 1}):
        bus.xadd("shop:commands", fields)
        bus.publish("shop:server", RING)
    h2 = fleet.hosts["h2"]
    assert h2.stop().returncode == 0
    h2.start()
    until(lambda: fleet.known() == [*NAMES])  # who answers has read what there was
    with Attack(fleet, {"replayed": 1}):
        bus.xadd("shop:commands", fields)
        bus.publish("shop:server", RING)
    assert fleet.counts() == {"h1": 2, "h2": 1}
    until(lambda: fleet.known() == [*NAMES])
    assert fleet.states("scale", "tool=1") == dict.fromkeys(NAMES, "done")


# -- what lies on the bus


def test_answers_that_nobody_gave(fleet, bus):
    """Whoever waits for a rollout is not told its end by somebody else, nor by the answer to another command."""
    assert fleet.states("scale", "tool=+0") == dict.fromkeys(NAMES, "done")
    (_, fields), *_rest = bus.xrevrange(max(bus.keys("shop:reply:*")), count=1)
    before = refused(fleet, "h1")
    with fleet.held("h1"):
        caller = fleet.begun("restart", "tool", "--fleet", "--json")
        fleet.running("h1")
        stream = f"shop:reply:{fleet.ask('fleet', 'list')['rollouts'][0]['id']}"
        ack = letter(Ack("h1", 99, "done"), channel=stream, id=f"{instance_of(time.time(), b'xx')}-1", op="fleet:ack")
        for payload in (b"done", NONE.sign(ack), STRANGE.sign(ack), fields[b"p"]):
            bus.xadd(stream, {"p": payload})
        expected = Counter(["malformed", "unsigned", "unknown-key", "foreign"])
        until(lambda: refused(fleet, "h1") - before == expected)
        assert caller.poll() is None
        assert fleet.shown()[1] == {"h1": "running", "h2": "accepted"}
    assert finished(caller).returncode == 0


@pytest.mark.parametrize("what", ["older", "rubbish", "gone", "another"])
def test_the_document_of_a_rollout_is_tampered_with(fleet, bus, what):
    """Nobody begins twice or out of turn, and the rollout comes to its end."""
    before = fleet.releases("tool")
    assert fleet.states("restart", "tool", "--host", "h1") == {"h1": "done"}
    (row, *_) = fleet.ask("fleet", "list")["rollouts"]
    another = bus.get(f"shop:permit:{row['id']}")
    with fleet.held("h1"):
        with fleet.held("h2"):
            caller = fleet.begun("restart", "tool", "--fleet", "--json")
            fleet.running("h1")
            (row, *_) = fleet.ask("fleet", "list")["rollouts"]
            key = f"shop:permit:{row['id']}"
            older = bus.get(key)
            (fleet.hosts["h1"].folder / "closed").unlink()
            fleet.running("h2")
            {
                "older": lambda: bus.set(key, older),
                "rubbish": lambda: bus.set(key, b"api:restart"),
                "another": lambda: bus.set(key, another),
                "gone": lambda: bus.delete(key),
            }[what]()
        result = finished(caller)
    states = {row["host"]: row["state"] for row in json.loads(result.stdout)["hosts"]}
    assert (result.returncode, states["h1"]) == (1, "done")
    until(lambda: all(cluster.is_ready() for cluster in fleet.hosts.values()))
    until(lambda: [cluster.group("tool")["roll"] for cluster in fleet.hosts.values()] == [None, None])
    assert fleet.releases("tool") == {"h1": before["h1"] + 2, "h2": before["h2"] + 1}
    assert fleet.states("restart", "tool") == dict.fromkeys(NAMES, "done")


def test_a_rollout_that_is_over_stays_so(fleet, bus):
    with fleet.held("h2"):
        caller = fleet.begun("restart", "tool", "--fleet", "--json")
        fleet.running("h2")
        (row, *_) = fleet.ask("fleet", "list")["rollouts"]
        key = f"shop:permit:{row['id']}"
        old = {name: bus.get(name) for name in (key, "shop:permit:index")}
    assert finished(caller).returncode == 0
    before = states(fleet)
    for name, document in old.items():
        bus.set(name, document)
    for cluster in fleet.hosts.values():
        rows = json.loads(cluster.bkd("fleet", "list", "--json").stdout)["rollouts"]
        assert rows[0]["id"] == row["id"]
    assert states(fleet) == before
    assert fleet.states("restart", "tool") == dict.fromkeys(NAMES, "done")


def test_a_list_of_rollouts_that_is_none(fleet, bus):
    good = bus.get("shop:permit:index")
    bus.set("shop:permit:index", b"api:restart")
    before = states(fleet)
    result = fleet.bkd("restart", "tool", "--fleet")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "the list of rollouts (shop:permit:index) is signed with a key that is not known here" in result.stderr
    assert states(fleet) == before
    bus.set("shop:permit:index", good)
    assert fleet.states("restart", "tool") == dict.fromkeys(NAMES, "done")


def test_rows_of_the_inventory_under_other_names(fleet, bus):
    row = bus.hget("shop:hosts", "h2")
    before = {name: refused(fleet, name) for name in NAMES}
    for name, value in {"h9": row, "h8": b"api:restart", "h1": row, "h7": NONE.sign(letter())}.items():
        bus.hset("shop:hosts", name, value)
    try:
        for reason in ("foreign", "malformed", "unsigned"):
            until(lambda reason=reason: all(refused(fleet, n)[reason] > before[n][reason] for n in NAMES))
        until(lambda: fleet.known() == [*NAMES])
        assert [row["host"] for row in fleet.ask("status", "--fleet")["hosts"]] == [*NAMES]
    finally:
        bus.hdel("shop:hosts", "h7", "h8", "h9")


# -- much of it


def malformed_since(fleet, name, began):
    """When this host told of messages that it could not read."""
    refusals = fleet.journal(name, "bus-refused")
    return [event["mono"] for event in refusals if event["mono"] > began and event["reason"] == "malformed"]


def test_a_flood_keeps_nobody_from_work(fleet, bus):
    masters = {name: cluster.status()["master_pid"] for name, cluster in fleet.hosts.items()}
    began = time.monotonic()
    before = {name: refused(fleet, name)["malformed"] for name in NAMES}
    with bus.pipeline(transaction=False) as pipe:
        for number in range(FLOOD // 2):
            pipe.publish("shop:server", b"api:restart")
            pipe.xadd("shop:commands", {"p": b"config:init"}, maxlen=FLOOD, approximate=True)
            if number % 1000 == 999:
                pipe.execute()
            if number == 5000:
                rss = {name: resident(pid) for name, pid in masters.items()}
    waits = []
    while any(refused(fleet, name)["malformed"] < before[name] + FLOOD for name in NAMES):
        asked = time.monotonic()
        assert fleet.hosts["h2"].answered() is not None
        waits.append(time.monotonic() - asked)
        assert asked - began < 100
    assert median(waits) < 1.0  # the longest of them says more of who else is at work on this machine
    grown = {name: resident(pid) - rss[name] for name, pid in masters.items()}
    assert max(grown.values()) < RSS_BOUND, grown
    for name in NAMES:
        told = malformed_since(fleet, name, began)  # none, if the tests before have had it told often enough
        assert all(later - sooner > 0.95 for sooner, later in pairwise(told))
    bus.xtrim("shop:commands", 0)
    assert fleet.hosts["h1"].status()["bus"]["connected"]
