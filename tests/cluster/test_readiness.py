"""Readiness checks against real programs."""

import asyncio
import os
import re
import subprocess
import sys
import time

import pytest

from bkd.ipc.errors import DeadlineError
from bkd.supervisor.readiness import parse, wait_ready

from .cluster import PATIENCE, free_port

SHORTLY = 0.5

SERVER = """
import os, socket, sys
port, answers = int(sys.argv[1]), sys.argv[2:]
print("started", flush=True)
sys.stdin.readline()
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", port))
listener.listen()
print("listening", flush=True)
kept = []
while True:
    connection, _ = listener.accept()
    kept.append(connection)
    if answers:
        connection.recv(4096)
        connection.sendall(answers[0].encode().decode("unicode_escape").encode())
        connection.close()
        del answers[: len(answers) > 1]
"""


class Program:
    """Listens on `port` when told to; each connection gets the next of `answers` (none: silence)."""

    def __init__(self, port, *answers):
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", SERVER, str(port), *answers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self.process.pid
        assert self.process.stdout.readline() == b"started\n"

    def listen(self, *, wait=True):
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        if wait:
            assert self.process.stdout.readline() == b"listening\n"

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def program():
    programs = []

    def start(*arguments):
        programs.append(Program(*arguments))
        return programs[-1]

    yield start
    for one in programs:
        one.end()


def wait(text, seconds=PATIENCE, meanwhile=None, **facts):
    """Raises what `wait_ready` raises; `meanwhile` is called once the check has begun to look."""

    async def main():
        deadline = time.monotonic() + seconds
        task = asyncio.create_task(wait_ready(parse(text), deadline=deadline, **facts))
        if meanwhile is not None:
            await asyncio.sleep(0)
            assert not task.done()
            meanwhile()
        await task

    asyncio.run(main())


def test_tcp_is_ready_when_the_program_listens(port, program):
    server = program(port)

    wait(f"tcp:127.0.0.1:{port}", meanwhile=server.listen, pid=server.pid)
    wait(f"tcp:localhost:{port}", pid=server.pid)


def test_tcp_that_never_listens_says_what_was_seen(port):
    with pytest.raises(DeadlineError, match=f"tcp:127.0.0.1:{port}: connection refused"):
        wait(f"tcp:127.0.0.1:{port}", SHORTLY)


def test_somebody_elses_listener_does_not_count(port, program):
    stranger, own = program(port), program(port)
    stranger.listen()

    with pytest.raises(DeadlineError, match=f"another program already listens on port {port}"):
        wait(f"tcp:127.0.0.1:{port}", SHORTLY, pid=own.pid)
    with pytest.raises(DeadlineError, match="another program"):
        wait(f"http://127.0.0.1:{port}/", SHORTLY, pid=own.pid)


def test_the_program_is_ready_after_the_stranger_has_gone(port, program):
    stranger, own = program(port), program(port)
    stranger.listen()

    def take_over():
        stranger.process.kill()
        stranger.process.wait()
        own.listen(wait=False)

    wait(f"tcp:127.0.0.1:{port}", meanwhile=take_over, pid=own.pid)


def test_a_program_that_listened_before_the_wait_began_is_recognised(port, program):
    server = program(port)
    server.listen()

    wait(f"tcp:127.0.0.1:{port}", pid=server.pid)
    wait(f"tcp:127.0.0.1:{port}", pid=os.getpid())


def test_http_is_ready_at_the_first_good_status(port, program):
    server = program(port, r"HTTP/1.1 503 Busy\r\n\r\n", r"HTTP/1.1 404 No\r\n\r\n", r"HTTP/1.1 204 Yes\r\n\r\n")

    wait(f"http:http://127.0.0.1:{port}/health?full=1", meanwhile=server.listen, pid=server.pid)


@pytest.mark.parametrize("status", ["200 OK", "301 Moved", "399"])
def test_success_and_redirection_are_ready(port, program, status):
    program(port, rf"HTTP/1.1 {status}\r\n\r\n").listen()

    wait(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (r"HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\n", "status 503 Service Unavailable"),
        (r"HTTP/1.0 500\r\n\r\n", "status 500"),
        (r"SSH-2.0-x\r\n", "not HTTP"),
        ("", "closed without an answer"),
    ],
)
def test_http_that_is_not_ready_says_what_was_seen(port, program, answer, seen):
    program(port, answer).listen()

    with pytest.raises(DeadlineError, match=seen):
        wait(f"http://127.0.0.1:{port}/", SHORTLY)


