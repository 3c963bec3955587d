"""What is open in a worker, as values."""

import time
from types import SimpleNamespace

import pytest

from bkd.workers.supervision import Load
from bkd.workers.web.protocol import CLOSE, Connections, Http, Traffic


def test_connections_tell_of_each_one_that_comes_or_goes():
    changes = []
    connections = Connections(lambda: changes.append(len(connections)))
    connections.add("a")
    connections.add("a")
    connections.add("b")
    connections.remove("a")
    connections.discard("b")
    assert changes == [1, 2, 1, 0]


def test_requests_in_flight_hear_of_the_close_and_handshakes_do_not():
    traffic = Traffic([(b"server", b"uvicorn")], lambda: None)
    held = traffic.default_headers
    traffic.set_date()
    traffic.announce_close()
    assert held[-1] == CLOSE
    assert [name for name, _ in held] == [b"date", b"server", b"connection"]
    assert [name for name, _ in traffic.upgraded.default_headers] == [b"date", b"server"]


def request(age, *, started=False):
    return SimpleNamespace(touched=time.monotonic() - age, cycle=SimpleNamespace(response_started=started))


def test_the_load_counts_all_and_ages_what_waits():
    traffic = Traffic([], lambda: None)
    assert traffic.load() == Load(0, 0.0)

    traffic.requests = {1: request(5), 2: request(9), 3: request(70, started=True)}
    traffic.tasks.add("a websocket")
    in_flight, oldest, _served = traffic.load()
    assert in_flight == 4
    assert 9 <= oldest < 10


def test_what_has_begun_and_is_not_in_flight_was_served():
    traffic = Traffic([], lambda: None)
    traffic.requests = {1: request(0), 2: request(0)}
    traffic.begun = 5
    traffic.tasks.add("a websocket")
    traffic.tasks.add("another")
    traffic.tasks.discard("another")
    assert traffic.load() == Load(3, pytest.approx(0, abs=1), 4)


def test_the_number_served_never_falls():
    """A request may begin while the heartbeat's thread looks: then it is in flight and has not begun."""
    traffic = Traffic([], lambda: None)
    traffic.begun = 5
    assert traffic.load().served == 5
    traffic.requests = {1: request(0)}
    assert traffic.load().served == 5


@pytest.mark.parametrize("unread", [True, False])
def test_a_request_that_came_while_the_loop_stood_still_is_read(monkeypatch, unread):
    """The timer of a kept connection runs before what has arrived is read."""
    closed = []
    connection = Http.__new__(Http)
    connection.transport = SimpleNamespace(is_closing=lambda: False, close=lambda: closed.append(True))
    monkeypatch.setattr(connection, "_unread", lambda: unread)
    connection.timeout_keep_alive_handler()
    assert bool(closed) is not unread
