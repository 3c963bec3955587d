"""Hosts of one fleet in the memory of a test: everything of a master that listens to the bus is real, the bus is one
store for all, and restarts, which want processes, are played. A master dies when the test wants it."""

import asyncio
import functools
import time
from contextlib import asynccontextmanager

from bkd.ipc.errors import BkdError
from bkd.ipc.message import Command, Finished, Progress
from bkd.supervisor.bus.driver import BusError
from bkd.supervisor.bus.keyring import Keyring
from bkd.supervisor.bus.letter import contents, decode
from bkd.supervisor.bus.local import LocalDriver
from bkd.supervisor.bus.names import Names
from bkd.supervisor.bus.orders import Ack, FleetCommand
from bkd.supervisor.bus.writer import Writer, command_id, instance_of
from bkd.supervisor.commands import Commands, Entry
from bkd.supervisor.config.schema import (
    AppSection,
    BusSection,
    Config,
    ControlSection,
    LogSection,
    PingSection,
    StoreSection,
)
from bkd.supervisor.deploys import Deploys
from bkd.supervisor.desk import Issuer, Request
from bkd.supervisor.exchange import Exchange
from bkd.supervisor.fleet import executor, intake, plane
from bkd.supervisor.memory import Memory
from bkd.supervisor.registry import Registry
from bkd.supervisor.reloads import Reloads
from bkd.supervisor.roles import Role
from bkd.supervisor.tasks import Tasks
from bkd.supervisor.turns import Turns

from ..policy.drive import settled, web

PATIENCE = 30.0
NAMES = Names("shop")
CALLS = ["open", "now", "subscribe", "append", "read", "last", "publish", "set_field", "fields", "get", "swap"]


class Died(asyncio.CancelledError):
    """The master was killed here: nothing catches it."""


class HostDriver(LocalDriver):
    """One host's way to the store of all. `why`: nothing goes through for that reason; `shift`: seconds its clock is
    off; `step`: called before and after each call."""

    place = "memory:"

    def __init__(self, bus):
        super().__init__()
        self.bus, self.why, self.shift = bus, "", 0.0
        self.step = lambda: None
        if bus.drivers:
            first = bus.drivers[0]
            self._streams, self._hashes, self._values = first._streams, first._hashes, first._values
            self._ends, self._queue = first._ends, first._queue
        bus.drivers.append(self)

    async def now(self):
        return time.time() + self.shift

    async def append(self, stream, payload, *, bell="", **options):
        id = await LocalDriver.append(self, stream, payload, **options)
        if bell:  # in one step with it, as servers do that
            await self._ring(bell, payload)
        return id

    async def publish(self, channel, payload):
        return await self._ring(channel, payload)

    async def _ring(self, channel, payload):
        return sum([await LocalDriver.publish(driver, channel, payload) for driver in self.bus.drivers])


def _guarded(name, call):
    async def guarded(self, *arguments, **named):
        self.step()
        await asyncio.sleep(0)  # a bus is never so near that others do not come between
        if self.why:
            raise BusError(self.why)
        answer = await call(self, *arguments, **named)
        await asyncio.sleep(0)
        self.step()
        return answer

    return guarded


for _name in CALLS:
    setattr(HostDriver, _name, _guarded(_name, getattr(HostDriver, _name)))


class Bus:
    """The store, and what lies in it."""

    def __init__(self):
        self.drivers = []
        self._count = 0

    def put(self, verb, arguments, targets, *, ttl=15.0, age=0.0, app="shop", keyring=None, issuer="ann@h0"):
        """A command as another master would append it `age` seconds ago; its id."""
        self._count += 1
        now = time.time() + self.drivers[0].shift - age
        id = command_id(now, self._count.to_bytes(6, "big"))
        writer = Writer(Names(app), "h0", instance_of(now, b"\0\0"), keyring or Keyring.unsigned())
        order = FleetCommand(verb, arguments, tuple(targets), issuer)
        self.append(writer.letter(Names(app).commands, "fleet:command", order, now, ttl, id=id))
        return id

    def append(self, payload):
        """Any bytes in the stream of commands, with the bell rung."""
        coroutine = LocalDriver.append(self.drivers[0], NAMES.commands, payload)
        try:
            coroutine.send(None)
        except StopIteration:
            pass
        for driver in self.drivers:
            if NAMES.server in driver._channels:
                asyncio.get_running_loop().call_soon(driver.hear, NAMES.server, payload)

    def acks(self, id, host=""):
        """The acknowledgements of a command, in the order in which they came."""
        stream = self.drivers[0]._streams.get(NAMES.reply(id))
        entries = stream.entries if stream is not None else ()
        acks = [contents(decode(entry.payload[40:]), Ack) for _, entry in entries]
        return [ack for ack in acks if host in ("", ack.host)]

    def states(self, id, host=""):
        """The same, only the states."""
        return [ack.state for ack in self.acks(id, host)]


