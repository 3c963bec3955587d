"""Limits and locks: within a process, and kept by a master at the other end of a socket."""

import asyncio
import contextlib
import threading
import time

import pytest

from bkd.ipc import Application, AwayError, HeldError, NotConnected
from bkd.ipc.blocking import Blocking
from bkd.ipc.bucket import Buckets, Rate
from bkd.ipc.joining import probe
from bkd.ipc.leases import Leases
from bkd.ipc.parcel import Parcel

from .standin import Standin


class Master:
    """Answers as the master does, or not at all while it is `away`."""

    def __init__(self):
        self.buckets, self.leases, self.away, self.asked = Buckets(), Leases(), False, []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, standin, parcel):
        self.asked.append(parcel.op)
        self.gate.wait(10)
        data = {"error": "away", "reason": "the bus is away"} if self.away else self.answer(parcel.op, parcel.data)
        standin.tell(Parcel("error" if self.away else "reply", data, re=parcel.id))

    def answer(self, op, data):
        name, now = data.pop("name"), time.monotonic()
        assert data.pop("scope") in ("fleet", "host")
        if op == "ipc:limiter":
            return self.buckets.take(name, Rate(**data), now)
        if op == "ipc:lock":
            return self.leases.take(name, data["owner"], data["ttl"], now)._asdict()
        if op == "ipc:renew":
            return self.leases.renew(name, data["owner"], data["ttl"], now)
        return self.leases.free(name, data["owner"])


@pytest.fixture
def master():
    return Master()


@pytest.fixture
def far(tmp_path, master):
    """An application of a script that has joined."""
    application = Application()
    with contextlib.closing(Standin(tmp_path, master)) as standin:
        application.connect(standin.path)
        application.standin = standin
        yield application
        application.disconnect()


@pytest.fixture(params=["alone", "far"])
def application(request):
    """Outside a cluster, and in one: both behave alike."""
    if request.param == "far":
        yield request.getfixturevalue("far")
        return
    alone = Application()
    yield alone
    alone.disconnect()


def test_a_limit(application):
    async def main():
        delays = [await application.limiter("login", rate=3, interval=60) for _ in range(4)]
        assert delays[:3] == [0.0, 0.0, 0.0]
        assert 15 < delays[3] <= 20
        assert await application.limiter("another", rate=3, interval=60) == 0.0

    asyncio.run(main())
    assert Blocking(application).limiter("login", rate=3, interval=60) > 15


@pytest.mark.parametrize(
    "options", [{"rate": 0}, {"rate": 1, "cost": 2}, {"rate": float("nan")}, {"rate": 1, "name": ""}]
)
def test_impossible_limits(application, options):
    with pytest.raises(ValueError):
        asyncio.run(application.limiter(**{"name": "login"} | options))


def test_nobody_can_be_asked(far, master, caplog):
    """Then `on_error` decides; it is in the log once."""
    master.away = True

    async def main():
        assert [await far.limiter("login", 1, 60) for _ in range(3)] == [0.0, 0.0, 0.0]
        assert await far.limiter("login", 1, 60, on_error="closed") == 60
        assert await far.limiter("login", 1, 60, scope="process") == 0.0
        assert await far.limiter("login", 1, 60, scope="process") > 0.0
        with pytest.raises(AwayError):
            await far.lock("report").take()

    asyncio.run(main())
    assert len(caplog.records) == 1


def test_a_lock_has_one_holder(application):
    async def main():
        async with application.lock("report") as first:
            with pytest.raises(HeldError, match="held by another") as held:
                await application.lock("report").take()
            assert held.value.wait >= 0
            assert not first.lost
        async with application.lock("report") as second, application.lock("another"):
            assert second.fence > first.fence > 0

    asyncio.run(main())


def test_a_lock_can_be_waited_for(application):
    async def main():
        order = []

        async def use(number):
            async with application.lock("report", wait=10):
                order.append(number)
                await asyncio.sleep(0)
                order.append(number)

        await asyncio.gather(*(use(number) for number in range(3)))
        assert order[::2] == order[1::2]
        assert sorted(set(order)) == [0, 1, 2]

    asyncio.run(main())


def test_threads_have_locks(application):
    """One waits for the other."""
    sync_ipc, order = Blocking(application), []

    def use():
        with sync_ipc.lock("report", wait=10) as lock:
            order.append(lock.fence)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert order == sorted(set(order))
    assert len(order) == 3


def test_a_lock_is_renewed_and_known_to_be_lost(far, master):
    async def main():
        async with far.lock("report", ttl=1.5) as lock:
            await until(lambda: master.asked.count("ipc:renew") >= 3)
            assert not lock.lost
            master.leases.free_all("")
            await until(lambda: lock.lost)

    asyncio.run(main())


def test_a_lock_that_cannot_be_renewed_is_lost_in_time(far, master, caplog):
    """Nobody knows of it in the meantime, and giving it back fails without harm."""

    async def main():
        async with far.lock("report", ttl=0.3) as lock:
            master.away = True
            began = time.monotonic()
            await until(lambda: lock.lost)
            assert time.monotonic() - began < 5.0

    asyncio.run(main())
    assert [record for record in caplog.records if "cannot be renewed" in record.message]


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def test_whoever_gives_up_leaves_no_lock_behind(far, master):
    """The answer was on its way."""

    async def main():
        master.gate.clear()
        task = asyncio.create_task(far.lock("report").take())
        await until(lambda: "ipc:lock" in master.asked)
        task.cancel()
        await asyncio.wait([task])
        master.gate.set()
        async with far.lock("report", wait=5):
            pass

    asyncio.run(main())


def test_a_lock_object_is_for_one_use(application):
    async def main():
        lock = application.lock("report")
        async with lock:
            pass
        with pytest.raises(RuntimeError, match="used twice"):
            await lock.take()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("limiter", {"rate": 1, "scope": "Fleet"}),
        ("limiter", {"rate": 1, "on_error": "close"}),
        ("lock", {"scope": "hosts"}),
    ],
)
def test_a_slip_of_the_pen_is_no_failure_that_lets_everybody_through(far, name, options):
    with pytest.raises(ValueError, match=r"scope is|on_error"):
        asyncio.run(getattr(far, name)("login", **options))


def test_a_master_that_dies_leaves_no_lock_behind(far, master):
    """It has taken the lock, and nobody was told: whoever asked gives it back at the next one."""

    def dies(standin, parcel):
        master.asked.append(parcel.op)
        answer = master.answer(parcel.op, parcel.data)
        if parcel.op == "ipc:lock":
            standin.answer = master
            standin.cut()
        else:
            standin.tell(Parcel("reply", answer, re=parcel.id))

    async def main():
        with pytest.raises(NotConnected):
            await far.lock("report").take()
        async with far.lock("report", wait=5):
            pass

    far.standin.answer = dies
    asyncio.run(main())


@pytest.mark.parametrize("options", [{"ttl": 0}, {"ttl": float("inf")}, {"name": ""}, {"name": "x" * 201}])
def test_impossible_locks(application, options):
    with pytest.raises(ValueError):
        application.lock(**{"name": "report"} | options)


def test_a_cluster_that_is_not_there(tmp_path):
    with pytest.raises(NotConnected, match="no cluster is running"):
        probe(str(tmp_path / "none.sock"))
