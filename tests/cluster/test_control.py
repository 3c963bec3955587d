"""The control socket: whoever misbehaves there harms himself alone."""

import contextlib
import grp
import os
import pwd
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .cluster import CLEAN_ENVIRONMENT, PATIENCE, until

LIMIT = 1 << 20
SOON = 1.0


@pytest.fixture(scope="module")
def cluster(share):
    return share(web={"app": "shop:app"})


@pytest.fixture(autouse=True)
def unharmed(cluster):
    """After every test status answers soon, and the workers are the same."""
    before = cluster.pids("web")
    yield
    assert_well(cluster, before)


def assert_well(cluster, pids):
    """The best of three times says what others are kept waiting for; the worst one, how busy the machine is."""
    assert min(asked(cluster, pids) for _ in range(3)) < SOON
    assert cluster.serves()


def asked(cluster, pids):
    """Seconds until the status was there."""
    began = time.monotonic()
    assert cluster.pids("web") == pids
    return time.monotonic() - began


@contextlib.contextmanager
def connected(cluster):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(cluster.run_dir / "control.sock"))
        yield client


def frame(payload):
    return struct.pack("<I", len(payload)) + payload


def packed(value):
    """MessagePack of short texts, small numbers and maps."""
    if isinstance(value, dict):
        return bytes([0x80 + len(value)]) + b"".join(packed(key) + packed(item) for key, item in value.items())
    if isinstance(value, int):
        return b"\xce" + struct.pack(">I", value)
    data = value.encode()
    return bytes([0xD9, len(data)]) + data


def said(op, **data):
    return frame(packed({"op": op, "id": 1, "data": data}))


HELLO = said("hello", version=1, role="client")
STATUS = said("command:run", verb="status", render="json")


