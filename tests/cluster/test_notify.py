"""The sd_notify server against real senders in other processes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from bkd.supervisor import datagrams, procfs
from bkd.supervisor.notify import DATAGRAM_BYTES, NotifySocket, parse

from .cluster import kill, until

PATIENCE = 30.0

SENDER = """
import array, os, select, socket, subprocess, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.connect(os.environ["NOTIFY_SOCKET"])
def notify(text, *descriptors):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([text if isinstance(text, bytes) else text.encode()], rights)
def barrier():
    reading, writing = os.pipe()
    notify("BARRIER=1", writing)
    os.close(writing)
    poll = select.poll()
    poll.register(reading, 0)
    return bool(poll.poll(30000))
def wait():
    sys.stdin.read()
"""


class Server:
    """A notify socket, the worker that may speak, and what was heard."""

    def __init__(self, path):
        self.path = path
        self.worker = 0
        self.heard = []
        self.processes = []
        bound = datagrams.bound(str(path), 0o666)
        self.socket = NotifySocket(bound, allowed=self.allowed, on_message=self.on_message)
        self.socket.hear()

    def allowed(self, pid):
        return procfs.descends(pid, self.worker) is True

    def on_message(self, pid, message):
        self.heard.append((pid, message))

    def start(self, code):
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", SENDER + code],
            env={**os.environ, "NOTIFY_SOCKET": str(self.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    def run_worker(self, code):
        process = self.start(code + "\nwait()")
        self.worker = process.pid
        return process

    async def until(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"it did not come true in time; heard: {self.heard}"
            await asyncio.sleep(0.005)

    def close(self):
        self.socket.close()
        for process in self.processes:
            process.stdin.close()
            process.stdout.close()
            process.kill()
            process.wait()


def serve(tmp_path, scenario):
    async def main():
        server = Server(tmp_path / "web.1")
        try:
            await scenario(server)
        finally:
            server.close()

    asyncio.run(main())


def test_the_worker_is_heard_in_order(tmp_path):
    async def scenario(server):
        worker = server.run_worker("""
notify("STATUS=loading")
notify("READY=1\\nSTATUS=up\\nMAINPID=1\\nEXTEND_TIMEOUT_USEC=5000000")
notify("WATCHDOG=1")
notify("STOPPING=1")
""")
        await server.until(lambda: len(server.heard) == 4)

        assert server.heard == [
            (worker.pid, {"STATUS": "loading"}),
            (worker.pid, {"READY": "1", "STATUS": "up", "MAINPID": "1", "EXTEND_TIMEOUT_USEC": "5000000"}),
            (worker.pid, {"WATCHDOG": "1"}),
            (worker.pid, {"STOPPING": "1"}),
        ]
        assert (server.socket.refused, server.socket.malformed) == (0, 0)

    serve(tmp_path, scenario)


def test_a_descendant_may_speak_for_the_worker(tmp_path):
    async def scenario(server):
        server.run_worker("""
if os.fork() == 0:
    if os.fork() == 0:
        notify("READY=1")
    wait()