class Terminal:
    """Who gave a command: what was shown."""

    def __init__(self):
        self.out = self.err = self.screen = ""
        self.code, self.resume, self.signs = None, None, 0

    def send(self, message, *, re):
        assert self.code is None, "nothing follows the end"
        self.out += getattr(message, "out", "")
        self.err += getattr(message, "err", "")
        if isinstance(message, Finished):
            self.code = message.code
        elif isinstance(message, Progress):
            self.screen, self.resume = message.screen or self.screen, message.resume or self.resume


class Deeds:
    """What was done on a host, over all its masters. `fails`: the line with which a restart ends; `held`: a restart
    does not end before it is set; `forgets`: a restart that the next master knows nothing of."""

    def __init__(self):
        self.begun, self.awaited = [], []
        self.fails = ""
        self.forgets = False
        self.held = asyncio.Event()
        self.held.set()


class Host:
    """One master. It is its own desk."""

    keeper_pid, began, effects = 1, 0.0, None

    def __init__(self, bus, name, run_dir, *, deeds=None, cluster=None, adopting=False, tag="", groups=("web",)):
        self.bus, self.name, self.run_dir, self.tag, self.groups = bus, name, run_dir, tag, groups
        self.facts, self.deeds = [], deeds or Deeds()
        self.step = lambda: None
        self.config = self._config()
        run_dir.mkdir(exist_ok=True)
        self.tasks, self.memory = Tasks(), Memory(str(run_dir))
        cluster = cluster or settled(*(web(group, count=2) for group in groups)).cluster
        self.turns = Turns(cluster, lambda action: None, self.facts.append)
        self.exchange = Exchange("shop", Registry(), lambda: self.turns.cluster)
        deploys = Deploys(self, None)
        self.commands = Commands(self, deploys, Reloads(self, deploys))
        self.commands.table["restart"] = Entry(Role.OPERATOR, self._restart)
        self.commands.table["await"] = Entry(Role.OPERATOR, self._await)
        self.driver = HostDriver(bus)
        before, plane.driver_of = plane.driver_of, lambda config: self.driver
        try:
            self.plane = plane.Plane(self, self.commands, self.exchange, str(run_dir), adopting=adopting)
        finally:
            plane.driver_of = before
        self.record = self.plane.executor.record

    def _config(self):
        app = AppSection(name="shop", host=self.name, tag=self.tag)
        workers = {group: web(group, count=2) for group in self.groups}
        bus = BusSection("redis://127.0.0.1:1", unsigned=True)
        return Config("", "/", app, ControlSection(), PingSection(), LogSection(), bus, StoreSection(), workers)

    # -- what a desk does

    def remember(self):
        pass

    def tell(self, fact):
        self.facts.append(fact)

    # -- what a cluster does

    async def _restart(self, request):
        self.step()
        self.deeds.begun.append(request.arguments)
        self.step()
        if not self.deeds.forgets:
            request.promise({"restart": self.name})
        return await self._see_through(request)

    async def _await(self, request):
        self.deeds.awaited.append(request.arguments)
        request.promise(request.arguments)
        return await self._see_through(request)

    async def _see_through(self, request):
        self.step()
        await self.deeds.held.wait()
        self.step()
        if self.deeds.fails:
            raise BkdError(self.deeds.fails)
        return Finished(out="done\n")

    # -- life and death

    def begin(self):
        self.plane.begin()
        return self

    async def up(self):
        """Connected, and in the inventory."""
        self.begin()
        await until(lambda: self.plane.session.state == "connected" and self.plane.hosts.known)
        return self

    def die_at(self, number):
        """Be killed at the step of this number: a write to the disk, a call of the bus, a step of a restart, each
        before and after it. `steps` counts them."""
        self.steps = 0

        def step():
            self.steps += 1
            if self.steps >= number:
                self.die()
                raise Died

        self.step = self.driver.step = step
        replace = self.plane.executor.records.replace

        def stepping(data):
            step()
            replace(data)
            step()

        self.plane.executor.records.replace = stepping

    def die(self):
        """Killed: nothing that was under way goes on."""
        self.dead = True
        if self.driver in self.bus.drivers[1:]:
            self.bus.drivers.remove(self.driver)
        for tasks in (self.tasks, self.plane.tasks, self.commands._tasks, self.exchange.tasks):
            for task in list(tasks._running):
                task.cancel()

    dead = False

    def next_master(self):
        """It adopts what there is."""
        assert self.dead
        return Host(
            self.bus,
            self.name,
            self.run_dir,
            deeds=self.deeds,
            cluster=self.turns.cluster,
            adopting=True,
            tag=self.tag,
            groups=self.groups,
        )

    # -- questions and orders

    @property
    def count(self):
        """How many workers web is to have."""
        return self.turns.cluster.groups["web"].count

    def told(self, kind):
        """The facts of one kind."""
        return [fact for fact in self.facts if isinstance(fact, kind)]

    def give(self, verb, arguments=None, *, render="text", role=Role.OPERATOR, **about):
        """A user of this host gives a command to the fleet; the terminal and the task that ends with it."""
        return self.ask("fleet", {"verb": verb, "arguments": arguments or {}, **about}, render=render, role=role)

    def ask(self, verb, arguments, *, render="text", role=Role.OPERATOR):
        """A user of this host gives a command to its master."""
        terminal = Terminal()
        request = Request(terminal, 1, Command(verb, arguments, render), Issuer(0, 1, "ann"))
        return terminal, asyncio.get_running_loop().create_task(self.commands.run(request, role))


