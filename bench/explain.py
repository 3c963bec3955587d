"""Ten ways a worker can come to grief, and what each supervisor's logs tell of it.

A trouble is the body of a function `trouble()` that is put into the application and called by a request for
`/trouble`; with neither a body nor lines it is a signal to a worker.
"""

import os
import re
import shutil
import signal
import socket
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import proc
from client import ask_pid, request
from deploy import Site
from peers import PEERS, Peer, Task
from place import APPS, HOST

MOST_LINES = 3
LIMIT = 3
"""Seconds after which a hung worker is replaced, for the peers that can be told so."""
LONGEST = 160


@dataclass(frozen=True)
class Trouble:
    """`body`: code of `trouble()`; `lines`: code that is deployed; `number`: the signal for a worker. `hangs`: only a
    time limit ends it, or it takes its time. `memory`: bytes that peer and workers may use together, 0: no limit."""

    body: str = ""
    lines: str = ""
    number: int = 0
    hangs: bool = False
    memory: int = 0


TROUBLES = {
    "deadlock on a lock": Trouble(
        """
        import threading
        lock = threading.Lock()
        threading.Thread(target=lock.acquire, daemon=True).start()
        while not lock.locked():
            pass
        lock.acquire()
        """,
        hangs=True,
    ),
    "busy loop in Python": Trouble("while True:\n    pass", hangs=True),
    "C code that holds the GIL": Trouble("pow(7, 100_000_000)", hangs=True),
    "blocked read": Trouble(
        "import socket\nsocket.create_connection(('127.0.0.1', {port})).recv(1)",
        hangs=True,
    ),
    "SIGSTOP": Trouble(number=signal.SIGSTOP, hangs=True),
    "recursion through C": Trouble(
        """
        import sys
        sys.setrecursionlimit(10**7)
        def deeper(number):
            return max(map(deeper, [number]))
        deeper(0)
        """
    ),
    "SIGSEGV": Trouble("import ctypes\nctypes.string_at(0)"),
    "out of memory in a control group": Trouble(
        "hoard = []\nwhile True:\n    hoard.append(b'1' * (16 << 20))", hangs=True, memory=400 << 20
    ),
    "os._exit(3)": Trouble("os._exit(3)"),
    "exception at import": Trouble(lines="import no_such_module_anywhere"),
}
HOOK = """
_answer = answer
def trouble():
{body}

def answer(path, query):
    return trouble() if path == "/trouble" else _answer(path, query)
"""
EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Exit): .|Fatal Python error")
FRAME = re.compile(r'\s+File ".*asgi_app\.py"')
SAYING = re.compile(
    r"time[d ]*out|kill|died|exited|terminat|was sent|fatal|segfault|hung|lost|out of memory|failed to boot"
    r"|not expected|not ready in time",
    re.IGNORECASE,
)
STAMP = re.compile(r"^[\[(]?\d{4}-\d\d-\d\d[ T][\d:.,]+( ?[+-]\d{4})?[\])]?:? *(\[\d+\] *)?")


def cause(site: Site, trouble: Trouble, port: int) -> None:
    """Bring it about; `port` is of a server that says nothing. Returns when it has happened, or hangs."""
    if trouble.number:
        os.kill(ask_pid(site.peer.port, timeout=5), trouble.number)
        return
    if trouble.lines:
        site.put(trouble.lines)
        site.deploy(limit=10)
        return
    with socket.create_connection((HOST, site.peer.port), 5) as connection:
        connection.sendall(request("/trouble"))
        connection.settimeout(1)
        try:
            connection.recv(1)
        except OSError:
            return


def hook(trouble: Trouble, port: int) -> str:
    """What is put behind the application before it is started."""
    body = textwrap.dedent(trouble.body).strip().replace("{port}", str(port)) or "pass"
    return HOOK.format(body=textwrap.indent(body, "    "))


def told(site: Site, logs: dict[Path, int]) -> list[str]:
    """At most three lines that tell of it: those of the logs since then; of bkd the first ones of `bkd why`."""
    peer = site.peer
    if hasattr(peer, "status"):
        text = site.run([*peer.control("why", "web")], limit=10).text
        return [shortened(line) for line in text.splitlines() if line.strip()][:MOST_LINES]
    lines = site.logged_since(logs).splitlines()
    return list(dict.fromkeys(shortened(line) for line in ranked(lines)))[:MOST_LINES]


def ranked(lines: list[str]) -> list[str]:
    """What has the cause in it first: the last exception, the last frame in the application; then who died of what."""
    exceptions = [line for line in lines if EXCEPTION.match(line)]
    frames = [f"{line.strip()}: {below.strip()}" for line, below in pairwise([*lines, ""]) if FRAME.match(line)]
    return exceptions[-1:] + frames[-1:] + [line for line in lines if SAYING.search(line)]


def shortened(line: str) -> str:
    """Without the time, fit for a cell of a table."""
    return STAMP.sub("", line).strip().replace("|", "\\|")[:LONGEST]


def wait_until_told(trouble: Trouble) -> None:
    """The time after which everybody has said what there is to say."""
    time.sleep(LIMIT + 5 if trouble.hangs else 3)


@contextmanager
def troubled(name: str, task: Task, trouble: Trouble, port: int) -> Iterator[Site]:
    """The peer at work with an application that has this trouble in it."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
        shutil.copytree(APPS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        peer = PEERS[name](task, Path(folder))
        with (Path(folder) / peer.source).open("a") as file:
            file.write(hook(trouble, port))
        peer.start()
        try:
            with limited(peer, trouble.memory):
                peer.answering()
                yield Site(peer)
                peer.stop()
        except Exception as error:
            error.add_note(peer.last_words())
            raise
        finally:
            peer.stop()


@contextmanager
def limited(peer: Peer, memory: int) -> Iterator[None]:
    """The peer, and what it starts from now on, in a control group of its own; OSError where none can be made."""
    with _group(memory) if memory else nullcontext() as folder:
        if folder is not None:
            (folder / "cgroup.procs").write_text(str(peer.pid))
        yield


@contextmanager
def _group(memory: int) -> Iterator[Path]:
    root, name = Path("/sys/fs/cgroup"), f"bkd-bench-{os.getpid()}"
    first = root / "memory" if (root / "memory").is_dir() else root
    folder = first / name
    folder.mkdir(exist_ok=True)
    (folder / ("memory.max" if first == root else "memory.limit_in_bytes")).write_text(str(memory))
    try:
        yield folder
    finally:
        proc.wait_for(lambda: not (folder / "cgroup.procs").read_text(), 5)
        folder.rmdir()