""")
        await server.until(lambda: server.heard)

        ((sender, message),) = server.heard
        assert message == {"READY": "1"}
        assert procfs.read(procfs.read(sender).ppid).ppid == server.worker

    serve(tmp_path, scenario)


def test_a_stranger_is_counted_and_not_heard(tmp_path):
    async def scenario(server):
        server.run_worker("")
        server.start('notify("READY=1")\nwait()')
        await server.until(lambda: server.socket.refused == 1)

        assert server.heard == []

    serve(tmp_path, scenario)


def test_a_barrier_ends_after_what_was_said_before_it(tmp_path):
    async def scenario(server):
        worker = server.run_worker('notify("READY=1")\nprint(barrier(), flush=True)')
        await server.until(lambda: server.heard)

        said = await asyncio.to_thread(worker.stdout.readline)

        assert said == b"True\n"
        assert server.heard == [(worker.pid, {"READY": "1"})]

    serve(tmp_path, scenario)


@pytest.mark.parametrize("sender", ["worker", "stranger"])
def test_descriptors_are_not_kept(tmp_path, sender):
    async def scenario(server):
        worker = server.run_worker("" if sender == "stranger" else STORE)
        if sender == "stranger":
            worker = server.start(STORE + "\nwait()")
        before = set(os.listdir("/proc/self/fd"))

        assert await asyncio.to_thread(worker.stdout.readline) == b"True\n"

        assert set(os.listdir("/proc/self/fd")) <= before
        assert [message for _, message in server.heard] == ([{"STATUS": "x"}] if sender == "worker" else [])

    serve(tmp_path, scenario)


STORE = """
notify("FDSTORE=1\\nFDNAME=a\\nSTATUS=x", *[os.open("/dev/null", os.O_RDONLY) for _ in range(100)])
print(barrier(), flush=True)
"""


def test_what_is_too_long_is_counted_and_not_heard(tmp_path):
    async def scenario(server):
        server.run_worker(f'notify("STATUS=" + "x" * {DATAGRAM_BYTES})\nnotify("READY=1")')
        await server.until(lambda: server.heard)

        assert [message for _, message in server.heard] == [{"READY": "1"}]
        assert server.socket.malformed == 1

    serve(tmp_path, scenario)


def test_a_flood_is_heard_whole(tmp_path):
    async def scenario(server):
        server.run_worker('for number in range(2000): notify(f"STATUS={number}")')
        await server.until(lambda: len(server.heard) == 2000)

        assert [message["STATUS"] for _, message in server.heard] == [str(number) for number in range(2000)]

    serve(tmp_path, scenario)


def test_it_may_be_closed_by_whoever_is_told(tmp_path):
    async def scenario(server):
        server.on_message = None
        server.socket._on_message = lambda pid, message: (server.heard.append(message), server.socket.close())
        server.run_worker('notify("READY=1")\nnotify("STATUS=late")')
        await server.until(lambda: server.heard)
        server.socket.close()

        assert server.heard == [{"READY": "1"}]

    serve(tmp_path, scenario)


def test_a_stale_socket_is_replaced(tmp_path):
    path = tmp_path / "web.1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
        stale.bind(str(path))

    with datagrams.bound(str(path), 0o600) as fresh:
        assert path.stat().st_mode & 0o777 == 0o600
        assert fresh.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED) == 1


def test_a_file_that_is_no_socket_is_not_removed(tmp_path):
    path = tmp_path / "web.1"
    path.write_text("precious")

    with pytest.raises(OSError, match="no socket is in the way: remove it"):
        datagrams.bound(str(path), 0o600)

    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"READY=1", {"READY": "1"}),
        (b"READY=1\n", {"READY": "1"}),
        (b"STATUS=a=b\nSTATUS=c", {"STATUS": "c"}),
        (b"STATUS=\xff", {"STATUS": "�"}),
        (b"READY\n=1\n\n", {}),
        (b"BARRIER=1", {}),
        (b"", {}),
    ],
)
def test_datagrams_are_lines_of_assignments(data, message):
    assert parse(data) == message


# -- programs of a cluster


SPEAKING = """
import os, signal, socket, sys, time
def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
"""


def program(code, **settings):
    """A group that runs this code, ready when it says so."""
    return {"command": [sys.executable, "-S", "-E", "-c", SPEAKING + code], "ready": "notify", **settings}


def test_programs_say_how_they_are(prepare):
    """One cluster, each group about one word; what a program says while no master is there is heard by the next."""
    cluster = prepare(
        status=program('say("READY=1\\nSTATUS=a\\x1b[1mb\\nFDSTORE=1"); time.sleep(600)'),
        busy=program('say("READY=1"); say("RELOADING=1\\nSTATUS=half"); time.sleep(600)'),
        slow=program(
            'say("EXTEND_TIMEOUT_USEC=60000000"); time.sleep(3); say("READY=1"); time.sleep(600)', start_timeout="2s"
        ),
        dog=program('say("READY=1\\nWATCHDOG_USEC=400000\\nWATCHDOG=1"); time.sleep(600)', term="100ms"),
        fed=program(
            """
say("READY=1\\nWATCHDOG_USEC=3000000")
while True:
    say("WATCHDOG=1")
    time.sleep(0.1)
"""
        ),
        trigger=program(
            """
say("READY=1")
if not os.path.exists("triggered"):
    open("triggered", "w").close()
    say("WATCHDOG=trigger")
time.sleep(600)
"""
        ),
        error=program('say("READY=1"); time.sleep(0.3); say("ERRNO=28"); sys.exit(1)', restart="never"),
        moved=program(
            """
reader, writer = os.pipe()
if os.fork():
    os.read(reader, 1)
    sys.exit(0)
say(f"MAINPID={os.getpid()}\\nREADY=1\\nSTATUS={os.getpid()}")
os.write(writer, b"x")
time.sleep(600)
"""
        ),
        stranger=program('say("MAINPID=1\\nREADY=1"); time.sleep(600)'),
        late=program(
            """
while not os.path.exists("open"):
    time.sleep(0.01)
say("READY=1\\nSTATUS=said to nobody")
open("said", "w").close()
time.sleep(600)
"""
        ),
    ).start(ready=False)

    until(lambda: cluster.answered() and cluster.worker("slow.1")["state"] == "ready", 40.0)
    until(lambda: cluster.worker("status.1")["status_text"] == "a[1mb")
    until(lambda: "    says: reloading: half\n" in cluster.bkd("status").stdout)
    assert until(lambda: cluster.worker("stranger.1")["pid"]) != 1

    moved = until(lambda: (row := cluster.worker("moved.1"))["pid"] and row["status_text"] == str(row["pid"]) and row)
    kill(moved["pid"])
    until(lambda: cluster.worker("moved.1")["pid"] not in (None, moved["pid"]))

    until(lambda: hung(cluster) >= {"dog.1", "trigger.1"})
    assert hung(cluster) == {"dog.1", "trigger.1"}
    assert "No space left on device" in until(lambda: "ERRNO" in (why := cluster.bkd("why", "error.1").stdout) and why)

    before, fed = cluster.status()["master_pid"], cluster.worker("fed.1")
    assert (fed["verdict"], fed["lag"]) == ("ok", None)
    kill(before, signal.SIGSTOP)
    (cluster.folder / "open").touch()
    until((cluster.folder / "said").exists)
    kill(before)
    late = until(lambda: cluster.answered() and (row := cluster.worker("late.1"))["state"] == "ready" and row)
    assert late["status_text"] == "said to nobody"
    assert cluster.worker("fed.1")["pid"] == fed["pid"]
    assert cluster.worker("status.1")["status_text"] == "a[1mb"


def hung(cluster):
    """The slots of those that were said to hang."""
    return {event["slot"] for event in cluster.events("worker-hung")}
