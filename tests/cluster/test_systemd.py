"""bkd below a service manager, and above programs that expect one: notifications, the watchdog, sockets handed over."""

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest

from .cluster import CLEAN_ENVIRONMENT, Traffic, alive, is_free, kill, until

WATCHDOG = 3.0
LAUNCHER = """
import os, sys
count, names, *command = sys.argv[1:]
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=count, LISTEN_FDNAMES=names)
os.execvp(command[0], command)
"""
ACTIVATED = """
import os, select, signal, socket
over = []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ
names = os.environ["LISTEN_FDNAMES"]
with socket.socket(fileno=3) as listener:
    while not over:
        if not select.select([listener], [], [], 0.02)[0]:
            continue
        client, _ = listener.accept()
        with client:
            client.recv(4096)
            body = f"{os.getpid()} {names} {int(listener.getblocking())}"
            client.sendall(f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}".encode())
"""


class Manager:
    """What NOTIFY_SOCKET names: every datagram with its moment and its sender, as `(at, pid, text)` in `heard`."""

    def __init__(self, path):
        self.path = path
        self.heard = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(path)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _run(self):
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(12))
            if not data:
                return
            (_, _, credentials), *_ = ancillary
            self.heard.append((time.monotonic(), struct.unpack("=iII", credentials)[0], data.decode()))

    def lines(self, since=0):
        """Every assignment, in order, but those that come again and again."""
        lines = [line for _, _, text in self.heard[since:] for line in text.split("\n")]
        return [line for line in lines if not line.startswith(("WATCHDOG=", "EXTEND_TIMEOUT_USEC="))]

    def said(self, wanted, since=0):
        """Whether a line has been said that this expression fits wholly."""
        return any(re.fullmatch(wanted, line) for line in self.lines(since))

    def fed(self, since=0):
        """When the watchdog was fed."""
        return [at for at, _, text in self.heard[since:] if "WATCHDOG=1" in text.split("\n")]

    def environment(self, watchdog=WATCHDOG):
        return {**CLEAN_ENVIRONMENT, "NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": str(int(watchdog * 1e6))}


def environ(pid):
    with open(f"/proc/{pid}/environ", "rb") as file:
        return dict(entry.split("=", 1) for entry in file.read().decode().split("\0") if entry)


def test_it_tells_how_it_is_from_start_to_stop(prepare):
    program = ["sh", "-c", "test ! -e broken && exec sleep 600"]
    cluster = prepare(
        web={"app": "shop:app", "min_ready": "100ms", "lame_duck": "100ms"},
        job={"command": program, "ready": "after:300ms", "restart": "always"},
    )
    with Manager(f"\0bkd-test-{os.getpid()}-{time.monotonic_ns()}") as manager:
        manager.path = f"@{manager.path[1:]}"
        cluster.start(env=manager.environment())
        keeper = cluster.process.pid
        until(lambda: manager.said("READY=1"))
        lines = manager.lines()
        assert lines[lines.index("READY=1") + 1] == "STATUS=web 2/2, job 1/1"
        assert manager.lines()[0].startswith("STATUS=web 0/2 (web.1 starting, web.2 starting), job 0/1")
        assert any("EXTEND_TIMEOUT_USEC=30000000" in text for _, _, text in manager.heard)
        web, job = cluster.pids("web"), cluster.worker("job.1")["pid"]
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & environ(web[0]).keys()
        assert environ(job)["NOTIFY_SOCKET"].startswith(f"{cluster.run_dir}/notify/job.1.")

        # a reload, and the roll that it begins
        mark, before = len(manager.heard), time.monotonic()
        cluster.file.write_text(cluster.file.read_text().replace("[workers.web]", '[workers.web]\nenv = { A = "1" }'))
        assert cluster.bkd("reload").returncode == 0
        until(lambda: manager.said("READY=1", mark))
        first, second, *rest = manager.lines(mark)
        assert first == "RELOADING=1"
        assert before * 1e6 <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic() * 1e6
        assert rest.count("READY=1") == 1
        assert "RELOADING=1" not in rest

        # a file that is wrong, by signal: over at once, nothing has changed
        mark, right = len(manager.heard), cluster.file.read_text()
        cluster.file.write_text("nonsense")
        kill(keeper, signal.SIGHUP)
        until(lambda: manager.said("READY=1", mark))
        assert manager.lines(mark)[0] == "RELOADING=1"
        cluster.file.write_text(right)

        # the master dies: everything is told again, and the watchdog never misses anything
        mark, pids = len(manager.heard), cluster.pids("web")
        kill(cluster.status()["master_pid"])
        until(lambda: manager.said("READY=1", mark))
        until(lambda: len(manager.fed(mark)) > 2)
        assert cluster.pids("web") == pids
        assert max(later - sooner for sooner, later in pairwise(manager.fed())) < WATCHDOG

        # a group that is down: not fed until it is up again, so that the watchdog would be at an end
        (cluster.folder / "broken").touch()
        mark = len(manager.heard)
        kill(job)
        until(lambda: manager.said(r"STATUS=web 2/2, job 0/1 \(job.1 (backoff|starting)\)", mark))
        until(lambda: "not fed: job has 0 of 1 worker ready, and 1 is needed" in cluster.said())
        until(lambda: time.monotonic() - manager.fed()[-1] > WATCHDOG)
        mark = len(manager.heard)
        (cluster.folder / "broken").unlink()
        cluster.bkd("reset", "job")
        until(lambda: manager.fed(mark) and manager.said("STATUS=web 2/2, job 1/1", mark))

        mark = len(manager.heard)
        assert cluster.stop().returncode == 0
        assert cluster.exit_code() == 0
        until(lambda: manager.said("STATUS=stopping: .*", mark))
        assert manager.lines(mark)[0] == "STOPPING=1"
        assert manager.lines(mark)[1].startswith("STATUS=stopping: ")
        assert "READY=1" not in manager.lines(mark)
        assert {pid for _, pid, _ in manager.heard} == {keeper}
        assert not any(line.startswith("MAINPID") for line in manager.lines())
        spoken = [at for at, _, text in manager.heard if text.startswith("STATUS=")]
        assert all(later - sooner > 0.5 for sooner, later in pairwise(spoken))


