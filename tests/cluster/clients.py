"""Those who use a service while it changes: clients that notice every request they lose, and who deploys."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

from .cluster import PATIENCE, until

PAUSE = 0.003
ENOUGH = 20


class LostError(Exception):
    """A request without a good answer; the argument says how it was lost."""


class Load:
    """Requests in closed loops while the `with` lasts: `kept` clients on a connection each for as long as the server
    keeps it, `new` clients on a new one every time.

    `answers` are the good ones: when, and what. `lost` counts the others: refused, reset (a new connection), closed (a
    kept one, in the instant of a request), truncated, timed out, status 503.
    """

    def __init__(self, cluster, *, kept=2, new=2, path="/"):
        self._port, self._path = cluster.port, path
        self._over = threading.Event()
        self._loops = [_Loop(self, keeps=number < kept) for number in range(kept + new)]
        self.answers, self.lost = [], Counter()

    def __enter__(self):
        for loop in self._loops:
            loop.start()
        self.goes_on()
        return self

    def __exit__(self, *_error):
        self._over.set()
        for loop in self._loops:
            loop.join(PATIENCE)

    @property
    def versions(self):
        """Every version that has answered."""
        return {version for _, version in self.answers}

    def since(self, moment):
        """The versions that have answered since this monotonic moment, in their order, each once."""
        return list(dict.fromkeys(version for at, version in sorted(self.answers) if at >= moment))

    def goes_on(self):
        """Wait until every client has had some more answers, or has lost some more requests."""
        before = [loop.asked for loop in self._loops]
        until(lambda: all(loop.asked >= old + ENOUGH for loop, old in zip(self._loops, before, strict=True)))

    def over(self):
        """Whether the clients are to leave; the pause of each between two requests."""
        return self._over.wait(PAUSE)

    def connect(self):
        """A new connection; raises LostError."""
        with _told(""):
            return socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)

    def ask(self, connection, *, used):
        """One request; whether the connection may be used again. Raises LostError."""
        answer = b""
        with _told("closed" if used else "reset"):
            connection.sendall(f"GET {self._path} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())
            answer = connection.recv(4096)
        if not answer:
            raise LostError("closed" if used else "reset")
        head, body = _rest(connection, answer)
        if not head.startswith(b"http/1.1 200"):
            raise LostError(f"status {head.split()[1].decode()}")
        self.answers.append((time.monotonic(), body.decode().split()[0]))
        return b"connection: close" not in head


class _Loop(threading.Thread):
    """One client: closes its connection after each request, or keeps it."""

    def __init__(self, load, *, keeps):
        super().__init__(name="client")
        self._load, self._keeps = load, keeps
        self.asked = 0

    def run(self):
        while not self._load.over():
            try:
                self._visit()
            except LostError as error:
                self._load.lost[str(error)] += 1
                self.asked += 1

    def _visit(self):
        with contextlib.closing(self._load.connect()) as connection:
            keeps, used = True, False
            while keeps and not (used and self._load.over()):
                keeps = self._load.ask(connection, used=used) and self._keeps
                used = True
                self.asked += 1


@contextlib.contextmanager
def _told(broken):
    """Tells an operating system's errors apart; `broken`: what it is called when the peer hangs up."""
    try:
        yield
    except ConnectionRefusedError as error:
        raise LostError("refused") from error
    except TimeoutError as error:
        raise LostError("timed out") from error
    except ConnectionError as error:
        raise LostError(broken or "reset") from error


def _rest(connection, answer):
    """Head, in small letters, and body of an answer that has begun; raises LostError."""
    with _told("truncated"):
        while b"\r\n\r\n" not in answer:
            answer += _more(connection)
        head, _, body = answer.partition(b"\r\n\r\n")
        head = head.lower()
        length = int(head.partition(b"content-length:")[2].split()[0])
        while len(body) < length:
            body += _more(connection)
    return head, body


def _more(connection):
    chunk = connection.recv(4096)
    if not chunk:
        raise LostError("truncated")
    return chunk


# -- who deploys


def deploy(cluster, version, code="", *, name="version.py"):
    """Put new code on the disk: `VERSION` and `VALUE` are the version, `code` comes after them."""
    write(cluster.folder / name, f'VERSION = VALUE = "{version}"\n{code}\n')


def write(path, text):
    """Replace a file as a whole. Python takes one of the same second and size for the one it has compiled before, so
    each is a second older than the next."""
    written = path.stat().st_mtime + 1.0 if path.exists() else time.time()
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(text)
    os.utime(draft, (written, written))
    draft.replace(path)


def link(path, target):
    """Have a symbolic link point elsewhere, in one step."""
    draft = path.with_name(f"{path.name}.new")
    draft.symlink_to(target)
    draft.replace(path)


def command(cluster, *arguments):
    """`bkd ARGUMENTS` in the background, for `finished`."""
    return cluster.popen(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process, limit=40.0):
    """How a command in the background ended: `returncode`, `stdout`, `stderr`."""
    out, err = process.communicate(timeout=limit)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def outcome(result, group="web"):
    """What `--json` of a command says of a group."""
    return next(row for row in json.loads(result.stdout)["groups"] if row["name"] == group)


# -- what is seen of a roll


def is_settled(cluster):
    """Whether at one moment nothing rolls, and all slots of each group are ready with the release that it has."""
    groups = (cluster.answered() or {"groups": []})["groups"]
    return bool(groups) and all(_is_settled(group) for group in groups)


def _is_settled(group):
    rows = group["workers"]
    return group["roll"] is None and all((row["state"], row["release"]) == ("ready", group["release"]) for row in rows)


def succeeded(cluster, master):
    """Wait until another master than this one answers."""
    until(lambda: (status := cluster.answered()) and status["master_pid"] != master)


def fewest_serving(pids, events):
    """The smallest number of workers that were ready and not asked to leave: these at first, then as events tell it."""
    serving, fewest = set(pids), len(pids)
    for event in events:
        if event["fact"] == "worker-ready":
            serving.add(event["pid"])
        elif event["fact"] in ("worker-retired", "worker-exited"):
            serving.discard(event["pid"])
        fewest = min(fewest, len(serving))
    return fewest


def stage(cluster, group="web"):
    """Where the roll of a group is, None while there is none."""
    roll = cluster.group(group)["roll"]
    return roll and roll["stage"]


def reached(cluster, wanted, group="web"):
    """Wait until the roll of a group is in this stage."""
    until(lambda: stage(cluster, group) == wanted)


def releases(cluster, group="web"):
    """The releases of a group's slots, in their order."""
    return [worker["release"] for worker in cluster.group(group)["workers"]]


def served(cluster, path="/", *, times=10):
    """The versions that new connections meet."""
    return {cluster.get(path).split()[0] for _ in range(times)}


def zygotes(cluster, group="web"):
    """The zygotes of a group: their pids by release."""
    return {row["release"]: row["pid"] for row in cluster.group(group)["helpers"] if row["role"] == "zygote"}


def waiting(cluster, group="web"):
    """The pids of the workers that have said that they are waiting (see `starts`), the newest of each slot last."""
    lines = [line for row in cluster.group(group)["workers"] for line in cluster.log(row["name"]).splitlines()]
    return [int(line.split()[1]) for line in lines if line.startswith("waiting ")]


def refuses(port):
    """Whether a connection to this port is refused."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection), contextlib.suppress(ConnectionRefusedError):
        connection.connect()
        return False
    return True


def opened(cluster):
    """Let go on whatever waits for the file `open`."""
    Path(cluster.folder, "open").touch()
