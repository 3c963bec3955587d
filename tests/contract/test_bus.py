"""One suite over every bus: what a driver promises, whichever it is."""

import asyncio
import random
import time
from contextlib import asynccontextmanager

import pytest

from bkd.ipc import bucket
from bkd.ipc.bucket import Rate
from bkd.supervisor.bus.driver import NOTHING, BusError
from bkd.supervisor.bus.local import LocalDriver
from bkd.supervisor.bus.redisdriver import RedisDriver

from ..services.conftest import running, running_with_tls
from ..services.looped import looped, until

PLACES = ["local", "redis62", "redis", "valkey", "unix", "rediss"]
SERVERS = {"unix": "redis62"}


class Local:
    def __init__(self):
        self._driver = LocalDriver()

    def make(self):
        return self._driver


class Served:
    def __init__(self, server, scheme):
        self._server, self._scheme = server, scheme

    def make(self):
        with self._server.admin() as client:
            client.script_flush()
        return RedisDriver(self._server.url(self._scheme), name="bkd shop@h1")


@pytest.fixture(scope="module", params=PLACES)
def place(request):
    if request.param == "local":
        yield Local()
    elif request.param == "rediss":
        with running_with_tls() as server:
            yield Served(server, "rediss")
    else:
        with running(SERVERS.get(request.param, request.param)) as server:
            yield Served(server, "unix" if request.param == "unix" else "redis")


@asynccontextmanager
async def connected(place):
    """A driver at work; what it hears is in `heard`."""
    driver, heard = place.make(), []
    driver.hear = lambda channel, payload: heard.append((channel, payload))
    driver.heard = heard
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


@pytest.fixture
def name():
    """What no other test uses."""
    return f"{random.getrandbits(64):x}"


@looped
async def test_the_clock_is_that_of_the_world(place):
    async with connected(place) as bus:
        assert abs(await bus.now() - time.time()) < 2


@looped
async def test_a_stream_keeps_its_order(place, name):
    stream = f"shop:reply:{name}"
    async with connected(place) as bus:
        assert await bus.last(stream) == NOTHING
        assert await bus.read(stream, NOTHING) == []

        ids = [await bus.append(stream, b"%d" % number) for number in range(250)]
        first = await bus.read(stream, NOTHING)
        second = await bus.read(stream, first[-1].id, 200)

        assert [entry.payload for entry in first + second] == [b"%d" % number for number in range(250)]
        assert [entry.id for entry in first + second] == ids
        assert await bus.last(stream) == ids[-1]
        assert await bus.read(stream, ids[-1]) == []
        assert await bus.read(stream, ids[-2], 5) == [(ids[-1], b"249")]


@looped
async def test_entries_hold_any_bytes(place, name):
    payloads = [b"", bytes(range(256)), b"\r\n" * 1000, random.randbytes(60_000)]
    async with connected(place) as bus:
        for payload in payloads:
            await bus.append(f"shop:reply:{name}", payload)

        assert [entry.payload for entry in await bus.read(f"shop:reply:{name}", NOTHING)] == payloads


@looped
async def test_a_stream_is_cut_to_about_its_length(place, name):
    stream = f"shop:reply:{name}"
    async with connected(place) as bus:
        for number in range(500):
            last = await bus.append(stream, b"%d" % number, most=100)
        left = await bus.read(stream, NOTHING, 1000)

        assert 100 <= len(left) <= 300
        assert left[-1] == (last, b"499")


@looped
async def test_a_stream_ends_with_its_time(place, name):
    stream = f"shop:reply:{name}"
    async with connected(place) as bus:
        await bus.append(stream, b"x", ttl=0.05)
        while await bus.read(stream, NOTHING):
            await asyncio.sleep(0.01)

        assert await bus.last(stream) == NOTHING


@looped
async def test_a_bell_rings_once_for_each_entry(place, name):
    stream, bell = f"shop:reply:{name}", f"shop:web:{name}"
    async with connected(place) as bus:
        await bus.subscribe(frozenset([bell, "shop:all"]))
        for number in range(50):
            await bus.append(stream, b"%d" % number, ttl=60, bell=bell)
        await until(lambda: len(bus.heard) == 50)

        assert bus.heard == [(bell, b"%d" % number) for number in range(50)]


