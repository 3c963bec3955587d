"""Commands of the fleet take effect once, in their order, and not after their time: whatever lies in the stream and
whenever a master dies."""

import asyncio
import functools
import time

import msgspec
import pytest

from bkd.supervisor.bus.keyring import Keyring
from bkd.supervisor.bus.letter import Letter, encode
from bkd.supervisor.bus.orders import BusEvent
from bkd.supervisor.bus.writer import Writer, instance_of
from bkd.supervisor.fleet import intake
from bkd.supervisor.fleet.facts import BusResync, FleetCommandIgnored, FleetCommandTaken
from bkd.supervisor.fleet.intake import is_before

from .world import NAMES, PATIENCE, ended, hurried, in_a_world, quiet, until, world

MORE = {"web": "+1"}


@in_a_world
async def test_a_command_takes_effect_and_is_acknowledged_step_by_step(made):
    (h1,) = await made.up("h1")
    id = made.bus.put("scale", MORE, ["h1"])
    ack = await until(lambda: ended(made.bus, id))
    assert (ack.state, ack.code, ack.out, h1.count) == ("done", 0, "web: 2 -> 3\n", 3)
    assert made.bus.states(id) == ["accepted", "running", "done"]
    assert [ack.number for ack in made.bus.acks(id)] == [1, 2, 3]
    assert [fact.id for fact in h1.told(FleetCommandTaken)] == [id]


@in_a_world
async def test_commands_are_obeyed_in_the_order_of_the_stream(made):
    (h1,) = await made.up("h1")
    ids = [made.bus.put("scale", {"web": str(number)}, ["h1"]) for number in (5, 3, 7)]
    await until(lambda: all(ended(made.bus, id) for id in ids))
    assert [made.bus.acks(id)[-1].out for id in ids] == ["web: 2 -> 5\n", "web: 5 -> 3\n", "web: 3 -> 7\n"]
    assert h1.count == 7


@in_a_world
async def test_the_bell_is_not_needed(made):
    (h1,) = await made.up("h1")
    await quiet()
    h1.driver._channels = frozenset()
    id = made.bus.put("scale", MORE, ["h1"])
    await quiet()
    assert h1.count == 2
    await h1.plane.intake.catch_up()
    await until(lambda: ended(made.bus, id))
    assert h1.count == 3


