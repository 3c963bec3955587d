"""The keeper lives through every order, and the master's end of the line keeps what it is not able to say to itself."""

import os
import socket

import pytest

from bkd.supervisor.keeper import Keeper
from bkd.supervisor.keeperlink import PACKET, KeeperError, KeeperLink

NOBODY = 1 << 30


@pytest.fixture
def keeper():
    """One that was never run."""
    made = Keeper({})
    yield made
    os.close(made.wake_in)
    os.close(made.wake_out)


@pytest.fixture
def link():
    """The master's end, and the socket at the other one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made = KeeperLink(ours.detach())
    theirs.setblocking(False)
    with made.sock, theirs:
        yield made, theirs


@pytest.mark.parametrize(
    "order",
    [
        {"do": "birth", "birth": "x"},
        {"do": "birth", "pid": "many", "birth": 3},
        {"do": "nonsense"},
        {},
        {"do": "spawn", "argv": []},
        {"do": "bind", "name": "web", "family": "inet", "address": ["127.0.0.1", 99999], "backlog": 1},
        {"do": "lock", "path": "/no/such/folder/lock"},
    ],
)
def test_an_order_that_cannot_be_obeyed_is_answered(keeper, order):
    """Whatever is wrong with an order, its answer says so and nothing is raised."""
    keeper._obey({**order, "id": 7})
    (answer,) = keeper.untold
    assert (answer["event"], answer["re"]) == ("answer", 7)
    assert "error" in answer or order["do"] == "birth"


def test_a_birth_for_one_that_has_ended(keeper):
    """It is passed over: the master hears of the end anyway."""
    keeper._obey({"do": "birth", "pid": NOBODY, "birth": "{}", "id": 1})
    assert list(keeper.untold) == [{"event": "answer", "re": 1}]


def test_an_order_over_the_limit_is_not_sent(link):
    """The error has the order's name and its size; the keeper gets nothing of it."""
    sender, receiver = link
    with pytest.raises(KeeperError, match=f"spawn: .* over the limit of {PACKET}"):
        sender.tell("spawn", argv=["true"], env={"A": "ä" * 45_000})
    with pytest.raises(BlockingIOError):
        receiver.recv(1)
    sender.tell("up")
    assert receiver.recv(100) == b'{"do": "up"}'


def test_a_spawn_that_was_given_up(link):
    """An answer nobody waits for any more is handed to whoever ends what came too late."""
    late = []
    link[0].on_late = lambda pid, start: late.append((pid, start))
    link[0]._heard({"event": "answer", "re": 3, "pid": 11, "start": 22}, [])
    link[0]._heard({"event": "answer", "re": 4}, [])
    assert late == [(11, 22)]
