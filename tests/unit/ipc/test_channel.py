"""The application's connection, with a real socket and somebody who answers at its other end."""

import asyncio
import contextlib
import itertools
import logging
import os
import subprocess
import sys
import threading

import msgspec
import pytest
import uvloop

from bkd.ipc import (
    Application,
    AwayError,
    ClosedError,
    DeadlineError,
    Event,
    NotConnected,
    Reached,
    RefusedError,
    RemoteError,
)
from bkd.ipc.blocking import Blocking
from bkd.ipc.channel import UNSENT
from bkd.ipc.errors import FrameError
from bkd.ipc.frames import LIMIT, frame
from bkd.ipc.parcel import Parcel

from .standin import PATIENCE, Standin

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Face:
    """A worker's runtime that has begun."""

    slot = "web.2"

    def __init__(self, path, loop=None):
        self.path, self.loop, self.begun, self.has_joined = path, loop, threading.Event(), threading.Event()
        self.begun.set()

    def ready(self):
        pass

    def joined(self):
        self.has_joined.set()


@pytest.fixture
def standin(tmp_path):
    with contextlib.closing(Standin(tmp_path)) as standin:
        yield standin


@pytest.fixture(params=LOOPS)
def run(request):
    """Runs a coroutine in a main loop of that kind."""

    def run(main):
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(main, PATIENCE))

    return run


def worker(path):
    """An application in a worker whose main loop is this one."""
    application = Application()
    application.attach(Face(path, asyncio.get_running_loop()))
    return application


async def settled(condition):
    """Let the loop turn until that is so."""
    while not condition():
        await asyncio.sleep(0)


def test_a_call_has_one_answer(standin, run):
    """Nothing is opened before the first; many at once find each its own, more than may wait at the master as well."""

    async def main():
        application = worker(standin.path)
        assert standin.hellos == []
        assert await application.call("server", "echo", {"sku": 7}, timeout=30) == {"sku": 7}
        assert await application.call("web", "echo") is None
        numbers = list(range(3000))
        assert await asyncio.gather(*(application.call("web", "echo", number) for number in numbers)) == numbers

    run(main())
    assert [(hello.role, hello.pid) for hello in standin.hellos] == [("application", os.getpid())]
    assert standin.heard[0] == Parcel("echo", {"sku": 7}, id=1, to="server", within=standin.heard[0].within)
    assert 20 < standin.heard[0].within <= 30


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("timeout", DeadlineError),
        ("closed", ClosedError),
        ("refused", RefusedError),
        ("failed", RemoteError),
        ("away", AwayError),
        ("of the future", RemoteError),
    ],
)
def test_errors_are_of_the_kind_they_are_said_to_be(standin, run, kind, error):
    standin.answer = lambda standin, parcel: standin.tell(
        Parcel("error", {"error": kind, "reason": "for a reason"}, re=parcel.id)
    )

    async def main():
        with pytest.raises(error, match="for a reason"):
            await worker(standin.path).call("web", "price:ask")

    run(main())


def test_deadlines_are_kept_whatever_their_order(standin, run):
    """The shortest comes first; what is answered in time is; an answer that comes too late harms nobody."""

    async def main():
        application, ended = worker(standin.path), []

        async def ask(timeout):
            with pytest.raises(DeadlineError, match=r"web did not answer never within 0\.\d+ s"):
                await application.call("web", "never", timeout=timeout)
            ended.append(timeout)

        await application.call("server", "echo")
        await asyncio.gather(ask(0.2), ask(0.05), ask(0.1))
        assert ended == [0.05, 0.1, 0.2]
        standin.tell(Parcel("reply", 1, re=2))
        standin.tell(Parcel("error", 1, re=999))
        assert await application.call("server", "echo", 1) == 1

    run(main())


@pytest.mark.parametrize("timeout", [0, -1.0, 301, float("nan"), float("inf")])
def test_no_call_takes_for_ever(standin, run, timeout):
    async def main():
        with pytest.raises(ValueError, match="between 0 and 300 seconds"):
            await worker(standin.path).call("web", "price:ask", timeout=timeout)

    run(main())