def test_a_server_that_never_answers_is_not_ready(port, program):
    program(port).listen()

    with pytest.raises(DeadlineError, match="no answer in"):
        wait(f"http://127.0.0.1:{port}/", SHORTLY)


def test_a_probe_leaves_no_descriptor_behind_when_it_is_cancelled(port, program):
    program(port).listen()

    async def main():
        before = set(os.listdir("/proc/self/fd"))
        check = parse(f"http://127.0.0.1:{port}/")
        task = asyncio.create_task(wait_ready(check, deadline=time.monotonic() + PATIENCE))
        while set(os.listdir("/proc/self/fd")) <= before:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert set(os.listdir("/proc/self/fd")) <= before

    asyncio.run(main())


def test_log_is_ready_at_a_line_written_since_the_spawn(tmp_path):
    log = tmp_path / "cache.1.log"
    log.write_text("server ready\n")

    def append():
        with log.open("a") as file:
            file.write("noise\nserver rea")
            file.flush()
            file.write("dy, port 80\n")

    offset = log.stat().st_size
    wait("log:ready, port [0-9]+", meanwhile=append, log_path=str(log), log_offset=offset)
    with pytest.raises(
        DeadlineError, match="log:^server ready$: no line matches yet".replace("^", r"\^").replace("$", r"\$")
    ):
        wait("log:^server ready$", SHORTLY, log_path=str(log), log_offset=offset)


def test_a_log_that_appears_later_is_read_from_its_begin(tmp_path):
    log = tmp_path / "cache.1.log"
    (tmp_path / "cache.1.log.1").write_text("ready\n")

    with pytest.raises(DeadlineError):
        wait("log:ready", SHORTLY, log_path=str(log))
    wait("log:ready", meanwhile=lambda: log.write_text("ready\n"), log_path=str(log))


def test_a_rotation_hides_nothing(tmp_path):
    log = tmp_path / "cache.1.log"
    log.write_text("before\n")

    def rotate():
        with log.open("a") as file:
            file.write("ready\n")
        log.rename(tmp_path / "cache.1.log.1")
        log.write_text("after\n")

    wait("log:ready", meanwhile=rotate, log_path=str(log), log_offset=7)


def test_a_prompt_counts_without_the_end_of_its_line(tmp_path):
    log = tmp_path / "cache.1.log"
    log.write_text("ready> ")

    wait("log:ready>", log_path=str(log))


def test_log_without_a_file_says_what_to_do():
    with pytest.raises(ValueError, match='set mode = "files"'):
        wait("log:ready")


def test_after_waits_and_does_not_outlast_the_deadline():
    begun = time.monotonic()
    wait("after:50ms")
    assert time.monotonic() - begun >= 0.05

    with pytest.raises(DeadlineError, match="`after` asks for 60 s"):
        wait("after:1m", 0.05)
    assert time.monotonic() - begun < 5


def test_notify_is_ready_when_it_was_told():
    async def main():
        notified = asyncio.Event()
        task = asyncio.create_task(wait_ready(parse("notify"), deadline=time.monotonic() + PATIENCE, notified=notified))
        await asyncio.sleep(0)
        notified.set()
        await task
        with pytest.raises(DeadlineError, match="READY=1"):
            await wait_ready(parse("notify"), deadline=time.monotonic() + 0.02, notified=asyncio.Event())

    asyncio.run(main())


def test_a_deadline_that_has_passed_is_kept(port):
    with pytest.raises(DeadlineError):
        wait(f"tcp:127.0.0.1:{port}", -1)


def test_nothing_said_means_one_second():
    assert parse("") == parse("after:1s")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("https://127.0.0.1/", "use tcp:HOST:PORT"),
        ("http:https://127.0.0.1/", "use tcp:HOST:PORT"),
        ("http://127.0.0.1:0/", "write http://"),
        ("http://127.0.0.1:99999/", "[Pp]ort"),
        ("http://127.0.0.1/ä", "write http://"),
        ("http://127.0.0.1/ HTTP/1.1", "URL"),
        ("tcp:11211", "port"),
        ("tcp:a..b:80", "not a host"),
        ("http://a..b/", "not a host"),
        ("log:(", "regular expression"),
        ("after:soon", "duration"),
        ("magic", "form of readiness"),
    ],
)
def test_what_cannot_be_checked_is_refused(text, hint):
    with pytest.raises(ValueError, match=hint):
        parse(text)


def test_a_pattern_is_searched_anywhere_in_the_line():
    assert parse("log:a.c").pattern == re.compile("a.c")
