"""Several hosts of one application, all on this machine: each a cluster in a folder of its own, on one bus."""

import asyncio
import json
import threading
from contextlib import ExitStack, contextmanager

from bkd.ipc.errors import BkdError

from ..cluster.clients import Load, command, deploy
from ..cluster.cluster import PATIENCE, Cluster, alive, kill, until
from .proxy import Proxy

KEY = "the key that all hosts of this fleet have in common"
FIVE = ("h1", "h2", "h3", "h4", "h5")
WEB = {"app": "versioned:app", "count": 1, "min_ready": "100ms"}
# a program that is soon ready; not before there is no file `closed`, and not at all while there is a file `broken`
SCRIPT = """\
[ -e broken ] && { echo "no price list" >&2; exit 3; }
while [ -e closed ]; do sleep 0.02; done
echo up
exec sleep 1000
"""
TOOL = {"command": ["sh", "-c", SCRIPT], "count": 1, "min_ready": "100ms", "ready": "log:up", "term": "1s"}


class Fleet:
    """`hosts` are clusters by name, in their order; commands are given on the first one that runs. `url` is the bus for
    all of them, or what gives it for a name."""

    def __init__(self, folder, server, names=("h1", "h2"), *, tags=None, url=None, bus=None, **groups):
        self.folder, self.server = folder, server
        self.hosts = {name: self._cluster(name, (tags or {}).get(name, ""), url, bus or {}, groups) for name in names}

    def _cluster(self, name, tag, url, bus, groups):
        secret = self.folder / "secret"
        secret.write_text(KEY + "\n")
        secret.chmod(0o600)
        folder = self.folder / name
        folder.mkdir()
        groups = groups or {"web": {"app": "shop:app", "count": 1, "min_ready": "200ms"}}
        app = {"host": name, "tag": tag}
        url = url(name) if callable(url) else url or self.server.url()
        bus = {"url": url, "secret_file": str(secret)} | bus
        return Cluster(folder, {"app": app, "bus": bus, **groups})

    def start(self):
        """Until all of them know each other."""
        for cluster in self.hosts.values():
            cluster.start(ready=False)
        for cluster in self.hosts.values():
            until(cluster.is_ready, 60.0)
        until(lambda: len(self.known()) == len(self.hosts))
        return self

    def first(self):
        """The cluster that commands are given on."""
        return next(cluster for cluster in self.hosts.values() if cluster.process is not None)

    def bkd(self, *arguments, **options):
        """A command on the first host."""
        return self.first().bkd(*arguments, **options)

    def ask(self, *arguments, code=0, **options):
        """A command on the first host with `--json`, which has to end with this exit code; its document."""
        result = self.bkd(*arguments, "--json", **options)
        assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
        return json.loads(result.stdout)

    def states(self, *arguments, **options):
        """What became of a command of the fleet: the state of each host."""
        return {row["host"]: row["state"] for row in self.ask(*arguments, "--fleet", **options)["hosts"]}

    def known(self):
        """The hosts that answer."""
        result = self.bkd("status", "--fleet", "--json")
        hosts = json.loads(result.stdout)["hosts"] if result.stdout else []
        return [row["host"] for row in hosts if row["answered"]]

    def releases(self, group="web"):
        """The release of a group on each host."""
        return {name: cluster.group(group)["release"] for name, cluster in self.hosts.items()}

    # -- what hosts do

    def group_of(self, name, group="tool"):
        """A group's part of the status of a host."""
        return self.hosts[name].group(group)

    def counts(self, group="tool"):
        """How many workers of a group each host is to have: what `scale` has come to."""
        return {name: cluster.group(group)["count"] for name, cluster in self.hosts.items()}

    def connected(self, *names):
        """Wait until these hosts, or all, are on the bus."""
        for name in names or self.hosts:
            until(lambda name=name: self.hosts[name].status()["bus"]["connected"], 30.0)

    def journal(self, name, *facts):
        """What a host did, in its own words."""
        return self.hosts[name].events(*facts)

    def intervals(self, group, names=FIVE):
        """The newest roll of a group on each of these hosts, in the order of their beginnings: name, begin, end."""
        found = []
        for name in names:
            rolls = [e for e in self.journal(name, "roll-started", "roll-done") if e["group"] == group]
            found.append((name, rolls[-2]["mono"], rolls[-1]["mono"]))
        return sorted(found, key=lambda interval: interval[1])

    def deploy(self, version):
        """New code on the disk of every host."""
        for cluster in self.hosts.values():
            deploy(cluster, version)

    @contextmanager
    def under_load(self, *names):
        """Clients of `web` on each of these hosts, or all; none of them may lose anything."""
        loads = {name: Load(self.hosts[name], kept=1, new=1) for name in names or self.hosts}
        with ExitStack() as stack:
            for load in loads.values():
                stack.enter_context(load)
            yield loads
            for load in loads.values():
                load.goes_on()
        lost = {name: dict(load.lost) for name, load in loads.items() if load.lost}
        assert not lost, lost

    @contextmanager
    def held(self, *names):
        """The rolls of `tool` on these hosts come to their end after the `with` only."""
        files = [self.hosts[name].folder / "closed" for name in names]
        for file in files:
            file.touch()
        try:
            yield
        finally:
            for file in files:
                file.unlink(missing_ok=True)

    @contextmanager
    def broken(self, *names):
        """On these hosts `tool` cannot start while the `with` lasts."""
        files = [self.hosts[name].folder / "broken" for name in names]
        for file in files:
            file.touch()
        try:
            yield
        finally:
            for file in files:
                file.unlink()

    def begun(self, *arguments, host=None):
        """A command of the fleet in the background, for `finished` of the clients."""
        return command(self.hosts[host] if host else self.first(), *arguments)

    def shown(self, host=None):
        """The newest rollout as `bkd fleet show` has it: what came of it, and the state of each host."""
        try:
            document = (self.hosts[host] if host else self.first()).asked("fleet-show", id="")
        except BkdError as error:
            document = {"state": str(error), "hosts": []}
        return document["state"], {row["host"]: row["state"] for row in document["hosts"]}

    def running(self, *names):
        """Wait until these hosts, and no others, are at work in the newest rollout."""
        until(lambda: [name for name, state in self.shown()[1].items() if state == "running"] == [*names])

    def kill_master(self, name):
        """SIGKILL for the master of a host; returns when the next one answers."""
        cluster = self.hosts[name]
        old = cluster.status()["master_pid"]
        kill(old)
        until(lambda: not alive(old))
        until(lambda: (status := cluster.answered()) is not None and status["master_pid"] != old)

    def kill_host(self, name):
        """SIGKILL for every process of a host."""
        while left := self.hosts[name].processes():
            for pid in left:
                kill(pid)

    def signal_host(self, name, number):
        """A signal to every process of a host."""
        for pid in self.hosts[name].processes():
            kill(pid, number)

    def close(self):
        """End whatever runs."""
        for cluster in self.hosts.values():
            cluster.close()