class World:
    """A bus, and hosts by their names."""

    def __init__(self, folder):
        self.bus, self.folder, self.hosts = Bus(), folder, {}

    def host(self, name, **more):
        """A master that was just started; nothing runs yet."""
        self.hosts[name] = Host(self.bus, name, self.folder / name, **more)
        return self.hosts[name]

    async def up(self, *names, **more):
        """Masters that are connected and know of each other."""
        hosts = [await self.host(name, **more).up() for name in names]
        for host in hosts:
            await host.plane.hosts.look()
        await quiet()
        return hosts

    def later(self, seconds):
        """The bus's clock moves on, for all."""
        for host in self.hosts.values():
            host.driver.shift += seconds
            host.plane.session.offset += seconds


@asynccontextmanager
async def world(folder):
    """All hosts are dead at the end."""
    made = World(folder)
    try:
        yield made
    finally:
        for host in made.hosts.values():
            host.die()
        await asyncio.sleep(0)


async def until(condition, limit=PATIENCE):
    """What the condition gives as soon as it is true."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    while not (value := condition()):
        assert loop.time() < end, f"not true within {limit:g} s, but still {value!r}"
        await asyncio.sleep(0.001)
    return value


async def quiet(turns=200):
    """So many turns of the loop: whatever can happen by itself has happened."""
    for _ in range(turns):
        await asyncio.sleep(0)


def hurried(monkeypatch):
    """Pauses that spare a real bus are short."""
    monkeypatch.setattr(intake, "BREATH", 0.0)
    monkeypatch.setattr(executor, "LOOK", 0.01)
    monkeypatch.setattr(executor, "AGAIN", (0.005, 0.01))


def in_a_world(test):
    """Decorator: the test is handed a world, in a loop of its own."""

    @functools.wraps(test)
    def run(tmp_path, monkeypatch):
        hurried(monkeypatch)

        async def limited():
            async with asyncio.timeout(3 * PATIENCE), world(tmp_path) as made:
                await test(made)

        asyncio.run(limited())

    del run.__wrapped__
    return run


def ended(bus, id, host="h1"):
    """The last acknowledgement of a host, once it is a last one."""
    acks = bus.acks(id, host)
    return acks[-1] if acks and acks[-1].state not in ("accepted", "running") else None
