"""A cluster as its user sees it: a folder with a `bkd.toml`, the command line, and what /proc says."""

import contextlib
import errno
import http.client
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from bkd.ipc.errors import BkdError
from bkd.supervisor import journal, places
from bkd.supervisor.client import Client, NotRunning

BKD = [sys.executable, "-m", "bkd"]
APPS = Path(__file__).parent / "apps"
PATIENCE = 30.0
LOOK = 0.02
CLEAN_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("BKD_CONFIG", "XDG_RUNTIME_DIR", "NOTIFY_SOCKET", "JOURNAL_STREAM", "NO_COLOR")
}
SECTIONS = ("app", "control", "ping", "log", "metrics", "bus", "store")


def until(condition, limit=PATIENCE, *, pause=LOOK):
    """What the condition gives as soon as it is true; fails the test when that takes longer than `limit` seconds."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {limit:g} s, but still {value!r}"
        time.sleep(pause)
    return value


def _ports():
    """Below those that the kernel hands out by itself, each once. A hundred belong to the process that has bound their
    name, as long as it lives."""
    for first in random.sample(range(10_000, 30_000, 100), 200):
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0bkd tests {first}")
        except OSError:
            name.close()
        else:
            name.detach()
            yield from range(first, first + 100)


PORTS = _ports()


def free_port(host="127.0.0.1"):
    """A port nobody listens on now, and that no other test was given before it listened there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        for port in PORTS:
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise AssertionError("every port was given out")


def toml(value):
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(item)}" for name, item in value.items()) + " }"
    return json.dumps(value)


