"""The queues of messages that bkd's is measured beside, each at its defaults where nothing else is said."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import proc
from place import APPS, HOST
from postgres_server import postgres_server
from queues import Queue
from redis_server import redis_server

READY = 30.0
SETTLE = 2.0  # a master loads what it needs later in its first seconds


class Celery(Queue):
    environment, module, server = "celery", "of_celery", "redis"

    def command(self, workers: int) -> list[str]:
        options = ["-P", "prefork", "-c", str(workers), "--without-gossip", "--without-mingle", "-l", "WARNING"]
        return [self.program("celery"), "-A", self.module, "worker", *options, "-n", "bench@localhost"]


class Dramatiq(Queue):
    environment, module, server, concurrency = "dramatiq", "of_dramatiq", "redis", 8

    def command(self, workers: int) -> list[str]:
        return [self.program("dramatiq"), self.module, "-p", str(workers), "-t", str(self.concurrency)]


class Rq(Queue):
    """Forks for every message."""

    environment, module, server, shrink, bulk, alone = "rq", "of_rq", "redis", 10, True, True

    def command(self, workers: int) -> list[str]:
        options = ["--with-scheduler", "--disable-job-desc-logging", "-q", "-P", str(self.folder)]
        return [self.program("rq"), "worker", "default", "-u", self.url, *options]


class HueySqlite(Queue):
    environment, module = "huey", "of_huey"

    def command(self, workers: int) -> list[str]:
        options = ["-k", "process", "-w", str(workers), "-g", "TERM", "-q"]
        return [self.program("huey_consumer"), f"{self.module}.huey", *options]


class HueyRedis(HueySqlite):
    variety, server = "redis", "redis"


class Procrastinate(Queue):
    environment, module, server, concurrency = "procrastinate", "of_procrastinate", "postgres", 10
    bulk, alone, stuck = True, True, ("sleep", "spin", "asleep")


class PgQueuer(Queue):
    """Its runs at once must be twice its batch."""

    environment, module, server, concurrency, slots = "pgqueuer", "of_pgqueuer", "postgres", 100, 2
    bulk, alone, stuck = True, True, ("sleep", "spin", "asleep")


class Raw(Queue):
    """A loop written by hand: no product, but the floor."""

    concurrency, bulk, alone, stuck = 100, True, True, ()


class RawSqlite(Raw):
    module = "of_raw_sqlite"


class RawPostgres(Raw):
    module, server = "of_raw_postgres", "postgres"


class BkdSqlite(Queue):
    """Filled while it has no executors; `work` then scales the group that is there already.

    A handler that blocks is stuck in a group of mode `exclusive`, a coroutine in a shared one.
    """

    module, concurrency, bulk, stuck = "of_bkd", 10, True, ("sleep", "spin", "asleep")
    resident = True

    def prepare(self) -> None:
        self.begin(0)
        if not proc.wait_for(lambda: self.titled(" dispatcher.1 r1 ready"), READY):
            raise RuntimeError("the dispatcher is not ready")
        time.sleep(SETTLE)

    def begin(self, executors: int) -> None:
        (self.folder / "bkd.toml").write_text(f"""
[app]
name = "bench"
run_dir = "run"
[store]
url = "{self.url if self.server else f"sqlite:{self.url}"}"
[workers.jobs]
kind = "messages"
handlers = ["{self.module}"]
count = {executors}
mode = "{"exclusive" if self.way in ("sleep", "spin") else "shared"}"
concurrency = {self.concurrency}
""")
        self.launch([self.program("bkd"), "start"])

    def work(self, workers: int) -> None:
        if self.units:
            done = subprocess.run(
                [self.program("bkd"), "scale", f"jobs={workers}"],
                cwd=self.folder,
                env=self.environ(),
                capture_output=True,
                text=True,
                check=False,
                timeout=READY,
            )
            if done.returncode:
                raise RuntimeError(f"bkd scale: {done.stderr}")
        else:
            self.begin(workers)

    def workers(self) -> list[int]:
        return self.titled(" jobs.")

    def parts(self) -> dict[str, set[int]]:
        known = {"workers": {*self.workers()}, "dispatcher": {*self.titled(" dispatcher.")}, "server": self.served()}
        others = self.processes() - {pid for pids in known.values() for pid in pids}
        return {**known, "keeper, master, zygote": others}

    def titled(self, words: str) -> list[int]:
        """Its processes with these words in their title."""
        return [pid for pid in self.processes() if words in _title(pid)]


class BkdPostgres(BkdSqlite):
    server = "postgres"


QUEUES: dict[str, type[Queue]] = {
    "celery": Celery,
    "dramatiq": Dramatiq,
    "rq": Rq,
    "huey-redis": HueyRedis,
    "huey-sqlite": HueySqlite,
    "procrastinate": Procrastinate,
    "pgqueuer": PgQueuer,
    "raw-sqlite": RawSqlite,
    "raw-postgres": RawPostgres,
    "bkd-sqlite": BkdSqlite,
    "bkd-postgres": BkdPostgres,
}


@contextmanager
def running(name: str, *, deadline: float = 0.0, concurrency: int = 0, way: str = "") -> Iterator[Queue]:
    """The queue with its server, prepared and empty, and ended afterwards; an error carries the end of its output as
    a note. `deadline`: of a run, in seconds; `way`: in which a handler will be stuck."""
    kind = QUEUES[name]
    with ExitStack() as stack:
        stack.callback(proc.end_everything, grace=1)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"bench-{name}-")))
        shutil.copytree(APPS / "messages", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        url = _served(kind.server, folder, stack)
        queue = kind(folder, url, deadline=deadline, concurrency=concurrency, way=way)
        stack.callback(queue.stop)
        try:
            queue.prepare()
            yield queue
        except Exception as error:
            error.add_note(queue.last_words())
            raise


def _served(server: str, folder: Path, stack: ExitStack) -> str:
    """Where the server of this kind is, that was started for it."""
    match server:
        case "redis":
            return f"redis://{HOST}:{stack.enter_context(redis_server(folder, durable=True))}/0"
        case "postgres":
            return stack.enter_context(postgres_server())
        case _:
            return str(folder / "messages.db")


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it ended meanwhile
        return ""