@in_a_world
async def test_more_commands_than_one_reading_takes(made):
    (h1,) = await made.up("h1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "AT_ONCE", 10)
        ids = [made.bus.put("scale", MORE, ["h1"]) for _ in range(23)]
        await until(lambda: all(ended(made.bus, id) for id in ids))
    assert h1.count == 25


@in_a_world
async def test_the_same_command_twice_in_the_stream_takes_effect_once(made):
    (h1,) = await made.up("h1")
    id = made.bus.put("scale", MORE, ["h1"])
    payload = h1.driver._streams[NAMES.commands].entries[-1][1].payload
    await until(lambda: ended(made.bus, id))
    made.bus.append(payload)
    await until(lambda: h1.plane.wire.judge.refused["replayed"])
    await quiet()
    assert (h1.count, made.bus.states(id)) == (3, ["accepted", "running", "done"])


@in_a_world
async def test_a_command_for_other_hosts_is_no_business_of_ours(made):
    (h1,) = await made.up("h1")
    id = made.bus.put("scale", MORE, ["h2", "h3"])
    await until(lambda: h1.record.cursor == h1.driver._streams[NAMES.commands].entries[-1][1].id)
    await quiet()
    assert (h1.count, made.bus.acks(id)) == (2, [])


@in_a_world
async def test_what_was_said_before_a_cluster_began_is_not_obeyed(made):
    h1 = made.host("h1")
    id = made.bus.put("scale", MORE, ["h1"])
    await h1.up()
    await h1.plane.intake.catch_up()
    await quiet()
    assert (h1.count, made.bus.acks(id)) == (2, [])


@in_a_world
async def test_a_new_cluster_forgets_the_commands_of_the_one_before_even_if_its_master_dies_at_once(made):
    (h1,) = await made.up("h1")
    h1.deeds.held.clear()
    made.bus.put("restart", {"names": ["web"]}, ["h1"])
    await until(lambda: h1.record.taken)
    h1.die()
    fresh = made.host("h1", deeds=h1.deeds)
    assert not fresh.record.taken
    fresh.die()
    made.hosts["h1"] = successor = fresh.next_master()
    assert not successor.record.taken
    await successor.up()
    await quiet()
    assert (h1.deeds.begun, h1.deeds.awaited) == ([], [])


@in_a_world
async def test_a_command_that_comes_while_the_bus_is_away_is_obeyed_afterwards(made):
    h0, h1 = await made.up("h0", "h1")
    h1.driver.why = "cut off"
    id = made.bus.put("scale", MORE, ["h1"])
    await quiet()
    assert h1.count == 2
    h1.driver.why = ""
    h1.plane.intake.ring()
    await until(lambda: ended(made.bus, id))
    assert (h1.count, h0.count) == (3, 2)


# -- what is refused


@in_a_world
async def test_a_command_that_has_expired_is_answered_and_not_obeyed(made):
    (h1,) = await made.up("h1")
    id = made.bus.put("scale", MORE, ["h1"], age=20)
    ack = await until(lambda: ended(made.bus, id))
    assert (ack.state, ack.reason, h1.count) == ("expired", "it came too late: this host was cut off", 2)
    assert (h1.plane.document()["late"], len(h1.told(FleetCommandIgnored))) == (1, 1)


@in_a_world
async def test_an_expired_command_for_others_is_not_answered(made):
    (h1,) = await made.up("h1")
    id = made.bus.put("scale", MORE, ["h2"], age=20)
    await until(lambda: h1.plane.wire.judge.refused["expired"])
    await quiet()
    assert (made.bus.acks(id), h1.plane.intake.late) == ([], 0)


@in_a_world
async def test_a_clock_that_is_not_to_be_trusted_refuses(made):
    (h1,) = await made.up("h1")
    made.later(400)
    id = made.bus.put("scale", MORE, ["h1"])
    ack = await until(lambda: ended(made.bus, id))
    assert (ack.state, h1.count) == ("refused", 2)
    assert "clock" in ack.reason


@in_a_world
async def test_a_clock_that_went_back_refuses(made):
    (h1,) = await made.up("h1")
    await h1.plane.intake.catch_up()
    made.later(-60)
    id = made.bus.put("scale", MORE, ["h1"])
    ack = await until(lambda: ended(made.bus, id))
    assert (ack.state, h1.count) == ("refused", 2)


@in_a_world
async def test_a_command_of_another_application_is_refused_without_an_answer(made):
    (h1,) = await made.up("h1")
    id = made.bus.put("scale", MORE, ["h1"], app="other")
    await until(lambda: h1.plane.wire.judge.refused["foreign"])
    await quiet()
    assert (h1.count, made.bus.acks(id)) == (2, [])


@in_a_world
async def test_a_command_with_a_key_that_is_not_known_is_refused_without_an_answer(made):
    (h1,) = await made.up("h1")
    id = made.bus.put("scale", MORE, ["h1"], keyring=Keyring([b"x" * 32]))
    await until(lambda: h1.plane.wire.judge.refused["unknown-key"])
    await quiet()
    assert (h1.count, made.bus.acks(id)) == (2, [])


@in_a_world
async def test_a_verb_that_is_not_known_is_refused(made):
    (_h1,) = await made.up("h1")
    id = made.bus.put("dance", {}, ["h1"])
    ack = await until(lambda: ended(made.bus, id))
    assert (ack.state, ack.reason) == ("refused", "this host's bkd knows no dance")


@pytest.mark.parametrize("verb", ["shell", "signal", "hold", "fleet", "await"])
def test_no_verb_of_the_socket_comes_over_the_bus_that_is_not_for_the_fleet(verb, tmp_path, monkeypatch):
    hurried(monkeypatch)

    async def given():
        async with world(tmp_path) as made:
            await made.up("h1")
            id = made.bus.put(verb, {}, ["h1"])
            return (await until(lambda: ended(made.bus, id))).state

    assert asyncio.run(given()) == "refused"


@in_a_world
async def test_a_full_disk_refuses_before_anything_has_begun(made):
    (h1,) = await made.up("h1")
    records = h1.plane.executor.records
    records.replace = lambda data: setattr(records, "fault", "no space left on device")
    ids = [made.bus.put("scale", MORE, ["h1"]), made.bus.put("restart", {}, ["h1"])]
    for id in ids:
        ack = await until(lambda id=id: ended(made.bus, id))
        assert (ack.state, ack.reason) == (
            "refused",
            f"it cannot be written down in {records.path}: no space left on device",
        )
    assert (h1.count, h1.deeds.begun) == (2, [])


@in_a_world
async def test_the_others_of_a_rollout_know_who_has_refused_it_for_want_of_disk(made):
    h0, h1, h2 = await made.up("h0", "h1", "h2")
    records = h1.plane.executor.records
    records.replace = lambda data: setattr(records, "fault", "no space left on device")
    terminal, task = h0.give("restart", {"names": ["web"]}, hosts=["h1", "h2"])
    await asyncio.wait_for(task, PATIENCE)
    rollout = await h0.plane.rollouts.permits.read(terminal.resume["fleet"])
    assert [(turn.host, str(turn.state)) for turn in rollout.hosts] == [("h1", "refused"), ("h2", "skipped")]
    assert (terminal.code, h2.deeds.begun) == (1, [])


@in_a_world
async def test_a_full_disk_is_no_reason_not_to_look(made):
    (h1,) = await made.up("h1")
    records = h1.plane.executor.records
    records.replace = lambda data: setattr(records, "fault", "no space left on device")
    id = made.bus.put("events", {}, ["h1"])
    assert (await until(lambda: ended(made.bus, id))).state == "done"


# -- what an attacker or a fault puts into the stream


def nested(depth):
    return functools.reduce(lambda inner, _: [inner], range(depth), 1)


@in_a_world
async def test_rubbish_in_the_stream_keeps_nobody_up(made):
    (h1,) = await made.up("h1")
    writer = Writer(NAMES, "h0", instance_of(0, b"\0\0"), Keyring.unsigned())
    elsewhere = writer.letter(NAMES.channel("web"), "fleet:event", BusEvent("web", "", "a:b"), 1e9, 1e9)
    for payload in (b"", b"x", b"bkd1", b"bkd1" + bytes(36), b"bkd1" + bytes(36) + b"\x81\xa2id\xa1\xff", elsewhere):
        made.bus.append(payload)
    id = made.bus.put("scale", MORE, ["h1"])
    await until(lambda: ended(made.bus, id))
    assert h1.count == 3


@in_a_world
async def test_a_letter_that_holds_no_command_keeps_nobody_up(made):
    (h1,) = await made.up("h1")
    for body in ({"verb": 7}, {"verb": "scale", "arguments": [], "targets": ["h1"]}, {}):
        letter = _letter_with(msgspec.msgpack.encode(body))
        made.bus.append(letter)
    id = made.bus.put("scale", MORE, ["h1"])
    await until(lambda: ended(made.bus, id))
    assert (h1.count, h1.plane.wire.judge.refused["malformed"]) == (3, 3)


def _letter_with(body):
    now = time.time()
    id = f"{int(now * 1000):012x}{hash(body) & 0xFFFFFFFFFFFF:012x}"
    letter = Letter("shop", "h0", NAMES.commands, id, now, now + 15, "fleet:command", msgspec.Raw(body))
    return Keyring.unsigned().sign(encode(letter))


@in_a_world
async def test_arguments_of_any_depth_and_kind_harm_neither_this_master_nor_the_next(made):
    (h1,) = await made.up("h1")
    odd = [{"web": b"\xff"}, {"web": {1: 2}}, {"web": float("nan")}, {"web": msgspec.msgpack.Ext(5, b"x")}, {"": None}]
    ids = [made.bus.put(verb, arguments, ["h1"]) for verb in ("scale", "restart", "send") for arguments in odd]
    # decoding and encoding give up at some depth below the interpreter's limit, not both at the same
    for depth in range(700, 1000, 3):
        try:
            ids.append(made.bus.put("scale", {"web": nested(depth)}, ["h1"]))
        except RecursionError:
            break
    last = made.bus.put("scale", MORE, ["h1"])
    await until(lambda: ended(made.bus, last))
    assert h1.count == 3
    h1.die()
    successor = await h1.next_master().up()
    id = made.bus.put("scale", MORE, ["h1"])
    await until(lambda: ended(made.bus, id))
    assert successor.count == 4
    successor.die()


# -- a bus that was emptied


@in_a_world
async def test_a_bus_that_was_emptied_is_told_and_read_from_its_beginning(made):
    (h1,) = await made.up("h1")
    first = made.bus.put("scale", MORE, ["h1"])
    await until(lambda: ended(made.bus, first))
    h1.record.cursor = "99999999999999-0"
    again = made.bus.put("scale", MORE, ["h1"])
    await until(lambda: ended(made.bus, again))
    assert (h1.count, len(h1.told(BusResync))) == (4, 1)
    assert made.bus.states(first) == ["accepted", "running", "done"]


@pytest.mark.parametrize(
    ("id", "other", "before"),
    [("9-0", "10-0", True), ("10-9", "10-10", True), ("10-10", "10-9", False), ("10-1", "10-1", False)],
)
def test_ids_of_a_stream_are_numbers(id, other, before):
    assert is_before(id, other) is before
    assert is_before("0-0", id) and not is_before(id, "")


@in_a_world
async def test_what_was_obeyed_in_its_time_never_came_too_late(made):
    (h1,) = await made.up("h1")
    first = made.bus.put("scale", MORE, ["h1"])
    await until(lambda: ended(made.bus, first))
    made.later(60)
    h1.record.cursor = "0-0"
    await h1.plane.intake.catch_up()
    await quiet()
    assert (h1.count, h1.plane.intake.late) == (3, 0)
    assert made.bus.states(first) == ["accepted", "running", "done"]