def test_what_cannot_be_sent_costs_nothing_else(standin, run):
    async def main():
        application = worker(standin.path)
        with pytest.raises(TypeError):
            await application.call("web", "price:ask", object())
        with pytest.raises(FrameError):
            await application.send("web", "price:ask", "x" * LIMIT)
        assert await application.call("server", "echo", "x" * (LIMIT - 100)) == "x" * (LIMIT - 100)

    run(main())


def test_a_cancelled_call_is_forgotten(standin, run):
    async def main():
        application = worker(standin.path)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await application.call("web", "never")
        assert await application.call("server", "echo", 1) == 1

    run(main())


def test_events_are_sent_in_order(standin, run):
    """As many as there are, and a call after them."""

    async def main():
        application = worker(standin.path)
        for number in range(5000):
            await application.send("web.2", "price:changed", number)
        await application.call("server", "echo")

    run(main())
    assert [parcel.data for parcel in standin.heard] == [*range(5000), None]
    assert standin.heard[0] == Parcel("price:changed", 0, to="web.2")


def test_a_sender_waits_while_too_much_is_unsent(standin, run):
    """The other end does not read until it is told to."""
    gate = threading.Event()
    standin.answer = lambda standin, parcel: gate.wait(PATIENCE)

    async def main():
        application, sent = worker(standin.path), itertools.count()

        async def flood():
            for _ in range(2 * UNSENT // (1 << 16)):
                await application.send("web", "price:changed", "x" * (1 << 16))
                next(sent)

        task = asyncio.create_task(flood())
        channel = await opened(application)
        await settled(lambda: not channel.has_room)
        assert (1 << 16) * next(sent) < UNSENT + (1 << 20)
        with pytest.raises(DeadlineError, match="no room"):
            await application.call("server", "echo", timeout=0.05)
        gate.set()
        await task

    run(main())


async def opened(application):
    await settled(lambda: application._home.channel and application._home.channel.is_open)
    return application._home.channel


def test_a_broadcast_tells_whom_it_reached_or_what_they_said(standin, run):
    def answer(standin, parcel):
        data = {"web.1@h1": {"value": 3}} if parcel.within else {"hosts": 1, "workers": 2}
        standin.tell(Parcel("reply", data, re=parcel.id))

    standin.answer = answer

    async def main():
        application = worker(standin.path)
        assert await application.broadcast(":web", "price:changed", 1) == Reached(1, 2)
        for timeout in (0.5, 300):
            answers = await application.broadcast(":web", "price:ask", timeout=timeout)
            assert answers == {"web.1@h1": {"value": 3}}

    run(main())


def test_handlers_answer_calls(standin, run):
    """Async and plain ones; the first of several; with what they raise, and what cannot be sent."""

    async def main():
        application = worker(standin.path)
        application.on("async")(double)
        application.on("plain")(lambda event: event.data * 2)
        application.on("plain")(lambda event: "not the first")
        application.on("disguised")(lambda event: double(event))
        application.on("raises")(lambda event: event.data["none"])
        application.on("strange")(lambda event: object())
        await opened(application)
        asked = ["async", "plain", "disguised", "raises", "strange", "nobody:listens"]
        for number, op in enumerate(asked, 1):
            standin.tell(Parcel(op, 21, id=number, by="web.1@h1"))
        await settled(lambda: len(standin.heard) == len(asked))

    async def double(event):
        assert event.by == "web.1@h1"
        await asyncio.sleep(0)
        return event.data * 2

    run(main())
    answers = {parcel.re: parcel for parcel in standin.heard}
    assert [answers[number] for number in (1, 2, 3)] == [Parcel("reply", 42, re=number) for number in (1, 2, 3)]
    assert answers[4].data == {"error": "failed", "reason": "TypeError: 'int' object is not subscriptable"}
    assert answers[5].data["error"] == "failed"
    assert answers[6].data == {"error": "refused", "reason": "web.2 has no handler for nobody:listens"}


class SilentError(Exception):
    def __str__(self):
        raise LookupError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SilentError(), "SilentError: its text cannot be had: LookupError"),
        (ValueError("\udcff.txt"), r"ValueError: \udcff.txt"),
    ],
)
def test_whatever_a_handler_raises_is_told(standin, run, error, reason, monkeypatch):
    """And the next handlers are called. The log is not kept: what runs tests in processes cannot pass such texts on."""
    monkeypatch.setattr(logging.getLogger("bkd"), "disabled", True)

    def plain(event):
        raise error

    async def asynchronous(event):
        raise error

    async def main():
        application = worker(standin.path)
        application.on("price:plain")(plain)
        application.on("price:async")(asynchronous)
        await opened(application)
        for number, op in enumerate(["price:plain", "price:async", "price:plain"], 1):
            standin.tell(Parcel(op, id=number))
        await settled(lambda: len(standin.heard) == 3)

    run(main())
    told = {"error": "failed", "reason": reason}
    assert {parcel.re: parcel.data for parcel in standin.heard} == {1: told, 2: told, 3: told}


