"""The sockets at which programs are heard, as the keeper holds them."""

import os
import socket

import pytest

from bkd.supervisor.datagrams import held, names


@pytest.fixture
def sockets():
    """What the keeper has."""
    found = {}
    yield found
    for one in found.values():
        one.close()


@pytest.fixture
def order(tmp_path):
    """The order for one socket."""
    return {"name": "notify:x", "address": str(tmp_path / "x"), "mode": 0o600, "uid": -1}


def send(path, text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text, path)


def test_the_same_order_gives_the_same_socket(sockets, order):
    first = held(sockets, order)
    assert held(sockets, order) == first
    assert [*sockets] == ["notify:x"]


def test_a_removed_file_gets_a_second_socket_and_the_first_stays(sockets, order):
    """Whoever has connected to the first is heard as before."""
    held(sockets, order)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connected:
        connected.connect(order["address"])
        os.unlink(order["address"])
        assert len(held(sockets, order)) == 2
        connected.send(b"old")
        send(order["address"], b"new")
        first, second = (sockets[name] for name in names("notify:x"))
        assert (first.recv(10), second.recv(10)) == (b"old", b"new")


def test_removed_again_it_has_two_and_no_more(sockets, order):
    held(sockets, order)
    for _ in range(3):
        os.unlink(order["address"])
        first, second = held(sockets, order)
    assert sorted(sockets) == sorted(names("notify:x"))
    assert [sockets[name].fileno() for name in names("notify:x")] == [first, second]
    send(order["address"], b"new")
    assert sockets[names("notify:x")[1]].recv(10) == b"new"
