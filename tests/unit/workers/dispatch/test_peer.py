"""What a peer has said before its end is taken up, whatever could not reach it any more."""

import asyncio
import socket

import pytest
import uvloop

from bkd.ipc.durable.wire import Greet, packed
from bkd.workers.dispatch.peer import READ, TURN, Peer


class Owner:
    """Lets everybody in, and writes down what is heard."""

    def __init__(self):
        self.heard, self.ends = [], 0

    def opened(self, peer):
        pass

    def introduced(self, peer, first):
        return self

    def closed(self, peer):
        self.ends += 1

    def gone(self):
        pass


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_who_is_told_something_after_its_end_has_said_all_the_same(loop_factory):
    """An executor that has stored its outcome and is killed is handed the next message: the outcome counts."""
    owner, said = Owner(), []
    owner.heard = said.append

    async def one():
        ours, theirs = socket.socketpair()
        peer = Peer(owner, memoryview(bytearray(READ)))
        await asyncio.get_running_loop().connect_accepted_socket(lambda: peer, ours)
        theirs.sendall(packed(Greet("master")) + packed(Greet("producer")) * (3 * TURN))
        theirs.close()
        peer.send(Greet("master"))
        async with asyncio.timeout(30.0):
            while not owner.ends:
                await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(one())
    assert said == [Greet("producer")] * (3 * TURN)