def test_who_registers_joins(standin, run):
    """At the beginning, or later; the worker's runtime is told."""

    async def main():
        application = Application()
        heard = []
        application.on("price:changed")(heard.append)
        face = Face(standin.path, asyncio.get_running_loop())
        application.attach(face)
        assert not application.is_joined
        application.begin()
        await settled(lambda: face.has_joined.is_set() and application.is_joined)
        standin.tell(Parcel("price:changed", 1, by="web.1@h1"))
        await settled(lambda: heard == [Event("price:changed", 1, "web.1@h1")])

    run(main())


def test_who_does_not_is_left_alone(standin, run):
    async def main():
        application = worker(standin.path)
        application.begin()
        assert application.is_joined
        await asyncio.sleep(0)

    run(main())
    assert standin.hellos == []


def test_data_that_nobody_can_read_cost_that_message_alone(standin, run, caplog):
    bad = b"\x81\x80\xc0"  # a map as a key

    async def main():
        application, heard = worker(standin.path), []
        application.on("price:changed")(heard.append)
        standin.answer = lambda standin, parcel: (
            standin.tell_bytes(raw("reply", bad, re=parcel.id)) if parcel.op == "ask" else None
        )
        await opened(application)
        standin.tell_bytes(raw("price:changed", bad))
        standin.tell_bytes(raw("price:changed", bad, id=5))
        standin.tell_bytes(raw("price:changed", b"\xa1\xff"))
        with pytest.raises(RemoteError, match="cannot be read"):
            await application.call("web", "ask")
        standin.tell(Parcel("price:changed", 1))
        await settled(lambda: len(heard) == 1)

    run(main())
    assert [parcel.data["error"] for parcel in standin.heard if parcel.re == 5] == ["refused"]
    assert (
        len([record for record in caplog.records if "price:changed: the event cannot be read" in record.message]) == 2
    )


def raw(op, data, **fields):
    return frame(msgspec.msgpack.encode({"op": op, "data": msgspec.Raw(data), **fields}))


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", frame(b"\xc1"), frame(b"\x81\xa2op\xa1\xff"), frame(b"")])
def test_garbage_ends_the_connection_and_the_next_one_is_there(standin, run, garbage):
    async def main():
        application = worker(standin.path)
        await application.call("server", "echo")
        waiting = asyncio.ensure_future(application.call("web", "never"))
        await settled(lambda: len(standin.heard) == 2)
        standin.tell_bytes(garbage)
        with pytest.raises(NotConnected):
            await waiting
        assert await application.call("server", "echo", 1) == 1

    run(main())
    assert len(standin.hellos) == 2


def test_the_master_dies_and_another_one_comes(standin, run):
    """Who waits is told at once; who asks meanwhile waits for the next; answers for the dead one are dropped."""

    async def main():
        application, gate = worker(standin.path), asyncio.Event()

        @application.on("price:ask")
        async def handler(event):
            await gate.wait()

        await opened(application)
        standin.tell(Parcel("price:ask", id=1))
        waiting = asyncio.ensure_future(application.call("web", "never"))
        await settled(lambda: standin.heard)
        standin.cut()
        with pytest.raises(NotConnected, match="the master went"):
            await waiting
        assert await application.call("server", "echo", 1) == 1
        gate.set()
        assert await application.call("server", "echo", 2) == 2

    run(main())
    assert [parcel.op for parcel in standin.heard] == ["never", "echo", "echo"]


