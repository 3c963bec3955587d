"""The web worker in real processes, forked from one prepared application, without a master."""

import asyncio
import os
import signal
import socket
import time

import psutil
import pytest
from websockets.sync.client import connect as websocket

from .web_worker.group import DEADLINE, Group, listen, until

SOON = 8.0  # seconds in which a busy machine does what takes a moment; what would be wrong takes longer


@pytest.fixture
def listener():
    with listen() as sock:
        yield sock


def of(group, clients):
    """Which worker answers each of these kept connections."""
    pids = [int(client.get("/pid")[2]) for client in clients]
    return [[worker.pid for worker in group.workers].index(pid) for pid in pids]


def clients_of(group, index, wanted=4):
    """Kept connections of one worker; the others' are closed."""
    clients = []
    while len(clients) < wanted:
        client = group.client()
        if of(group, [client]) == [index]:
            clients.append(client)
        else:
            client.close()
    return clients


@pytest.mark.parametrize("pause", [0.05, 0.15])
def test_an_idle_kept_connection_is_answered_and_told_to_go(listener, pause):
    with Group("asgi:app", [listener], count=2, lame_duck=2.0).ready() as group:
        clients = clients_of(group, 0)
        group.workers[0].drain()
        time.sleep(pause)  # the think time under test

        for client in clients:
            _, headers, body = client.get("/pid")
            assert (headers["connection"], int(body)) == ("close", group.workers[0].pid)
            client.closed()
        assert group.code(0) == 0


def test_accepted_and_unread_connections_are_answered(listener):
    with Group("asgi:app", [listener], lame_duck=2.0).ready() as group:
        clients = [group.client() for _ in range(20)]
        assert group.client().get()[0] == 200  # so the others have been accepted before it
        group.workers[0].drain()
        time.sleep(0.05)  # the think time under test

        assert [client.get()[1]["connection"] for client in clients] == ["close"] * 20
        assert group.code(0) == 0


def test_queued_connections_survive(listener):
    with Group("asgi:app", [listener], count=2).ready() as group:
        blockers = [clients_of(group, index, 1)[0] for index in range(2)]
        for client in blockers:
            client.send("/block/0.3")
        clients = [group.client() for _ in range(20)]
        group.workers[0].drain()
        for client in clients:
            client.send("/pid")

        assert [client.receive()[0] for client in clients] == [200] * 20
        assert [client.receive()[2] for client in blockers] == [b"blocked"] * 2
        assert group.code(0) == 0


def test_the_last_worker_empties_the_queue(listener):
    with Group("asgi:app", [listener]).ready() as group:
        blocker = group.client()
        blocker.send("/block/0.3")
        until(lambda: group.workers[0].load()[0] == 1, "the request in flight")
        clients = [group.client() for _ in range(20)]
        group.workers[0].drain(last=True)
        for client in clients:
            client.send()

        assert [client.receive()[1].get("connection") for client in clients] == ["close"] * 20
        assert group.code(0) == 0


def test_requests_in_flight_complete_and_say_close(listener):
    with Group("asgi:app", [listener]).ready() as group:
        client = group.client()
        client.send("/sleep/2.5")  # longer than the date header lives
        until(lambda: group.workers[0].load()[1] > 1.05, "a request a second old")
        group.workers[0].drain()
        status, headers, body = client.receive()

        assert (status, headers["connection"], body) == (200, "close", b"slept")
        assert group.code(0) == 0


def test_a_stream_runs_on(listener):
    with Group("asgi:app", [listener]).ready() as group:
        client = group.client()
        client.send("/stream/10")
        until(lambda: group.workers[0].load()[0] == 1, "the stream")
        group.workers[0].drain()

        assert client.receive()[2].endswith(b"9\nend\n")
        client.closed()
        assert group.code(0) == 0