@contextmanager
def fleets(tmp_path_factory):
    """Makes fleets, and ends them."""
    with ExitStack() as stack:

        def launch(server, names=("h1", "h2"), **options):
            fleet = Fleet(tmp_path_factory.mktemp("f"), server, names, **options)
            stack.callback(fleet.close)
            return fleet.start()

        yield launch


class Detours:
    """A proxy of its own for each host, in front of one server; what proxies do is done in a thread."""

    def __init__(self, server, names):
        self._server, self._names = server, names
        self._loop, self._begun = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.proxies = {}

    def __enter__(self):
        self._thread.start()
        assert self._begun.wait(PATIENCE)
        return self

    def __exit__(self, *_error):
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE)
        self._loop.close()

    def url(self, name):
        """The bus as this host knows it."""
        return self._server.url(port=self.proxies[name].port)

    def tell(self, names, what, *arguments):
        """Call a method of the proxies of these hosts."""
        self._do(lambda: [getattr(self.proxies[name], what)(*arguments) for name in names])

    @contextmanager
    def cut_off(self, *names):
        """These hosts are not on the bus while the `with` lasts."""
        self._do(lambda: [setattr(self.proxies[name], "refusing", True) for name in names])
        self.tell(names, "cut")
        try:
            yield
        finally:
            self._do(lambda: [setattr(self.proxies[name], "refusing", False) for name in names])

    @contextmanager
    def swallowing(self, *names, ways):
        """What goes these ways between the bus and these hosts gets lost, so to say, while the `with` lasts."""
        self.tell(names, "swallow", *ways)
        try:
            yield
        finally:
            self.tell(names, "swallow")

    def _do(self, work):
        async def done():
            work()

        asyncio.run_coroutine_threadsafe(done(), self._loop).result(PATIENCE)

    def _run(self):
        self._loop.run_until_complete(self._serve())

    async def _serve(self):
        self._over = asyncio.Event()
        self.proxies = {name: await Proxy(self._server.port).__aenter__() for name in self._names}
        self._begun.set()
        await self._over.wait()
        for proxy in self.proxies.values():
            await proxy.__aexit__()