def test_no_cluster_any_more_is_said_at_once_and_the_next_one_found(standin, run):
    async def main():
        application = worker(standin.path)
        await application.call("server", "echo")
        standin.vanish()
        text = ""
        while "No such file" not in text:
            with pytest.raises(NotConnected) as caught:
                await application.call("server", "echo")
            text = str(caught.value)
        standin.come_back()
        with contextlib.suppress(NotConnected):
            await application.send("web", "price:changed")
        await opened(application)
        assert await application.call("server", "echo", 1) == 1

    run(main())


def test_a_master_that_says_nothing_is_none(tmp_path, run):
    async def main():
        with pytest.raises(NotConnected, match=r"not even after 0\.1 s"):
            await worker(silent.path).call("server", "echo", timeout=0.1)

    with contextlib.closing(Standin(tmp_path, silent=True)) as silent:
        run(main())


def test_data_of_any_depth_leave_the_connection_as_it_is(standin, run):
    """Also where the master has passed on what is too deep for this process."""

    async def main():
        application = worker(standin.path)
        application.lru("prices", 10, 0)
        await opened(application)
        head = b"\x82\xa2op\xabipc:lru:del\xa4data\x82\xa5cache\xa6prices\xa4keys"
        for depth in range(900, 1100, 3):
            standin.tell_bytes(frame(head + b"\x91" * depth + b"\x01"))
        assert await application.call("server", "echo", 1) == 1

    run(main())
    assert len(standin.hellos) == 1


def test_a_refusal_is_raised_and_logged_once(tmp_path, run, caplog):
    async def main():
        application = worker(refusing.path)
        for _ in range(2):
            with pytest.raises(RefusedError, match="not this one"):
                await application.call("server", "echo")

    with contextlib.closing(Standin(tmp_path, refusal="not this one")) as refusing:
        run(main())
    assert len(caplog.records) == 1


def test_other_loops_use_the_connection_of_the_main_loop(standin):
    """A loop in a thread, and threads without one."""

    async def main():
        application = worker(standin.path)
        in_a_loop = await asyncio.to_thread(asyncio.run, application.call("server", "echo", 1))
        in_a_thread = await asyncio.to_thread(Blocking(application).call, "server", "echo", 2)
        return in_a_loop, in_a_thread

    assert asyncio.run(main()) == (1, 2)
    assert len(standin.hellos) == 1


def test_blocking_calls_are_refused_where_they_would_block(standin):
    async def main():
        with pytest.raises(RuntimeError, match="use ipc, with await"):
            Blocking(worker(standin.path)).call("server", "echo")

    asyncio.run(main())


def test_a_main_loop_that_stands_still_is_no_endless_wait(standin):
    """The thread gives up at its deadline."""

    async def main():
        application = worker(standin.path)
        await application.call("server", "echo")
        thread = threading.Thread(target=ask, args=[Blocking(application)])
        thread.start()
        thread.join(PATIENCE)

    def ask(blocking):
        with pytest.raises(DeadlineError, match="event loop of this process"):
            blocking.call("server", "echo", timeout=0.05)
        ended.append(True)

    ended = []
    asyncio.run(main())
    assert ended


@pytest.fixture
def scripted(standin):
    """An application without a main loop that has joined."""
    application = Application()
    application.connect(standin.path)
    yield application
    application.disconnect()


def test_without_a_main_loop_there_is_a_thread(scripted, standin):
    """Calls, events for plain and async handlers, and calls from handlers."""
    blocking, heard = Blocking(scripted), threading.Event()

    @blocking.on("price:changed")
    async def handler(event):
        assert await scripted.call("server", "echo", event.data) == event.data
        assert threading.current_thread().name == "bkd-events"
        heard.set()

    assert blocking.call("server", "echo", 1) == 1
    blocking.send("web", "price:changed", 2)
    standin.until(lambda: [parcel.data for parcel in standin.heard] == [1, 2])
    standin.tell(Parcel("price:changed", 3))
    assert heard.wait(PATIENCE)
    with pytest.raises(DeadlineError):
        blocking.call("web", "never", timeout=0.05)
    with pytest.raises(NotConnected, match="no worker"):
        _ = blocking.slot