def test_a_start_without_hope_fails_and_leaves_nothing(prepare, tmp_path):
    cluster = prepare(web={"app": "broken:app", "count": 1})
    with Manager(str(tmp_path / "notify")) as manager:
        cluster.start(ready=False, env=manager.environment())
        assert cluster.exit_code() == 1
        until(lambda: manager.said("STATUS=stopping: web: .*"))
        assert not manager.said("READY=1")
    assert "the start has failed: web: " in cluster.said()
    until(cluster.is_gone)


def test_nobody_has_to_listen(prepare, tmp_path):
    """A socket that is gone costs a line, and nothing else."""
    cluster = prepare(job={"command": ["sleep", "600"], "ready": "after:10ms"})
    cluster.start(env={**CLEAN_ENVIRONMENT, "NOTIFY_SOCKET": str(tmp_path / "none")})
    until(lambda: "cannot be told how it is" in cluster.said())
    assert cluster.stop().returncode == 0


# -- sockets


@pytest.fixture
def handed():
    """Makes listening sockets as a manager does; they stay open for the length of the test."""
    with contextlib.ExitStack() as stack:

        def make(*addresses):
            made = []
            for address in addresses:
                family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
                listener = stack.enter_context(socket.socket(family))
                listener.bind(address)
                listener.listen(100)
                made.append(listener)
            return made

        yield make


def started(cluster, listeners, names, **options):
    """`bkd start` with these as descriptors 3, 4 …."""
    code = "import fcntl, os, sys\nbase = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in eval(sys.argv[1])]\n"
    code += "for number, fd in enumerate(base, 3):\n    os.dup2(fd, number)\n"
    code += f"sys.argv[1:2] = []\n{LAUNCHER}"
    fds = [listener.fileno() for listener in listeners]
    high = [os.dup(fd) for fd in fds]
    try:
        prefix = [sys.executable, "-S", "-c", code, str(high), str(len(fds)), names]
        return cluster.start(prefix=prefix, pass_fds=high, **options)
    finally:
        for fd in high:
            os.close(fd)