class Cluster:
    """One application in a folder of its own, not yet started. Its files lie in `run`, its port is `port`."""

    def __init__(self, folder, sections=None):
        self.folder, self.file, self.run_dir = folder, folder / "bkd.toml", folder / "run"
        self.console = folder / "console.txt"
        self.port = free_port()
        self.process = None
        self._clients = []
        shutil.copytree(APPS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        self.configure(**(sections or {}))

    # -- the configuration

    def configure(self, **sections):
        """Write `bkd.toml`: the names of its sections, and every other name is a group."""
        sections = {**sections, "app": {"name": "shop", "run_dir": "run"} | sections.get("app", {})}
        lines = []
        for name, settings in sections.items():
            is_group = name not in SECTIONS
            lines.append(f"[workers.{name}]" if is_group else f"[{name}]")
            settings = self._filled_in(settings) if is_group else settings
            lines += [f"{key} = {toml(value)}" for key, value in settings.items()]
        self.file.write_text("\n".join(lines) + "\n")

    def _filled_in(self, settings):
        for key, kind in (("app", "web"), ("target", "python"), ("command", "command")):
            if key in settings:
                settings = {"kind": kind} | settings
        if settings.get("kind") == "web":
            settings = {"bind": [f"127.0.0.1:{self.port}"], "count": 2} | settings
        return settings

    # -- the command line

    def popen(self, *arguments, **options):
        """`bkd ARGUMENTS` in the background; ended with the cluster."""
        options = {"stdin": subprocess.DEVNULL, "env": CLEAN_ENVIRONMENT, "cwd": self.folder} | options
        process = subprocess.Popen([*options.pop("prefix", []), *BKD, *arguments], **options)
        self._clients.append(process)
        return process

    def bkd(self, *arguments, limit=40.0, **options):
        """`bkd ARGUMENTS` to its end: `returncode`, `stdout` and `stderr`."""
        options = {"capture_output": True, "text": True, "env": CLEAN_ENVIRONMENT, "cwd": self.folder} | options
        return subprocess.run([*BKD, *arguments], timeout=limit, stdin=subprocess.DEVNULL, check=False, **options)

    def start(self, *, ready=True, **options):
        """`bkd start` in the foreground, its output in `console`; unless told otherwise until all groups are ready."""
        with self.console.open("ab") as console:
            options = {"stdout": console, "stderr": subprocess.STDOUT, "start_new_session": True} | options
            self.process = self.popen("start", "-c", str(self.file), **options)
        if ready:
            until(self.is_ready, 40.0)
        return self

    def stop(self, limit=40.0):
        """`bkd stop`; gives what it printed and its exit code."""
        return self.bkd("stop", limit=limit)

    def exit_code(self, limit=40.0):
        """How the foreground's `bkd start` ended."""
        return self.process.wait(limit)

    # -- what it says

    def answered(self):
        """The status, None while nobody answers."""
        try:
            return self.status()
        except BkdError:
            return None

    def status(self):
        """What `bkd status --json` prints; raises BkdError."""
        return self.asked("status")

    def asked(self, verb, **arguments):
        """The document that a command gives for `--json`, without an interpreter for each look; raises BkdError."""
        sockets = places.socket_candidates(str(self.file), CLEAN_ENVIRONMENT)
        path = next(filter(os.path.exists, sockets), None)
        if path is None:
            raise NotRunning(f"none of {sockets} is there")
        client, parts = Client(path), []
        with contextlib.closing(client.sock):
            code, out, err = client.run(
                verb, arguments, render="json", progress=lambda part, _error: parts.append(part)
            )
        if code:
            raise BkdError(err)
        return json.loads("".join([*parts, out]))

    def group(self, name):
        """A group's part of the status."""
        return next(group for group in self.status()["groups"] if group["name"] == name)

    def worker(self, name):
        """A slot's part of the status."""
        return next(worker for worker in self.group(name.partition(".")[0])["workers"] if worker["name"] == name)

    def pids(self, name):
        """The pids of a group's slots, in their order."""
        return [worker["pid"] for worker in self.group(name)["workers"]]

    def is_ready(self):
        """Whether every group has what it wants; fails the test when `bkd start` has ended."""
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"bkd start ended with {self.process.returncode}: {self.said()[-2000:]}")
        status = self.answered()
        return status is not None and all(group["ready"] == group["count"] for group in status["groups"])

    def is_renewed(self, *old):
        """Whether at one moment every group has what it wants, and none of these pids is among its workers."""
        groups = (self.answered() or {"groups": []})["groups"]
        pids = {worker["pid"] for group in groups for worker in group["workers"]}
        return bool(groups) and all(group["ready"] == group["count"] for group in groups) and not pids & set(old)

    def events(self, *facts):
        """The journal as `bkd events --json` prints it; only those facts if any are named."""
        folders = map(Path, places.run_dir_candidates(str(self.file), CLEAN_ENVIRONMENT))
        folder = next(filter(Path.is_dir, folders), None)
        records = [] if folder is None else journal.read(folder)
        return [json.loads(record.line) for record in records if not facts or record.kind in facts]

    def said(self):
        """What the foreground has printed so far."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def log(self, name):
        """What a slot has printed so far."""
        path = self.run_dir / "log" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- its application

    def get(self, path="/", *, limit=PATIENCE, host="127.0.0.1", port=None):
        """The body of an answer with status 200."""
        connection = http.client.HTTPConnection(host, port or self.port, timeout=limit)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, (response.status, body)
            return body

    def send(self, path):
        """Ask for something without waiting for the answer; gives the connection to read it from."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n".encode())
        return client

    def serves(self):
        """Whether a new connection is answered now."""
        try:
            return bool(self.get("/pid", limit=2.0))
        except (OSError, http.client.HTTPException):
            return False

    # -- its processes

    def processes(self):
        """Every process that works in the cluster's folder, which is where all of them are put. No zombies."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{name}/cwd").startswith(str(self.folder)):
                    found.append(int(name))
        return found

    def is_gone(self):
        """Whether nothing is left: no process, no control socket, the port free."""
        return not self.processes() and not (self.run_dir / "control.sock").exists() and is_free(self.port)

    def close(self):
        """End whatever still runs, and say what there is to know about it should the test have failed."""
        deadline = time.monotonic() + PATIENCE
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                kill(pid)
            time.sleep(LOOK)
        for process in self._clients:
            process.wait(PATIENCE)
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        print(f"--- {self.folder}\n{self.file.read_text()}--- bkd start\n{self.said()[-8000:]}")
        daemon = self.run_dir / "log" / "bkd.log"
        if daemon.exists():
            print(f"--- bkd.log\n{daemon.read_text(errors='replace')[-8000:]}")
        assert not left, f"could not be ended: {left}"


class Traffic:
    """Requests one after the other while the `with` lasts: how many were served, and what went wrong."""

    def __init__(self, cluster, path="/pid"):
        self._cluster, self._path = cluster, path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)  # a test that fails at once leaves it behind
        self.served, self.failed = 0, []

    def __enter__(self):
        self._thread.start()
        until(lambda: self.served)
        return self

    def __exit__(self, *_error):
        self._over.set()
        self._thread.join(PATIENCE)

    def _run(self):
        while not self._over.is_set():
            try:
                self._cluster.get(self._path)
                self.served += 1
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))


def is_free(port):
    """Whether nobody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def kill(pid, number=signal.SIGKILL):
    """A signal to a process, if it is still there; through a pidfd, so that nobody else can get it."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def ended(pid, limit=PATIENCE):
    """Whether a process ends in time; at once when there is none."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], limit)[0])
    finally:
        os.close(descriptor)


def alive(pid):
    """Whether a process is there and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    return False


def title(pid):
    """A process's command line as `ps` shows it."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def resident(pid):
    """Bytes of memory a process has in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid):
    """CPU time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
