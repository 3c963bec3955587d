"""A queue of messages at work: filled, worked off, looked at and ended. What it runs lies in `apps/messages`.

All handlers write the same records into one file, so nothing is asked of a queue and all are measured alike.
"""

import json
import os
import signal
import struct
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import proc
from place import program

RECORD = struct.Struct("<qdii")  # as in apps/messages/record.py
PATIENCE = 600.0
LEAVE = 5.0


class Record(NamedTuple):
    """A handler has begun: see `apps/messages/record.py`."""

    number: int
    moment: float
    pid: int
    thread: int


class Queue:
    """Base of the adapters in `queue_peers.py`. `environment`: its own, "" for that of the benchmarks; `module` in
    `apps/messages`; `variety` of it; `server` it needs, "" for a file of SQLite.

    `concurrency`: runs at once in a process, by default; `shrink`: it is so slow that it gets only this part of the
    messages; `slots`: the fewest runs at once it can be told. `stuck`: ways in which its handlers can be stuck.
    """

    environment = ""
    module = ""
    variety = ""
    server = ""
    concurrency = 1
    shrink = 1
    slots = 1
    bulk = False
    stuck: tuple[str, ...] = ("sleep", "spin")
    """Empty when it has no deadlines."""
    alone = False
    """Whether a command starts one process that works, not several."""
    resident = False
    """Whether something of its own is at work already when there is no worker yet."""

    def __init__(self, folder: Path, url: str, *, deadline: float, concurrency: int, way: str) -> None:
        self.folder, self.url, self.deadline, self.way = folder, url, deadline, way
        self.concurrency = concurrency or self.concurrency
        self.records_file = folder / "records"
        self.records_file.touch()
        self.units: list[subprocess.Popen[bytes]] = []
        self.servers = [*filter(proc.alive, proc.children(os.getpid()))]

    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BKD_"))}
        told = {"URL": self.url, "DEADLINE": self.deadline, "CONCURRENCY": self.concurrency, "VARIETY": self.variety}
        told["RECORDS"] = self.records_file
        return {**kept, "PYTHONPATH": str(self.folder), **{f"BENCH_{name}": str(told[name]) for name in told}}

    # -- filling

    def produce(self, *words: object) -> Any:
        """What `apps/messages/produce.py` measures; RuntimeError with its complaint when it fails."""
        argv = [self.program("python"), "produce.py", self.module, *map(str, words)]
        done = subprocess.run(
            argv, cwd=self.folder, env=self.environ(), capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv[2:])}: {done.stderr[-600:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def prepare(self) -> None:
        """What has to be there before the first message."""
        self.produce("prepare")

    def send(self, count: int, *, what: str = "noop", first: int = 0, due: float = 0.0) -> float:
        """One by one; the seconds it took. `due` is a moment of the monotonic clock."""
        return float(self.produce("send", what, first, count, due))

    # -- working

    def program(self, name: str) -> str:
        return program(name, self.environment)

    def command(self, workers: int) -> list[str]:
        return [self.program("python"), f"{self.module}.py"]

    def work(self, workers: int) -> None:
        """Start so many worker processes."""
        for _ in range(workers if self.alone else 1):
            self.launch(self.command(1 if self.alone else workers))

    def launch(self, argv: list[str]) -> None:
        with open(self.folder / "output", "ab") as output:
            self.units.append(
                subprocess.Popen(
                    argv,
                    cwd=self.folder,
                    env=self.environ(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )

    def processes(self) -> set[int]:
        """All of its processes but the server's."""
        return {*proc.tree(os.getpid())} - self.served()

    def served(self) -> set[int]:
        """The processes of its server."""
        return {pid for server in self.servers for pid in [server, *proc.tree(server)]}

    def workers(self) -> list[int]:
        """The processes that run messages."""
        units = [unit.pid for unit in self.units]
        return units if self.alone else [pid for unit in units for pid in proc.children(unit) if not _helps(pid)]

    def parts(self) -> dict[str, set[int]]:
        """Pids by what they are."""
        return {"workers": self.processes(), "server": self.served()}

    def stop(self) -> None:
        """End it and whatever it left behind, by pid, but not its server."""
        for unit in self.units:
            if unit.poll() is None:
                unit.send_signal(signal.SIGTERM)
        proc.wait_for(lambda: not self.processes(), LEAVE)
        if not proc.wait_for(lambda: not self._kill(), LEAVE):
            raise RuntimeError(f"processes that do not end: {self.processes()}")
        for unit in self.units:
            unit.wait(LEAVE)
        self.units.clear()

    def _kill(self) -> set[int]:
        remaining = self.processes()
        for pid in remaining:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return remaining

    # -- what has been done

    def records(self) -> list[Record]:
        """In the order in which handlers began."""
        data = self.records_file.read_bytes()
        return [Record(*fields) for fields in RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size])]

    def count(self) -> int:
        """How many handlers have begun."""
        return self.records_file.stat().st_size // RECORD.size

    def forget(self) -> None:
        """Begin the file anew."""
        os.truncate(self.records_file, 0)

    def begun(self, count: int, limit: float) -> bool:
        """Wait until so many have begun; False when none did for `limit` seconds."""
        before, moved = 0, time.monotonic()
        while (now := self.count()) < count:
            if now > before:
                before, moved = now, time.monotonic()
            if time.monotonic() > moved + limit:
                return False
            time.sleep(0.01)
        return True

    def last_words(self) -> str:
        """The end of what it printed, for the report of a failure."""
        output = self.folder / "output"
        return output.read_text(errors="replace")[-900:] if output.exists() else ""


def _helps(pid: int) -> bool:
    """Whether it is a process that multiprocessing has for itself."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it ended meanwhile
        return True
    return b"resource_tracker" in words or b"forkserver" in words