def test_sockets_that_were_handed_over_survive_everything(prepare, handed, tmp_path):
    """By name and by number, for workers and for programs; a master's death is no reason to lose a connection."""
    path = str(tmp_path / "activated.sock")
    (web, program) = handed(("127.0.0.1", 0), path)
    cluster = prepare(
        web={"app": "shop:app", "bind": ["fd:web"], "min_ready": "100ms", "lame_duck": "100ms"},
        prog={"command": [sys.executable, "-S", "-E", "-c", ACTIVATED], "bind": ["fd:4"], "ready": "after:50ms"},
    )
    cluster.port = web.getsockname()[1]
    started(cluster, [web, program], "web:unix-one")
    keeper, pids = cluster.process.pid, cluster.pids("web")
    assert not {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & environ(pids[0]).keys()
    assert b" unix-one " in asked(path)

    with Traffic(cluster) as traffic:
        kill(cluster.status()["master_pid"])
        until(lambda: cluster.answered())
        before = traffic.served
        assert cluster.bkd("restart", "web").returncode == 0
        until(lambda: traffic.served > before + 20)
    assert traffic.failed == []
    assert not set(cluster.pids("web")) & set(pids)

    sections = cluster.file.read_text()
    for wrong, told in (
        ('["fd:web", "fd:other"]', "fd:other: bkd was not given such a listening socket, it was started with fd:web"),
        ('["fd:web", "fd:3"]', "fd:3 and fd:web are the same socket"),
        ('["fd:4"]', "bind[0]: expected an address that workers.web does not have"),
    ):
        cluster.file.write_text(sections.replace('["fd:web"]', wrong))
        refused = cluster.bkd("reload")
        assert refused.returncode in (1, 2)
        assert told in refused.stderr
    cluster.file.write_text(sections)

    assert cluster.stop().returncode == 0
    until(lambda: not alive(keeper))
    assert os.path.exists(path)
    with socket.create_connection(web.getsockname(), timeout=5):
        pass  # still queued by whoever has the socket


def asked(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return client.recv(4096)


def test_sockets_that_are_missing_are_named(prepare):
    cluster = prepare(web={"app": "shop:app", "bind": ["fd:web"], "count": 1})
    cluster.start(ready=False)
    assert cluster.exit_code() == 1
    assert (
        "bkd: fd:web: bkd was not given such a listening socket, it was started with none: "
        "FileDescriptorName=web in a systemd .socket unit passes one\n"
    ) in cluster.said()


def test_a_program_is_restarted_without_refusing_a_connection(prepare):
    """It finds its listener at descriptor 3, blocking as programs expect it, and named by its port."""
    cluster = prepare()
    cluster.configure(
        prog={
            "command": [sys.executable, "-S", "-E", "-c", ACTIVATED],
            "bind": [f"127.0.0.1:{cluster.port}"],
            "ready": "after:50ms",
            "min_ready": "50ms",
        }
    )
    cluster.start()
    with Traffic(cluster) as traffic:
        for _ in range(2):
            pid, name, blocking = cluster.get().split()
            assert (int(pid), name, blocking) == (cluster.pids("prog")[0], str(cluster.port), "1")
            assert cluster.bkd("restart", "prog").returncode == 0
            assert cluster.get().split()[0] != pid
        kill(cluster.pids("prog")[0])
        before = traffic.served
        until(lambda: traffic.served > before + 5)
    refused = [error for error in traffic.failed if "Refused" in error]
    assert refused == []
    assert len(traffic.failed) <= 1  # the one that was being answered by what was killed
    assert cluster.stop().returncode == 0
    until(lambda: is_free(cluster.port))


# -- units


def test_the_units_are_what_systemd_understands(prepare, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there: apt-get install systemd")
    cluster = prepare(web={"app": "shop:app"})
    service = cluster.bkd("init", "--systemd", "--user", "root", "-c", str(cluster.file)).stdout
    assert f" start -c {cluster.file}\n" in service
    listening = cluster.bkd("init", "--socket-unit", "-c", str(cluster.file)).stdout
    (tmp_path / "shop.service").write_text(service)
    (tmp_path / "shop-web.socket").write_text(listening)
    files = [str(tmp_path / name) for name in ("shop.service", "shop-web.socket")]
    checked = subprocess.run(
        ["systemd-analyze", "verify", *files], capture_output=True, text=True, timeout=60, check=False
    )
    assert [line for line in checked.stderr.splitlines() if "shop" in line] == []


def test_a_unit_for_nobody_is_refused(prepare):
    cluster = prepare(web={"app": "shop:app"})
    refused = cluster.bkd("init", "--systemd", "--user", "no-such-user")
    assert refused.returncode == 1
    assert refused.stderr.startswith("bkd: --user no-such-user: no such user on this machine: make it first")
