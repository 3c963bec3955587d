"""What a host says of a command: in order, with growing numbers, kept while the bus is away, bounded."""

import asyncio

import pytest

from bkd.ipc.message import Finished
from bkd.supervisor.fleet import replies as module
from bkd.supervisor.fleet.facts import FleetCommandEnded
from bkd.supervisor.fleet.record import Taken
from bkd.supervisor.fleet.replies import MOST_WAITING

from .world import PATIENCE, in_a_world, quiet


def a_command(verb="scale", number=1):
    return Taken(f"{number:024x}", verb, {}, "ann@h0", "h0", False, 0.0)


@in_a_world
async def test_what_is_said_while_the_bus_is_away_comes_afterwards_in_order(made):
    (h1,) = await made.up("h1")
    taken, replies = a_command(), h1.plane.replies
    h1.driver.why = "cut off"
    for state in ("accepted", "running", "running"):
        replies.say(taken, state)
    replies.end(taken, "done", Finished(0, "yes\n"))
    await quiet()
    assert made.bus.acks(taken.id) == []
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(replies.flushed(), 0.01)
    h1.driver.why = ""
    replies.ring()
    await asyncio.wait_for(replies.flushed(), PATIENCE)
    assert made.bus.states(taken.id) == ["accepted", "running", "running", "done"]
    assert [ack.number for ack in made.bus.acks(taken.id)] == [1, 2, 3, 4]


@in_a_world
async def test_a_bus_that_comes_and_goes_loses_and_doubles_nothing(made):
    (h1,) = await made.up("h1")
    taken, replies = a_command(), h1.plane.replies
    for number in range(30):
        h1.driver.why = "cut off" if number % 3 else ""
        replies.ring()
        replies.say(taken, "running", step=str(number))
        await quiet(10)
    h1.driver.why = ""
    replies.ring()
    await asyncio.wait_for(replies.flushed(), PATIENCE)
    assert [ack.step for ack in made.bus.acks(taken.id)] == [str(number) for number in range(30)]


@in_a_world
async def test_a_long_time_without_a_bus_does_not_fill_the_memory_and_every_end_is_said(made):
    (h1,) = await made.up("h1")
    replies, commands = h1.plane.replies, [a_command(number=number) for number in range(1, 8)]
    h1.driver.why = "cut off"
    for taken in commands:
        replies.say(taken, "accepted")
    replies.end(commands[0], "done", Finished(0))
    for number in range(3 * MOST_WAITING):
        replies.say(commands[1 + number % 6], "running")
    for taken in commands[1:]:
        replies.end(taken, "done", Finished(0))
    assert len(replies._waiting) == MOST_WAITING
    assert replies.lost == 7 + 3 * MOST_WAITING + 7 - MOST_WAITING == h1.plane.document()["lost"]
    h1.driver.why = ""
    replies.ring()
    await asyncio.wait_for(replies.flushed(), PATIENCE)
    assert all(made.bus.states(taken.id)[-1] == "done" for taken in commands)


@in_a_world
async def test_what_cannot_be_written_keeps_nothing_else_up(made):
    (h1,) = await made.up("h1")
    bad, good, replies = a_command(number=1), a_command(number=2), h1.plane.replies
    replies.say(bad, "running", step="\udc80")
    replies.say(bad, "running", step="x" * 600_000)
    replies.say(good, "running")
    await asyncio.wait_for(replies.flushed(), PATIENCE)
    assert (made.bus.states(good.id), replies.lost) == (["running"], 2)


@in_a_world
async def test_words_of_any_length_and_kind_come_through(made):
    (h1,) = await made.up("h1")
    taken, replies = a_command(), h1.plane.replies
    replies.end(taken, "failed", Finished(1, "é" * 300_000, "\udc80" + "y" * 300_000), reason="\udcff no")
    await asyncio.wait_for(replies.flushed(), PATIENCE)
    (ack,) = made.bus.acks(taken.id)
    assert (ack.state, ack.reason, len(ack.out), len(ack.err)) == ("failed", "? no", 100_000, 200_000)


@in_a_world
async def test_a_document_that_is_too_long_is_no_half_document(made):
    (h1,) = await made.up("h1")
    for number, length in enumerate((199_999, 200_000, 200_001), 1):
        h1.plane.replies.end(a_command("status", number), "done", Finished(0, "x" * length))
    await asyncio.wait_for(h1.plane.replies.flushed(), PATIENCE)
    states = [made.bus.acks(f"{number:024x}")[0] for number in (1, 2, 3)]
    assert [(ack.state, len(ack.out)) for ack in states] == [("done", 199_999), ("failed", 0), ("failed", 0)]


@in_a_world
async def test_an_end_is_told_to_the_journal_but_not_that_somebody_looked(made):
    (h1,) = await made.up("h1")
    h1.plane.replies.end(a_command("scale"), "failed", Finished(1), reason="no room")
    h1.plane.replies.end(a_command("status"), "done", Finished(0))
    (fact,) = h1.told(FleetCommandEnded)
    assert (fact.describe(), fact.level()) == (f"fleet: scale failed here: no room ({1:024x})", "warning")


@in_a_world
async def test_whoever_asked_is_rung(made):
    h0, h1 = await made.up("h0", "h1")
    rung = asyncio.Event()
    h0.plane.issuing._bells.add(rung)
    h1.plane.replies.say(a_command(), "accepted")
    await asyncio.wait_for(rung.wait(), PATIENCE)


def test_the_end_of_what_is_too_long_goes_along():
    assert module._last("a" * 200_001 + "z") == "a" * 199_999 + "z"
    assert module._last("short") == "short"
    assert module._last("é" * 100_001) == "é" * 100_000
