"""What bkd tells of a process, and what it should have told: the lines of `apps/trouble.py`."""

import contextlib
import json
import re
import socket
from functools import cache
from pathlib import Path

from .cluster import APPS, PATIENCE, until

SECRET = "s3cret"
HEADERS = f"Host: shop\r\nAuthorization: Bearer {SECRET}\r\nCookie: session={SECRET}\r\n"
ENOUGH = 400


@cache
def places(marker, name="trouble.py"):
    """The lines of an application that end with this marker, by their numbers; without the marker."""
    found = {}
    for number, line in enumerate((APPS / name).read_text().splitlines(), 1):
        code, _, comment = line.partition("  # ")
        if comment == marker:
            found[number] = code.strip()
    assert found, f"{name} has no line for {marker}"
    return found


def tells_place(text, marker, name="trouble.py", *, shown=True):
    """Whether a text names one of those lines as `file:line`, and unless `shown` is false shows its source."""
    flat = " ".join(text.split())
    lines = places(marker, name).items()
    return any(re.search(rf"{name}:{number}\b", flat) and (code in flat or not shown) for number, code in lines)


def is_place(frame, marker, name="trouble.py"):
    """The same for a frame of a document."""
    if not frame:
        return False
    code = places(marker, name).get(frame["line"])
    return Path(frame["file"]).name == name and code is not None and code in frame.get("text", "")


def frames(stacks):
    """Every frame that was found in a process, of threads and of tasks."""
    found = [*stacks.get("threads", []), *stacks.get("tasks", [])]
    return [frame for stack in found for frame in stack["frames"]]


def why(cluster, name, *options, code=0):
    """What `bkd why NAME` prints, on stdout or, when it is to fail, on stderr."""
    result = cluster.bkd("why", name, *options)
    assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr, result.stderr
    return result.stderr if code else result.stdout


def reports(cluster, name):
    """The reports on a slot's or a group's ends, the newest first."""
    document = json.loads(why(cluster, name, "--json"))
    assert (document["name"], set(document)) == (name, {"name", "reports"})
    return document["reports"]


def report(cluster, name, pid):
    """The report on the end of a process; waits until it is written."""
    return until(lambda: next((one for one in reports(cluster, name) if one["pid"] == pid and is_whole(one)), None))


def is_whole(report):
    """Whether a report tells of the end, and has the line of source of the place that it names: the evidence of a
    process that is to be ended does not wait for the disk."""
    frames = (report.get("culprit"), (report.get("evidence") or {}).get("culprit"))
    return report.get("ended") and all(frame.get("text") for frame in frames if frame)


def dump(cluster, name, *options, code=0):
    """What `bkd dump NAME` prints, on stdout or, when it is to fail, on stderr."""
    result = cluster.bkd("dump", name, *options)
    assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
    return result.stderr if code else result.stdout


def evidence(cluster, name):
    """What `bkd dump NAME --json` says: pid and evidence."""
    document = json.loads(dump(cluster, name, "--json"))
    assert (document["name"], set(document)) == (name, {"name", "pid", "evidence"})
    return document["pid"], document["evidence"]


def story(events, pid):
    """What is told of a process: the time of the first event of each kind, in their order."""
    told = {}
    for event in events:
        if event.get("pid") == pid:
            told.setdefault(event["fact"], event["mono"])
    return told


class Visitor:
    """A connection on which one worker serves, to ask it for trouble."""

    def __init__(self, port):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._answers = self._socket.makefile("rb")
        self.ask("/pid")
        self.pid = int(self.answer())

    def ask(self, path):
        """Send a request whose query and headers have a secret in them."""
        query = f"{'&' if '?' in path else '?'}token={SECRET}"
        self._socket.sendall(f"GET {path}{query} HTTP/1.1\r\n{HEADERS}\r\n".encode())

    def answer(self):
        """The body of the answer to the request before."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._answers.readline()
            assert line, "the connection was closed"
            head += line
        assert b" 200 " in head, head
        length = head.lower().partition(b"content-length:")[2].split()[0]
        return self._answers.read(int(length)).decode()

    def close(self):
        self._answers.close()
        self._socket.close()


@contextlib.contextmanager
def visitors(cluster):
    """A visitor for every ready worker of `web`, by the slot's name."""
    slots = {row["pid"]: row["name"] for row in cluster.group("web")["workers"] if row["state"] == "ready"}
    found, others = {}, []
    try:
        for _ in range(ENOUGH):
            visitor = Visitor(cluster.port)
            slot = slots[visitor.pid]
            others.append(visitor) if slot in found else found.setdefault(slot, visitor)
            if len(found) == len(slots):
                break
        assert len(found) == len(slots), f"no connection led to {set(slots.values()) - set(found)}"
        while others:
            others.pop().close()
        yield dict(sorted(found.items()))
    finally:
        for visitor in [*found.values(), *others]:
            visitor.close()


@contextlib.contextmanager
def silent_server():
    """The port of a server that lets everybody in and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server.getsockname()[1]
