"""Caches of one process, and how their deletions come to the others."""

import asyncio
import contextlib
import math
import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.ipc import Application
from bkd.ipc.cache import MOST_BYTES, MOST_KEYS, MOST_UNTOLD, Caches
from bkd.ipc.parcel import Parcel, pack, read

from .standin import Standin


class Face:
    """A worker's runtime that has begun."""

    slot = "web.2"

    def __init__(self, path, loop):
        self.path, self.loop, self.begun = path, loop, threading.Event()
        self.begun.set()

    def ready(self):
        pass

    def joined(self):
        pass


@pytest.fixture
def caches():
    return Caches(lambda: None)


def test_the_least_recently_used_goes_first(caches):
    prices = caches.get("prices", 3, 60)
    for key in "abc":
        prices[key] = key.upper()
    assert prices.get("a") == "A"
    prices.set("d", "D")
    assert [key for key in "abcd" if key in prices] == ["a", "c", "d"]
    assert (len(prices), prices["d"], prices.get("b"), prices.get("b", 0)) == (3, "D", None, 0)
    with pytest.raises(KeyError):
        _ = prices["b"]


def test_values_grow_old(caches):
    """A time that is over before it has begun; 0 means that there is none."""
    brief, endless = caches.get("brief", 10, 1e-9), caches.get("endless", 10, 0)
    brief["a"] = endless["a"] = 1
    assert ("a" in brief, brief.get("a"), len(brief)) == (False, None, 0)
    assert endless["a"] == 1


def test_a_name_is_one_cache(caches):
    assert caches.get("prices", 3, 60) is caches.get("prices", 3, 60)
    with pytest.raises(ValueError, match="there already, with maxsize=3 and ttl=60"):
        caches.get("prices", 4, 60)


@pytest.mark.parametrize(("maxsize", "ttl"), [(0, 1), (1, -1), (1, math.nan), (1, math.inf)])
def test_impossible_sizes(caches, maxsize, ttl):
    with pytest.raises(ValueError, match="a cache needs"):
        caches.get("prices", maxsize, ttl)


@pytest.mark.parametrize("key", [["a"], object(), {"a": 1}, (1, ("a", object()))])
def test_keys_that_nobody_else_could_know(caches, key):
    with pytest.raises(TypeError):
        caches.get("prices", 3, 60).set(key, 1)


keys = st.recursive(st.none() | st.text() | st.integers(-(2**63), 2**63) | st.binary(), lambda key: st.tuples(key, key))


@given(st.lists(keys, max_size=20))
def test_deletions_mean_the_same_elsewhere(some):
    """Whatever the keys are, over the wire."""
    here, there = Caches(lambda: None), Caches(lambda: None)
    for key in some:
        here.get("prices", 100, 0)[key] = there.get("prices", 100, 0)[key] = 1
        here.get("prices", 100, 0).delete(key)
    for letter in here.take():
        there.heard(read(pack(Parcel("ipc:lru:del", letter))[4:]).data)
    assert len(there.get("prices", 100, 0)) == 0
    assert there.take() == []


def test_many_deletions_are_few_messages(caches):
    prices, others = caches.get("prices", 10, 60), caches.get("others", 10, 60)
    for number in range(MOST_KEYS + 1):
        prices.delete(number)
    others.clear()
    assert [len(letter.get("keys", [])) for letter in caches.take()] == [MOST_KEYS, 1, 0]
    for number in range(MOST_UNTOLD + 1):
        prices.delete(number)
    assert caches.take() == [{"cache": "prices", "all": True}]


def test_large_keys_are_told_in_several_messages(caches):
    """Each of them fits into a letter of the bus."""
    prices = caches.get("prices", 10, 60)
    keys = [f"{number}{'x' * 9_000}" for number in range(20)]
    for key in keys:
        prices.delete(key)
    letters = caches.take()
    assert [key for letter in letters for key in letter["keys"]] == keys
    assert max(len(pack(Parcel("ipc:lru:del", letter))) for letter in letters) < 40_000


@pytest.mark.parametrize("key", ["x" * MOST_BYTES, "\udcff", 2**70], ids=["large", "surrogate", "number"])
def test_a_key_that_cannot_be_sent_is_all_of_its_cache(caches, key):
    caches.get("prices", 10, 60).delete(key)
    caches.get("others", 10, 60).delete("a")
    assert caches.take() == [{"cache": "prices", "all": True}, {"cache": "others", "keys": ["a"]}]


def test_all_caches_may_be_meant(caches):
    prices, others = caches.get("prices", 10, 60), caches.get("others", 10, 60)
    prices["a"] = others["a"] = 1
    caches.heard({"all": True})
    assert (len(prices), len(others), caches.take()) == (0, 0, [])


def test_a_value_that_is_displaced_may_use_its_cache(caches):
    class Value:
        def __del__(self):
            prices.delete("another")

    prices = caches.get("prices", 1, 60)
    prices["a"] = Value()
    thread = threading.Thread(target=prices.set, args=["b", 1], daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def deep(depth):
    key = "a"
    for _ in range(depth):
        key = [key]
    return key


def test_keys_that_are_no_keys(caches):
    """What is too deep to be looked at may have been one."""
    prices = caches.get("prices", 3, 60)
    prices["a"] = 1
    caches.heard({"cache": "prices", "keys": [msgspec.msgpack.Ext(5, b""), {}, bytearray(b"a")]})
    assert "a" in prices
    caches.heard({"cache": "prices", "keys": [deep(5000)]})
    assert "a" not in prices


@given(
    st.none() | st.integers() | st.dictionaries(st.sampled_from(["cache", "keys", "all"]), st.text() | st.lists(keys))
)
def test_nonsense_is_passed_over(data):
    caches = Caches(lambda: None)
    caches.get("prices", 3, 60)["a"] = 1
    caches.heard(data)
    caches.heard({"cache": "prices", "keys": [["a", {}], {}]})
    assert caches.get("prices", 3, 60)["a"] == 1


def test_they_come_and_go_over_the_connection(tmp_path):
    """What was deleted while nobody was there is told later, and what was missed is not trusted."""

    async def main():
        application = Application()
        prices = application.lru("prices", 10, 60)
        application.attach(Face(standin.path, asyncio.get_running_loop()))
        prices.delete("before")
        prices["a"] = 1
        application.begin()
        await heard({"cache": "prices", "keys": ["before"]})
        assert "a" not in prices

        prices["a"] = prices["b"] = 1
        standin.tell(Parcel("ipc:lru:del", {"cache": "prices", "keys": ["a"]}))
        await settled(lambda: "a" not in prices)
        assert "b" in prices
        await asyncio.to_thread(prices.delete, "b")
        await heard({"cache": "prices", "keys": ["b"]})

        prices["c"] = 1
        standin.cut()
        await settled(lambda: "c" not in prices)
        prices.clear()
        await heard({"cache": "prices", "all": True})

    async def settled(condition):
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    async def heard(data):
        await settled(lambda: standin.heard and standin.heard[-1] == Parcel("ipc:lru:del", data, to="server"))

    with contextlib.closing(Standin(tmp_path)) as standin:
        asyncio.run(main())
