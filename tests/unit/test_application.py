"""`ipc` as an application sees it, with its own loop and threads, without a cluster around it."""

import asyncio
import logging
import threading

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bkd.ipc import Application, Event, NotConnected
from bkd.ipc.handlers import MOST_WAITING

PATIENCE = 30.0


class Face:
    """A worker's runtime that has `begun`, with the loop of the test if there is one."""

    slot, path = "web.2", ""

    def __init__(self, loop=None):
        self.loop, self.begun, self.is_ready = loop, threading.Event(), False
        self.begun.set()

    def ready(self):
        self.is_ready = True


class Heard:
    """What handlers were called with, and in which thread."""

    def __init__(self):
        self.events, self.threads, self._changed = [], [], threading.Condition()

    def __call__(self, message):
        with self._changed:
            self.events.append(message)
            self.threads.append(threading.current_thread().name)
            self._changed.notify_all()

    def all(self, count):
        """The first so many, as soon as they are there."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.events) >= count, PATIENCE), self.events
        return self.events


def deliver(application, op, data=None):
    application.deliver(op, msgspec.msgpack.encode(data))


async def settled(condition):
    """Let the loop turn until that is so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


def test_outside_a_cluster_nothing_happens():
    """Handlers register and stay functions; there is no slot."""
    application, heard = Application(), Heard()
    assert application.on("price:changed")(heard) is heard
    deliver(application, "price:changed")
    application.ready()
    assert heard.events == []
    with pytest.raises(NotConnected):
        _ = application.slot


def test_a_worker_has_a_face():
    application, face = Application(), Face()
    application.attach(face)
    application.ready()
    assert (application.slot, face.is_ready) == ("web.2", True)


def test_forgotten_brackets_are_said_so():
    with pytest.raises(TypeError, match=r'@ipc\.on\("'):
        Application().on(lambda message: None)


def test_all_handlers_of_an_event_hear_it_in_order():
    """Those registered before the worker was one, and those that came later; with plain objects."""
    application, first, second = Application(), Heard(), Heard()
    application.on("price:changed")(first)
    application.attach(Face())
    application.on("price:changed")(second)
    application.on("stock:changed")(first)
    deliver(application, "price:changed", {"sku": 7, "tags": ["a", None]})
    deliver(application, "nobody:listens")
    deliver(application, "stock:changed", 3)
    price = Event("price:changed", {"sku": 7, "tags": ["a", None]})
    assert first.all(2) == [price, Event("stock:changed", 3)]
    assert second.all(1) == [price]
    assert set(first.threads) == {"bkd-events"}


@pytest.mark.filterwarnings("error")
def test_async_handlers_run_in_the_main_loop():
    """Functions, objects that are called like functions, and functions that only turn out to be async."""

    class Listener:
        async def __call__(self, message):
            await function(message)

    heard = Heard()

    async def function(message):
        assert asyncio.get_running_loop() is main
        heard(message)

    async def run():
        nonlocal main
        main = asyncio.get_running_loop()
        application = Application()
        for handler in (function, Listener(), lambda message: function(message)):
            application.on("price:changed")(handler)
        application.attach(Face(main))
        deliver(application, "price:changed", 1)
        await settled(lambda: len(heard.events) == 3)

    main = None
    asyncio.run(run())
    assert heard.events == [Event("price:changed", 1)] * 3
    assert set(heard.threads) == {"MainThread"}


def test_without_a_loop_async_handlers_get_one():
    application, heard = Application(), Heard()

    @application.on("price:changed")
    async def handler(message):
        await asyncio.sleep(0)
        heard(message)

    application.attach(Face())
    deliver(application, "price:changed", 1)
    deliver(application, "price:changed", 2)
    assert [event.data for event in heard.all(2)] == [1, 2]


def test_events_that_come_early_wait_for_the_main_loop():
    """The handler is called once the application has begun, in the loop that it has then."""
    application, heard = Application(), Heard()
    face = Face()
    face.begun.clear()

    @application.on("price:changed")
    async def handler(message):
        heard(message)

    async def run():
        application.attach(face)
        deliver(application, "price:changed")
        assert heard.events == []
        face.loop = asyncio.get_running_loop()
        face.begun.set()
        await settled(lambda: heard.events)

    asyncio.run(run())
    assert heard.threads == ["MainThread"]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_handler_that_fails_ends_nothing(error, caplog):
    """The next ones are called, in the thread and in the loop; tracebacks are in the log."""
    application, heard = Application(), Heard()

    @application.on("price:changed")
    def plain(message):
        raise error

    @application.on("price:changed")
    async def in_the_loop(message):
        raise error

    application.on("price:changed")(heard)

    async def run():
        application.attach(Face(asyncio.get_running_loop()))
        for _ in range(2):
            deliver(application, "price:changed")
        await settled(lambda: len(heard.events) == 2 and len(asyncio.all_tasks()) == 1)

    asyncio.run(run())
    failed = [record for record in caplog.records if "a handler failed" in record.message]
    assert len(failed) == (2 if isinstance(error, asyncio.CancelledError) else 4)
    assert all(record.exc_info[1] is error for record in failed)


def test_a_handler_with_another_signature_is_said_so(caplog):
    application, heard = Application(), Heard()
    application.on("price:changed")(lambda: None)
    application.on("price:changed")(heard)
    application.attach(Face())
    deliver(application, "price:changed")
    heard.all(1)
    assert "positional argument" in caplog.text


def test_handlers_that_fall_behind_lose_events_and_say_so_once(caplog):
    """So many wait in the thread, and so many in the loop; what was lost is counted."""
    application, gate, loop_heard = Application(), threading.Event(), Heard()

    @application.on("price:changed")
    def plain(message):
        gate.wait(PATIENCE)

    @application.on("price:changed")
    async def in_the_loop(message):
        loop_heard(message)

    async def run():
        application.attach(Face(asyncio.get_running_loop()))
        for _ in range(MOST_WAITING + 50):
            deliver(application, "price:changed")
        await settled(lambda: len(loop_heard.events) == MOST_WAITING and len(asyncio.all_tasks()) == 1)
        await asyncio.sleep(0)
        deliver(application, "price:changed", "there is room again")
        await settled(lambda: len(loop_heard.events) == MOST_WAITING + 1)
        gate.set()

    asyncio.run(run())
    assert 100 <= application.lost <= 101  # the thread may have taken one out of its queue by then
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_closed_loop_takes_nothing():
    """The worker is at its end, and its heartbeat goes on until then."""
    application, loop = Application(), asyncio.new_event_loop()
    loop.close()

    @application.on("price:changed")
    async def handler(message):
        raise AssertionError

    application.attach(Face(loop))
    deliver(application, "price:changed")


@settings(deadline=None, max_examples=100)
@given(st.binary())
def test_garbage_harms_nobody(data):
    """Whatever the bytes are, whoever delivers them goes on."""
    application = Application()
    application.on("price:changed")(lambda message: None)
    application.attach(Face())
    application.deliver("price:changed", data)