def test_a_blocked_loop_does_not_reset_what_was_sent_meanwhile(listener):
    with Group("asgi:app", [listener], lame_duck=0.2).ready() as group:
        idle, blocker = group.client(), group.client()
        idle.get()
        blocker.send("/block/0.6")
        until(lambda: group.workers[0].load()[0] == 1, "the blocking request")
        group.workers[0].drain()

        assert idle.get()[0] == 200
        assert blocker.receive()[2] == b"blocked"
        assert group.code(0) == 0


def test_nobody_is_sent_away_for_what_the_machine_slept(listener):
    with Group("asgi:app", [listener], lame_duck=2.0).ready() as group:
        idle, other = group.client(), group.client()
        idle.get()
        group.workers[0].drain()
        until(lambda: other.get()[1].get("connection") == "close", "the drain")
        os.kill(group.workers[0].pid, signal.SIGSTOP)
        time.sleep(2.5)  # longer than `lame_duck`
        os.kill(group.workers[0].pid, signal.SIGCONT)
        group.workers[0].load()
        time.sleep(0.2)  # the client wakes up a little later

        assert idle.get()[0] == 200
        assert group.code(0) == 0


def test_idle_connections_stay_for_lame_duck_and_no_longer(listener):
    with Group("asgi:app", [listener], lame_duck=0.4).ready() as group:
        client = group.client()
        asked = time.monotonic()
        client.get()
        group.workers[0].drain()
        client.closed()
        assert 0.4 <= time.monotonic() - asked < SOON
        assert group.code(0) == 0


def test_nothing_open_leaves_at_once(listener):
    with Group("asgi:app", [listener], lame_duck=2 * SOON).ready() as group:
        client = group.client()
        client.get(headers="Connection: close\r\n")
        client.closed()
        started = time.monotonic()
        group.workers[0].drain()
        assert group.code(0) == 0
        assert time.monotonic() - started < SOON  # 3 to 15 ms on an idle machine