def is_closed(client):
    """Whether the other side closes, whatever it says before."""
    deadline = time.monotonic() + 10
    while select.select([client], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            if not client.recv(65536):
                return True
        except ConnectionResetError:
            return True
    return False


def send_all(client, data):
    """As much of the data as the other side takes before it closes."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(data)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n",
        b"\0" * 4096,
        frame(b"\xff" * 100),
        frame(b""),
        frame(packed({"op": "no:such-thing", "id": 1})),
        said("command:run", verb="stop"),
        HELLO + said("worker:ping"),
        HELLO + HELLO,
        HELLO + frame(packed({"op": "command:run", "id": 1, "data": "no map"})),
        said("hello", version=999, role="client"),
        said("hello", version=1, role="king"),
        struct.pack("<I", LIMIT + 1),
        struct.pack("<I", 0xFFFFFFFF) + b"x" * 1000,
    ],
    ids=[
        "http",
        "zeros",
        "no-messagepack",
        "empty",
        "unknown",
        "no-hello",
        "a-workers-word",
        "two-hellos",
        "no-map",
        "other-version",
        "unknown-role",
        "too-long",
        "far-too-long",
    ],
)
def test_nonsense(cluster, garbage):
    """Whoever sends what is no message, or out of its turn, is closed."""
    with connected(cluster) as client:
        send_all(client, garbage)
        assert is_closed(client)


def test_deep_nesting(cluster):
    """A message built to exhaust a decoder is nonsense like any other."""
    with connected(cluster) as client:
        send_all(client, frame(b"\x91" * 500_000))
        assert is_closed(client)


def test_half_a_frame_and_silence(cluster):
    """Who says no whole hello is closed after some seconds; meanwhile others are served."""
    with contextlib.ExitStack() as stack:
        clients = []
        for beginning in (b"", b"\x10", frame(b"x" * 100)[:50], HELLO[:-1]):
            clients.append(stack.enter_context(connected(cluster)))
            clients[-1].sendall(beginning)
        assert cluster.bkd("status").returncode == 0
        assert all(is_closed(client) for client in clients)


def test_half_a_frame_and_good_bye(cluster):
    """A client that goes in the middle of a word is forgotten."""
    for _ in range(20):
        with connected(cluster) as client:
            client.sendall(HELLO + STATUS[:-3])


def test_a_flood_of_commands(cluster):
    """10,000 frames in one go: status for others is answered in between."""
    before, answers = cluster.pids("web"), 0
    with connected(cluster) as client, connected(cluster):
        client.setblocking(False)
        rest = memoryview(HELLO + STATUS * 10_000)
        while rest:
            _, writable, _ = select.select([], [client], [], 0.05)
            with contextlib.suppress(BlockingIOError):
                rest = rest[client.send(rest) :] if writable else rest
            with contextlib.suppress(BlockingIOError):
                answers += client.recv(1 << 20).count(b"command:finished")
        assert_well(cluster, before)
        client.settimeout(PATIENCE)
        while not answers:
            heard = client.recv(1 << 20)
            assert heard, "closed without an answer"
            answers += heard.count(b"command:finished")


def test_a_flood_of_garbage_frames(cluster):
    """10,000 unknown messages after a hello: closed at the first one."""
    with connected(cluster) as client:
        send_all(client, HELLO + frame(packed({"op": "app:event", "id": 1})) * 10_000)
        assert is_closed(client)


def test_a_client_that_never_reads(cluster):
    """Answers for a client that does not read them pile up to a limit, then it is closed."""
    with connected(cluster) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        client.settimeout(2.0)
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            client.sendall(HELLO)
            while True:
                client.sendall(STATUS * 1000)
        assert_well(cluster, cluster.pids("web"))


def test_three_hundred_connections(cluster):
    """One client with far too many connections uses up nobody else's: status answers all the same."""
    before = cluster.pids("web")
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            send_all(stack.enter_context(connected(cluster)), HELLO)
        assert_well(cluster, before)


def test_a_worker_that_nobody_ordered(cluster):
    """A hello with a token that was never given out, or with somebody else's pid, is refused."""
    start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    for role in ("worker", "zygote"):
        for pid in (os.getpid(), cluster.pids("web")[0]):
            hello = said("hello", version=1, role=role, token="0" * 32, pid=pid, start=start)
            with connected(cluster) as client:
                send_all(client, hello + said("worker:ready"))
                assert is_closed(client)
    assert "refused" in cluster.bkd("events").stdout or "closed" in cluster.bkd("events").stdout


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_a_stranger(cluster):
    """Another user gets no answer at all, not even when the file's mode let him in."""
    path = cluster.run_dir / "control.sock"
    assert (path.stat().st_mode & 0o777, cluster.run_dir.stat().st_mode & 0o777) == (0o600, 0o700)
    with reachable(cluster):
        for folder, mode in ((path, 0o666), (cluster.run_dir, 0o755)):
            folder.chmod(mode)
        assert as_user(cluster, "nobody", []) == "closed"
        for folder, mode in ((path, 0o600), (cluster.run_dir, 0o700)):
            folder.chmod(mode)
    nobody = pwd.getpwnam("nobody").pw_uid
    until(lambda: any(event["uid"] == nobody for event in cluster.events("peer-refused")))


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize(("role", "may_stop"), [("viewers", False), ("operators", True)])
def test_groups_with_a_role(prepare, role, may_stop):
    """Members of `[control] viewers` may look, members of `operators` may operate as well."""
    group = grp.getgrgid(pwd.getpwnam("games").pw_gid).gr_name
    cluster = prepare(control={role: group}, web={"app": "shop:app", "count": 1}).start()
    with reachable(cluster):
        assert as_user(cluster, "games", ["status"]) == "0"
        assert as_user(cluster, "nobody", []) in ("closed", "denied")
        assert as_user(cluster, "games", ["scale", "web=2"]) == ("0" if may_stop else "1")
    until(lambda: cluster.group("web")["count"] == 1 + may_stop)


@contextlib.contextmanager
def reachable(cluster):
    """Folders above the cluster's own that other users may pass, as they are under /run."""
    above = [
        folder for folder in cluster.folder.parents if folder.stat().st_uid == os.getuid() and len(folder.parts) > 2
    ]
    modes = {folder: folder.stat().st_mode & 0o7777 for folder in [*above, cluster.folder]}
    for folder, mode in modes.items():
        folder.chmod(mode | 0o011)
    try:
        yield
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)


AS_USER = """
import os, pwd, socket, sys
user = pwd.getpwnam(sys.argv[1])
from bkd.supervisor.asking import ask
from bkd.supervisor import commandline
os.setgroups([user.pw_gid])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
if len(sys.argv) > 3:
    code = commandline.main([sys.argv[3], *sys.argv[4:], "--socket", sys.argv[2]])
    print(f"\\n{code}")
else:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(sys.argv[2])
            client.sendall(b"hello")
            print("closed" if not client.recv(100) else "answered")
        except PermissionError:
            print("denied")
        except (BrokenPipeError, ConnectionResetError):
            print("closed")
"""


def as_user(cluster, name, arguments):
    """The last word of a small client that runs as this user: what became of a connection, or a command's exit code."""
    command = [sys.executable, "-c", AS_USER, name, str(cluster.run_dir / "control.sock"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=CLEAN_ENVIRONMENT, check=False)
    print(name, arguments, result.stdout, result.stderr)
    return result.stdout.split()[-1] if result.stdout.split() else result.stderr