def test_a_loop_of_ones_own_is_as_good_as_a_main_loop(scripted):
    """One after the other, in the main thread; each has a connection as long as it runs."""

    async def main():
        assert await scripted.call("server", "echo", 1) == 1
        assert scripted.loop is asyncio.get_running_loop()

    for factory in LOOPS.values():
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
    assert Blocking(scripted).call("server", "echo", 2) == 2


def test_who_has_left_is_outside(standin):
    application = Application()
    application.connect(standin.path)
    application.disconnect()
    with pytest.raises(NotConnected, match="in no cluster"):
        asyncio.run(application.send("web", "price:changed"))
    with pytest.raises(NotConnected, match="in no cluster"):
        Blocking(application).call("web", "price:ask")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_forked_child_has_a_connection_of_its_own(standin, loop):
    """What the parent's loop and threads held is not touched, and the child does not keep it open."""
    program = [sys.executable, "-c", FORKS, standin.path, loop]
    ran = subprocess.run(program, capture_output=True, timeout=30, check=False)
    assert (ran.stdout, ran.stderr, ran.returncode) == (b"1\n2\n3\n", b"", 0)
    assert len({hello.pid for hello in standin.hellos}) == 2


FORKS = """
import asyncio, os, sys, uvloop
from bkd.ipc import ipc, sync_ipc
os.environ["BKD_SOCKET"] = sys.argv[1]
loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
async def main():
    print(await ipc.call("server", "echo", 1), flush=True)
    connection = ipc._home.channel._sock.fileno()
    assert os.readlink(f"/proc/self/fd/{connection}").startswith("socket:")
    child = os.fork()
    if child == 0:
        assert os.readlink(f"/proc/self/fd/{connection}") == "/dev/null"
        asyncio._set_running_loop(None)
        print(sync_ipc.call("server", "echo", 2), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(await ipc.call("server", "echo", 3), flush=True)
asyncio.Runner(loop_factory=loops[sys.argv[2]]).run(main())
"""


def test_a_forked_child_holds_nothing_that_was_its_parents(standin):
    """No lock, whoever held it, no limit; what was cached may be out of date, and what it deletes is told."""
    program = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        INHERITS,
        standin.path,
    ]  # it forks with threads
    ran = subprocess.run(program, capture_output=True, timeout=30, check=False)
    assert (ran.stdout, ran.stderr, ran.returncode) == (b"0\n0.0\nlocked\n", b"", 0)
    assert [parcel.data for parcel in standin.heard] == [{"cache": "prices", "keys": ["b"]}, None]


INHERITS = """
import os, sys, threading
from bkd.ipc import ipc, sync_ipc
os.environ["BKD_SOCKET"] = sys.argv[1]
prices = ipc.lru("prices", 10, 0)
prices["a"] = 1
sync_ipc.limiter("login", 1, 60, scope="process")
sync_ipc.lock("report", scope="process").__enter__()
held, over = threading.Event(), threading.Event()
def hold():
    with prices._lock, ipc._caches._lock:
        held.set()
        over.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    print(len(prices), flush=True)
    print(sync_ipc.limiter("login", 1, 60, scope="process"), flush=True)
    with sync_ipc.lock("report", scope="process"):
        print("locked", flush=True)
    prices.delete("b")
    sync_ipc.call("server", "echo")
    os._exit(0)
over.set()
os.waitpid(child, 0)
"""


def test_emit_is_for_this_process(run):
    """In a cluster or not; async handlers in the loop of whoever calls, where there is no other."""

    async def main():
        application, heard = Application(), []

        @application.on("price:changed")
        async def handler(event):
            heard.append((event, asyncio.get_running_loop()))

        application.emit("price:changed", 1)
        await settled(lambda: heard)
        assert heard == [(Event("price:changed", 1, f"process {os.getpid()}"), asyncio.get_running_loop())]

    run(main())
