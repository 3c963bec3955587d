"""Locks of the fleet belong to processes: real ones, with a bus in memory and the master's services in between."""

import asyncio
import contextlib
import subprocess
from types import SimpleNamespace

import msgspec
import pytest

from bkd.ipc.message import Envelope
from bkd.ipc.processes import start_time
from bkd.supervisor.bus.local import LocalDriver
from bkd.supervisor.errands import CALLS
from bkd.supervisor.exchange import Exchange
from bkd.supervisor.identity import Identity
from bkd.supervisor.neighbours import Alone
from bkd.supervisor.registry import Registry
from bkd.supervisor.services import Services

from .wire import Refusal, Wire


class Bus(LocalDriver):
    """A bus that takes its time; with `gate` until that is open."""

    gate = None

    async def lock(self, key, owner, ttl):
        taken = await super().lock(key, owner, ttl)
        if self.gate is not None:
            await self.gate.wait()
        return taken

    async def unlock(self, key, owner):
        for _ in range(5):
            await asyncio.sleep(0)
        return await super().unlock(key, owner)


@pytest.fixture
def process():
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def master(bus):
    """The services of a master that has just come."""
    exchange = Exchange("shop", Registry(), lambda: None)
    exchange.fleet = Alone("h1", "", "shop", print)
    exchange.fleet.driver = bus
    return Services(exchange)


def asks(services, verb, process, name):
    """What the process asks of them; an answer to be awaited."""
    who = Identity("web.1", "web", 1, process.pid, start_time(process.pid), 0)
    data = {"name": name, "owner": "me", "ttl": 600}
    return getattr(services, verb)(
        SimpleNamespace(who=who), Envelope(f"ipc:{verb}", data=msgspec.Raw(msgspec.msgpack.encode(data)))
    )


async def is_free(bus, name):
    """Whether somebody else can have it, within some time."""
    async with asyncio.timeout(10):
        while not (await LocalDriver.lock(bus, f"shop:lock:{name}", "somebody else", 600)).fence:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_anothers", [False, True])
def test_a_process_that_ends_while_it_waits_for_a_lock_keeps_none(process, is_anothers):
    async def main():
        bus = Bus()
        services = master(bus)
        for name in ("a", "b"):
            await asks(services, "lock", process, name)
        if is_anothers:
            await bus.lock("shop:lock:c", "somebody else", 600)
        bus.gate = asyncio.Event()
        given = asyncio.create_task(asks(services, "lock", process, "c"))
        await asyncio.sleep(0)
        process.kill()
        async with asyncio.timeout(10):
            while services._holders:
                await asyncio.sleep(0)
        bus.gate.set()
        await given
        for name in ("a", "b", "c"):
            await is_free(bus, name)

    asyncio.run(main())


def test_the_next_master_frees_what_was_taken_of_the_one_before(process):
    async def before():
        await asks(master(bus), "lock", process, "a")

    async def afterwards():
        renewed = await asks(master(bus), "renew", process, "a")
        assert msgspec.msgpack.decode(renewed) is True
        process.kill()
        await is_free(bus, "a")

    bus = Bus()
    asyncio.run(before())
    asyncio.run(afterwards())


@pytest.fixture(scope="module")
def cluster(share):
    return share(one={"target": "functions:ticker", "count": 1})


@pytest.mark.parametrize("op", sorted(CALLS))
def test_what_is_asked_without_a_number_is_not_begun(cluster, op):
    """Nobody hears the answer, and nothing limits how many there are."""
    lock = {"name": op, "rate": 1, "interval": 600, "owner": "me"}
    with Wire(cluster) as wire:
        before = cluster.status()["ipc"]["refused"]
        wire.send(op=op, to="server", data=lock)
        assert wire.call("server", "echo") is None
        assert cluster.status()["ipc"]["refused"] == before + 1
        with contextlib.suppress(Refusal):
            assert wire.call("server", op, lock) != 600