@looped
async def test_who_is_subscribed_hears_and_nobody_else(place, name):
    here, there = f"shop:web:{name}", f"shop:jobs:{name}"
    async with connected(place) as bus:
        assert await bus.publish(here, b"0") == 0

        await bus.subscribe(frozenset([here]))
        assert await bus.publish(here, b"1") == 1
        assert await bus.publish(there, b"2") == 0

        await until(lambda: bus.heard)
        await bus.subscribe(frozenset([there]))
        assert await bus.publish(here, b"3") == 0
        assert await bus.publish(there, b"4") == 1

        await until(lambda: len(bus.heard) == 2)
        await bus.subscribe(frozenset())
        assert await bus.publish(there, b"5") == 0

        await bus.subscribe(frozenset([here, there]))
        await bus.subscribe(frozenset([here, there]))
        assert await bus.publish(here, b"6") == 1
        await until(lambda: len(bus.heard) == 3)
        assert bus.heard == [(here, b"1"), (there, b"4"), (here, b"6")]


@looped
async def test_what_takes_a_message_may_fail(place, name):
    async with connected(place) as bus:
        bus.hear = lambda channel, payload: bus.heard.append(1 // len(payload))
        await bus.subscribe(frozenset([f"shop:web:{name}"]))
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

        await bus.publish(f"shop:web:{name}", b"")
        await bus.publish(f"shop:web:{name}", b"x")

        await until(lambda: bus.heard == [1])


@looped
async def test_a_bus_that_was_closed_opens_again(place, name):
    async with connected(place) as bus:
        await bus.subscribe(frozenset([f"shop:web:{name}"]))
        await bus.append(f"shop:reply:{name}", b"kept")
        await bus.close()
        await bus.close()
        await bus.open()

        assert await bus.publish(f"shop:web:{name}", b"") == 0
        await bus.subscribe(frozenset([f"shop:web:{name}"]))
        assert await bus.publish(f"shop:web:{name}", b"") == 1
        assert [entry.payload for entry in await bus.read(f"shop:reply:{name}", NOTHING)] == [b"kept"]


@looped
async def test_the_fields_of_a_hash(place, name):
    async with connected(place) as bus:
        await bus.set_field("shop:hosts", name, b"\x00one")
        await bus.set_field("shop:hosts", f"{name}.ä", b"two")
        await bus.set_field("shop:hosts", name, b"three")
        mine = {field: value for field, value in (await bus.fields("shop:hosts")).items() if field.startswith(name)}
        assert mine == {name: b"three", f"{name}.ä": b"two"}

        await bus.set_field("shop:hosts", name, None)
        await bus.set_field("shop:hosts", name, None)
        assert name not in await bus.fields("shop:hosts")
        assert await bus.fields(f"shop:permit:{name}") == {}


@looped
async def test_swap_compares_and_sets(place, name):
    key = f"shop:permit:{name}"
    async with connected(place) as bus:
        assert await bus.get(key) is None
        assert not await bus.swap(key, b"", b"1", ttl=60)
        assert await bus.swap(key, None, b"1", ttl=60)
        assert not await bus.swap(key, None, b"2", ttl=60)
        assert not await bus.swap(key, b"2", b"3", ttl=60)
        assert await bus.swap(key, b"1", b"", ttl=0)
        assert await bus.get(key) == b""
        assert not await bus.swap(key, None, b"2", ttl=60)
        assert not await bus.swap(key, b"1", None, ttl=60)
        assert await bus.swap(key, b"", None, ttl=60)
        assert await bus.get(key) is None
        assert await bus.swap(key, None, None, ttl=60)


@looped
async def test_what_was_swapped_in_ends_with_its_time(place, name):
    key = f"shop:permit:{name}"
    async with connected(place) as bus:
        assert await bus.swap(key, None, b"long", ttl=60)
        assert await bus.swap(key, b"long", b"short", ttl=0.05)
        while await bus.get(key):
            await asyncio.sleep(0.01)

        while not (await bus.swap(key, None, b"new", ttl=0.05) and await bus.swap(key, b"new", b"kept", ttl=0)):
            await asyncio.sleep(0.01)  # it came to its end before it was swapped
        await asyncio.sleep(0.06)
        assert await bus.get(key) == b"kept"


@looped
async def test_of_twenty_writers_at_once_one_wins_each_version(place, name):
    key = f"shop:permit:{name}"
    async with connected(place) as first, connected(place) as second:
        for version in range(10):
            old = b"%d" % version if version else None
            tries = [(first, second)[n % 2].swap(key, old, b"%d" % (version + 1), ttl=60) for n in range(20)]

            assert sum(await asyncio.gather(*tries)) == 1
        assert await first.get(key) == b"10"


RATES = [
    Rate(5, 10),
    Rate(5, 10, most=2),
    Rate(1, 60, most=3),
    Rate(10, 1, cost=2.5),
    Rate(3, 10, reset=1),
    Rate(3, 10, reset=7),
    Rate(2, 1, multiplier=2, cap=10),
    Rate(2, 0.02, multiplier=-3),
    Rate(0.1, 1, most=1),
    Rate(1e6, 1, most=3),
]


@pytest.mark.parametrize("rate", RATES, ids=str)
@looped
async def test_a_limiter_is_the_bucket_of_the_pure_function(place, name, rate):
    """The moment of a call is known only to lie between two readings of the clock: the delay is longest when the calls
    before it came as late as they may have, and this one as early."""
    seed = random.Random(str(rate))
    low = high = None
    async with connected(place) as bus:
        for _call in range(25):
            before = time.monotonic()
            delay = await bus.limit(f"shop:limit:{name}", rate)
            after = time.monotonic()
            _, longest = bucket.take(high, rate, before)
            _, shortest = bucket.take(low, rate, after)
            low, high = bucket.take(low, rate, before)[0], bucket.take(high, rate, after)[0]
            if (delay == 0) != (longest == 0) or (delay == 0) != (shortest == 0):
                return  # a token came between the readings: from here on either may be right
            slack = 0.03 * max(made.interval for made in (low, high) if made) / rate.interval if low and high else 0.03
            assert shortest - slack <= delay <= longest + slack
            if delay and seed.random() < 0.5:
                await asyncio.sleep(min(delay, 0.02))


@looped
async def test_who_waits_as_long_as_a_limiter_says_is_let_through(place, name):
    rate = Rate(50, 1, most=1)
    async with connected(place) as bus:
        for _turn in range(5):
            while delay := await bus.limit(f"shop:limit:{name}", rate):
                assert 0 < delay <= 0.02 + 1e-6
                await asyncio.sleep(delay)

        with pytest.raises(ValueError, match="never fits"):
            await bus.limit(f"shop:limit:{name}", Rate(5, cost=6))


@looped
async def test_many_at_once_do_not_get_more_than_there_is(place, name):
    async with connected(place) as first, connected(place) as second:
        tries = [(first, second)[n % 2].limit(f"shop:limit:{name}", Rate(10, 3600)) for n in range(60)]

        assert (await asyncio.gather(*tries)).count(0.0) == 10


@looped
async def test_another_rate_is_another_bucket(place, name):
    key = f"shop:limit:{name}"
    async with connected(place) as bus:
        assert await bus.limit(key, Rate(1, 60)) == 0
        assert await bus.limit(key, Rate(1, 60)) > 30
        assert await bus.limit(key, Rate(1, 61)) == 0
        assert 0 < await bus.limit(key, Rate(1, 61, multiplier=2)) <= 122


@looped
async def test_a_lock_has_one_owner_and_a_fence(place, name):
    key = f"shop:lock:{name}"
    async with connected(place) as bus:
        first = await bus.lock(key, "web.1", 30)
        again = await bus.lock(key, "web.1", 60)
        other = await bus.lock(key, "web.2", 30)
        assert first.fence > 0 == first.wait
        assert again == first
        assert other.fence == 0
        assert 30 < other.wait <= 60

        assert not await bus.unlock(key, "web.2")
        assert not await bus.renew(key, "web.2", 30)
        assert await bus.renew(key, "web.1", 20)
        assert 0 < (await bus.lock(key, "web.2", 30)).wait <= 20
        assert await bus.unlock(key, "web.1")
        assert not await bus.unlock(key, "web.1")
        assert not await bus.renew(key, "web.1", 30)
        assert (await bus.lock(key, "web.2", 30)).fence > first.fence


@looped
async def test_a_lock_ends_with_its_time(place, name):
    key, fences = f"shop:lock:{name}", []
    async with connected(place) as bus:
        for turn in range(3):
            while not (taken := await bus.lock(key, f"web.{turn}", 0.03)).fence:
                assert 0 < taken.wait <= 0.03
                await asyncio.sleep(taken.wait)
            fences.append(taken.fence)
        await asyncio.sleep(0.031)

        assert not await bus.renew(key, "web.2", 30)
        assert not await bus.unlock(key, "web.2")
        assert fences == sorted(set(fences))


@looped
async def test_many_at_once_and_one_gets_the_lock(place, name):
    key, fences = f"shop:lock:{name}", []
    async with connected(place) as first, connected(place) as second:
        for turn in range(5):
            owners = [f"web.{n}" for n in range(20)]
            tries = [(first, second)[n % 2].lock(key, owner, 30) for n, owner in enumerate(owners)]
            taken = dict(zip(owners, await asyncio.gather(*tries), strict=True))
            ((owner, won),) = [(owner, got) for owner, got in taken.items() if got.fence]
            fences.append(won.fence)
            assert await first.unlock(key, owner), turn

        assert fences == sorted(set(fences))


@looped
async def test_nobody_locks_for_nothing(place, name):
    async with connected(place) as bus:
        for owner, ttl in [("", 1), ("web.1", 0), ("web.1", float("nan")), ("web.1", float("inf"))]:
            with pytest.raises(ValueError, match="a lock"):
                await bus.lock(f"shop:lock:{name}", owner, ttl)


@looped
async def test_names_may_hold_anything(place, name):
    odd = f"{name} ' \" \n {{x}} * ä" + 150 * "y"
    async with connected(place) as bus:
        assert await bus.limit(f"shop:limit:{odd}", Rate(1, 60)) == 0
        assert await bus.limit(f"shop:limit:{odd}", Rate(1, 60)) > 0
        assert (await bus.lock(f"shop:lock:{odd}", odd, 5)).fence
        assert await bus.unlock(f"shop:lock:{odd}", odd)


@looped
async def test_what_was_cancelled_leaves_the_others_alone(place, name):
    """Answers never come to the wrong question."""
    key = f"shop:permit:{name}"
    async with connected(place) as bus:
        await bus.swap(key, None, b"value", ttl=60)
        for _turn in range(20):
            calls = [asyncio.ensure_future(bus.get(key)) for _ in range(10)]
            await asyncio.sleep(random.random() * 0.002)
            for call in calls[::2]:
                call.cancel()

            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert {answer for answer in answers if not isinstance(answer, BaseException)} == {b"value"}


@looped
async def test_outside_of_the_application_s_names_nothing_is_allowed(place, name):
    if isinstance(place, Local):
        pytest.skip("the local bus has no users")
    async with connected(place) as bus:
        for call in (
            bus.get(f"other:permit:{name}"),
            bus.append("shop:unheard-of", b""),
            bus.publish(f"other:{name}", b""),
            bus.append(f"shop:reply:{name}", b"", bell="other:all"),
            bus.limit("shop:hosts:x", Rate(1)),
        ):
            with pytest.raises(BusError, match=r"does not allow that: give user bkd the rights of etc/redis\.acl"):
                await call
        with pytest.raises(BusError, match=r"redis\.acl"):
            await bus.subscribe(frozenset(["other:all"]))
        assert await bus.read(f"shop:reply:{name}", NOTHING) == []
