"""What a process has said before its end is taken up when its end is known, read by the loop or not."""

import asyncio
import contextlib
import socket

import pytest
import uvloop

from bkd.ipc.errors import FrameError
from bkd.ipc.frames import frame
from bkd.ipc.message import Drain, Hello, Ready, encode
from bkd.supervisor.connection import LAST, READ, TURN, Connection

HELLO = Hello(role="worker", token="t")


class Owner:
    """Writes down what is heard."""

    def __init__(self):
        self.heard, self.faults, self.ends = [], [], 0

    def opened(self, connection):
        return True

    def received(self, connection, envelope):
        if envelope.op == Drain.op:
            raise FrameError("a worker may not say that")
        self.heard.append(envelope.op)

    def rejected(self, connection, why):
        self.faults.append(why)

    def closed(self, connection):
        self.ends += 1


def heard(*said, ends=True, loop_factory=uvloop.new_event_loop):
    """What is taken up without the loop having read anything, and what the loop has seen in the end."""
    owner = Owner()

    async def one():
        ours, theirs = socket.socketpair()
        connection = Connection(owner, memoryview(bytearray(READ)))
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
        with theirs:
            theirs.setblocking(False)
            for message in said:
                theirs.send(message if isinstance(message, bytes) else frame(encode(message)))
            if ends:
                theirs.close()
            connection.hear_out()
            at_once = list(owner.heard)
            theirs.close()
            await asyncio.sleep(0)
            async with asyncio.timeout(30.0):
                while not owner.ends:
                    await asyncio.sleep(0.001)
        assert owner.heard == at_once
        return at_once

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(one()), owner


@pytest.mark.parametrize("ends", [True, False], ids=["closed", "a copy has it open"])
@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_all_that_was_said_is_heard(ends, loop_factory):
    """Be it more than the loop takes up in one turn."""
    many = [Ready()] * (3 * TURN)
    said, owner = heard(HELLO, *many, ends=ends, loop_factory=loop_factory)
    assert said == [Hello.op, *(message.op for message in many)]
    assert (owner.faults, owner.ends) == ([], 1)


@pytest.mark.parametrize("judged", [True, False], ids=["and then judged", "seen by the loop"])
@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_who_is_told_something_after_its_end_has_said_all_the_same(loop_factory, judged):
    """What was sent cannot arrive, which ends the connection before anything is read."""
    owner = Owner()

    async def one():
        ours, theirs = socket.socketpair()
        connection = Connection(owner, memoryview(bytearray(READ)))
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
        for message in (HELLO, Ready()):
            theirs.send(frame(encode(message)))
        theirs.close()
        connection.send(Drain())
        while judged and connection.is_open:
            await asyncio.sleep(0)
        if judged and not owner.ends:
            connection.hear_out()
            assert owner.heard
        async with asyncio.timeout(30.0):
            while not owner.ends:
                await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(one())
    assert (owner.heard, owner.faults) == ([Hello.op, Ready.op], [])


def test_who_said_nothing_has_said_nothing():
    assert heard()[0] == []


def test_half_a_message_is_none():
    assert heard(HELLO, frame(encode(Ready()))[:-1])[0] == [Hello.op]


def test_nonsense_ends_it():
    """As while the process lived."""
    said, owner = heard(HELLO, Drain(), Ready())
    assert (said, owner.faults) == ([Hello.op], ["a worker may not say that"])


def test_a_copy_that_goes_on_and_on_is_left():
    """Whatever is written all the while, the master goes on."""
    piece = frame(encode(Ready())) * 1000
    owner = Owner()

    async def one():
        ours, theirs = socket.socketpair()
        connection = Connection(owner, memoryview(bytearray(READ)))
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
        theirs.setblocking(False)

        def received(_connection, envelope):
            owner.heard.append(envelope.op)
            with contextlib.suppress(BlockingIOError):
                theirs.send(piece)

        owner.received = received
        with theirs:
            theirs.send(piece)
            connection.hear_out()
            connection.transport.abort()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(one())
    assert 0 < len(owner.heard) * len(frame(encode(Ready()))) < 2 * LAST
