"""The queues of messages that bkd's is measured beside, each at its defaults where nothing else is said."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import proc
from place import APPS, HOST, program
from postgres_server import postgres_server
from queues import Queue
from redis_server import redis_server

READY = 30.0


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
    store = "sqlite:bkd.db"

    def prepare(self) -> None:
        self.begin(0)

    def begin(self, executors: int) -> None:
        mode = "exclusive" if self.way in ("sleep", "spin") else "shared"
        (self.folder / "bkd.toml").write_text(f"""
[app]
name = "bench"
run_dir = "run"
[store]
url = "{self.url if self.server else self.store}"
[workers.jobs]
kind = "messages"
handlers = ["{self.module}"]
count = {executors}
mode = "{mode}"
concurrency = {self.concurrency}
""")
        self.launch([self.program("bkd"), "start"])

    def work(self, workers: int) -> None:
        if not self.units:
            self.begin(workers)
        else:
            self.call("scale", f"jobs={workers}")

    def rest(self) -> None:
        self.stop()

    def send(self, count: int, *, what: str = "noop", first: int = 0, due: float = 0.0) -> float:
        self.wait()
        return super().send(count, what=what, first=first, due=due)

    def workers(self) -> list[int]:
        return [*self.titled("jobs.")]