async def visit(address, errors, counts, stopped):
    """Kept connections with a new one whenever the server says close; anything else is an error."""
    while not stopped.is_set():
        reader, writer = await asyncio.open_connection(*address)
        try:
            while not stopped.is_set():
                writer.write(b"GET /sleep/0.002 HTTP/1.1\r\nHost: test\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(5)
                counts.append(1)
                if b"connection: close" in head:
                    break
        except (OSError, asyncio.IncompleteReadError) as error:
            errors.append(repr(error))
        finally:
            writer.close()


def test_nothing_is_lost_over_drains_under_load(listener):
    errors, counts, groups = [], [], []

    async def served(more_than):
        async with asyncio.timeout(DEADLINE):
            while len(counts) <= more_than and not errors:
                await asyncio.sleep(0.005)

    async def roll():
        stopped = asyncio.Event()
        visitors = [asyncio.create_task(visit(listener.getsockname(), errors, counts, stopped)) for _ in range(8)]
        for _ in range(4):
            groups.append(await asyncio.to_thread(Group("asgi:app", [listener], count=2, lame_duck=SOON).ready))
            for index in range(2):
                await served(more_than=len(counts) + 30)
                groups[-2].workers[index].drain()
            await asyncio.to_thread(lambda: [groups[-2].code(index) for index in range(2)])
        stopped.set()
        await asyncio.wait_for(asyncio.gather(*visitors), DEADLINE)

    groups.append(Group("asgi:app", [listener], count=2, lame_duck=SOON).ready())
    try:
        asyncio.run(roll())
        assert [group.codes for group in groups[:-1]] == [{0: 0, 1: 0}] * 4
    finally:
        for group in groups:
            group.__exit__(None)
    assert errors == []


def test_websockets_run_on_and_count_as_open(listener):
    with Group("asgi:app", [listener], lame_duck=0.1).ready() as group:
        url = "ws://{}:{}/".format(*listener.getsockname())
        with websocket(url) as socket_, group.client() as other:
            other.get()
            group.workers[0].drain()
            other.closed()
            socket_.send("still here")
            assert socket_.recv(timeout=5) == "STILL HERE"
            assert group.workers[0].load()[:2] == [1, 0.0]
        assert group.code(0) == 0


def test_a_handshake_during_the_drain_is_whole(listener):
    with Group("asgi:app", [listener], lame_duck=5.0).ready() as group, group.client() as client:
        until(lambda: client.get()[0] == 200, "the worker")
        group.workers[0].drain()
        key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        client.send(headers=f"{key}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
        status, headers, _ = client.receive()
        assert (status, headers["connection"]) == (101, "Upgrade")


def test_sigterm_ends_an_idle_worker_with_0(listener):
    with Group("asgi:app", [listener]).ready() as group:
        client = group.client()
        client.get()
        until(lambda: group.workers[0].load()[0] == 0, "the answer's end")
        os.kill(group.workers[0].pid, signal.SIGTERM)
        client.closed()
        assert group.code(0) == 0


def test_sigterm_cuts_a_drain_short_with_1(listener):
    with Group("asgi:app", [listener]).ready() as group:
        client = group.client()
        client.send("/sleep/60")
        url = "ws://{}:{}/".format(*listener.getsockname())
        with websocket(url) as socket_:
            until(lambda: group.workers[0].load()[0] == 2, "both in flight")
            group.workers[0].drain()
            started = time.monotonic()
            os.kill(group.workers[0].pid, signal.SIGTERM)
            assert group.code(0) == 1
            assert time.monotonic() - started < SOON
            with pytest.raises(Exception, match="1012"):
                socket_.recv(timeout=5)


def test_sigterm_does_not_wait_for_a_shutdown_that_hangs(listener):
    with Group("asgi:stubborn", [listener]).ready() as group:
        started = time.monotonic()
        os.kill(group.workers[0].pid, signal.SIGTERM)
        assert group.code(0) == 1
        assert 0.8 < time.monotonic() - started < SOON


def test_sigterm_does_not_wait_for_a_thread_that_hangs(listener):
    with Group("asgi:hanging", [listener]).ready() as group:
        group.client().send()
        until(lambda: group.workers[0].load()[1] > 0.05, "the request in flight")
        started = time.monotonic()
        os.kill(group.workers[0].pid, signal.SIGTERM)
        assert group.code(0) == 1
        assert time.monotonic() - started < SOON


@pytest.mark.parametrize("app", ["asgi:broken", "fastapi_app:failing"])
def test_a_startup_that_fails_says_why_and_exits_3(listener, app):
    with Group(app, [listener]) as group:
        assert group.code(0) == 3
    assert "RuntimeError: no database" in group.stderr


def test_the_age_of_waiting_requests_is_told_but_not_that_of_streams(listener):
    with Group("asgi:app", [listener]).ready() as group:
        waiting, stream = group.client(), group.client()
        stream.send("/stream/40")
        waiting.send("/sleep/1.5")
        until(lambda: group.workers[0].load()[1] > 0.3, "the age of the waiting one")
        assert waiting.receive()[2] == b"slept"
        until(lambda: group.workers[0].load()[:2] == [1, 0.0], "the stream alone")


def test_what_is_over_was_served(listener):
    """Once each: a kept connection's requests, one that fails, a client that went away, a websocket when it ends."""
    with Group("asgi:app", [listener]).ready() as group:
        served = lambda count: until(lambda: group.workers[0].load()[2] == count, f"{count} served")  # noqa: E731
        client, gone = group.client(), group.client()
        for _ in range(3):
            client.get()
        assert client.get("/sleep/never")[0] == 500
        served(4)

        gone.send("/sleep/1")
        until(lambda: group.workers[0].load()[0] == 1, "the request")
        gone.close()
        served(5)

        with websocket("ws://{}:{}/".format(*listener.getsockname())) as socket_:
            socket_.send("hello")
            assert socket_.recv(timeout=5) == "HELLO"
            assert group.workers[0].load()[2] == 5
        served(6)


def test_a_request_whose_client_went_away_still_ages(listener):
    with Group("asgi:app", [listener]).ready() as group:
        client = group.client()
        client.send("/sleep/2")
        until(lambda: group.workers[0].load()[0] == 1, "the request")
        client.close()
        until(lambda: group.workers[0].load()[1] > 0.3, "its age")


def test_answers_are_sent_without_delay_whatever_the_listener_says():
    with listen() as plain:
        vague = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=plain.detach())
        with vague, Group("asgi:app", [vague]).ready() as group, group.client() as client:
            options = eval(client.get("/nodelay")[2])
            assert options and all(options)


def test_every_family_of_sockets(tmp_path):
    path = str(tmp_path / "web.sock")
    listeners = [listen(), listen(socket.AF_INET6, ("::1", 0)), listen(socket.AF_UNIX, path)]
    with Group("asgi:app", listeners).ready() as group:
        for listener in listeners:
            with group.client(listener) as client:
                assert client.get()[2] == b"hello"
        group.workers[0].drain()
        assert group.code(0) == 0
    for listener in listeners:
        listener.close()


def test_without_descriptors_accepting_pauses_and_recovers(listener):
    with Group("asgi:app", [listener], rlimit=30).ready() as group:
        clients = [group.client() for _ in range(40)]
        time.sleep(0.3)  # a busy loop would show in the CPU time
        worker = psutil.Process(group.workers[0].pid)
        used = sum(worker.cpu_times()[:2])
        time.sleep(0.7)
        assert sum(worker.cpu_times()[:2]) - used <= 0.05
        for client in clients[:35]:
            client.close()
        assert group.client().get()[0] == 200
    assert group.stderr.count("Too many open files") == 1


@pytest.mark.parametrize(
    ("app", "path", "body", "answer"),
    [
        ("asgi:Double", "/", b"", b"asgi2"),
        ("asgi:greedy", "/", b"", b"hello"),
        ("asgi:wsgi", "/", b"xyz", b"wsgi POST xyz"),
        ("flask_app:app", "/echo", b"xyz", b"xyz"),
        ("flask_app:create()", "/echo", b"xyz", b"xyz"),
        ("fastapi_app:app", "/echo", b"xyz", b"fastapi xyz"),
        ("django_app:asgi", "/", b"xyz", b"django xyz"),
        ("django_app:wsgi", "/", b"xyz", b"django xyz"),
    ],
)
def test_applications_are_served_as_what_they_are(listener, app, path, body, answer):
    with Group(app, [listener]).ready() as group:
        with group.client() as client:
            assert client.get(path, method="POST", body=body)[::2] == (200, answer)
        group.workers[0].drain()
        assert group.code(0) == 0
    assert group.stderr == ""


def test_the_byte_shows_the_open_connections(listener, tmp_path):
    slots = tmp_path / "slots"
    slots.write_bytes(b"\xff" * 8)
    with Group("asgi:app", [listener], count=2, slots=str(slots)).ready() as group:
        assert slots.read_bytes() == b"\0\0" + b"\xff" * 6
        assert any(difference(group, slots) <= 2 for _ in range(10))
        group.workers[0].drain()
        assert group.code(0) == 0
        assert slots.read_bytes()[:2] == b"\xff\0"


def difference(group, slots):
    """How unevenly 12 connections were taken; on a busy machine one of the two may have had no time."""
    clients = [group.client() for _ in range(12)]
    owners = of(group, clients)
    assert slots.read_bytes()[:2] == bytes([owners.count(0), owners.count(1)])
    for client in clients:
        client.close()
    until(lambda: slots.read_bytes()[:2] == b"\0\0", "the bytes to fall")
    return abs(owners.count(0) - owners.count(1))


def test_the_byte_of_a_worker_that_was_told_to_terminate_stays_away(listener, tmp_path):
    slots = tmp_path / "slots"
    slots.write_bytes(b"\xff" * 8)
    with Group("asgi:app", [listener], slots=str(slots)).ready() as group:
        client = group.client()
        client.send("/sleep/60")
        until(lambda: group.workers[0].load()[0] == 1, "the request")
        os.kill(group.workers[0].pid, signal.SIGTERM)
        client.closed()
        assert group.code(0) == 1
        assert slots.read_bytes() == b"\xff" * 8
