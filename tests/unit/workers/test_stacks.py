"""What a process says of itself while it runs: threads, tasks, open requests, memory. Real threads and loops."""

import asyncio
import contextlib
import faulthandler
import fcntl
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import uvloop

from bkd.ipc.frames import frame
from bkd.ipc.message import Dumped, body, decode, encode
from bkd.ipc.stacks import DUMP_SIGNAL, MOST_FRAMES, MOST_OPEN, MOST_TASKS, MOST_THREADS, OpenWork
from bkd.workers.footprint import RAREST, Footprint
from bkd.workers.stacks import FaultFile, frames_from, of_main_thread, take
from bkd.workers.web.protocol import LONGEST_WHAT, Http, Traffic

PATIENCE = 30.0
HERE = __file__


class Mute:
    """An object of the application that nobody is to ask anything."""

    def __repr__(self):
        raise AssertionError("its repr was asked for")

    def __getattr__(self, name):
        raise AssertionError(f"its {name} was asked for")


@contextlib.contextmanager
def threads(count, work=None, name="worker"):
    """Threads that stay in `work(gate)` while the `with` lasts."""
    gate, inside = threading.Event(), threading.Semaphore(0)

    def run():
        inside.release()
        (work or threading.Event.wait)(gate)

    running = [threading.Thread(target=run, name=name) for _ in range(count)]
    for thread in running:
        thread.start()
    try:
        for _ in running:
            assert inside.acquire(timeout=PATIENCE)
        yield running
    finally:
        gate.set()
        for thread in running:
            thread.join(PATIENCE)


def looked(loop=None):
    """What the heartbeat thread would see, looking from a thread of its own."""
    found = []
    looking = threading.Thread(target=lambda: found.append(take(loop, [])), name="bkd-pulse")
    looking.start()
    looking.join(PATIENCE)
    return found[0]


def functions(stack):
    return [frame.function for frame in stack.frames]


# -- threads


def test_the_main_thread_comes_first_and_the_one_that_looks_is_left_out():
    with threads(2) as running:
        stacks = looked()
        tids = [thread.native_id for thread in running]
    assert [thread.main for thread in stacks.threads] == [True] + [False] * (len(stacks.threads) - 1)
    assert stacks.threads[0].tid == threading.main_thread().native_id
    assert "bkd-pulse" not in [thread.name for thread in stacks.threads]
    mine = [thread for thread in stacks.threads if thread.name == "worker"]
    assert [thread.tid for thread in mine] == tids
    assert all(functions(thread)[:2] == ["wait", "wait"] and "run" in functions(thread) for thread in mine)


def test_frames_are_told_innermost_first_with_their_places():
    def inner():
        return frames_from(sys._getframe())

    def outer():
        return inner()

    line = outer.__code__.co_firstlineno + 1
    frames = outer()
    assert [frame.function for frame in frames[:2]] == ["inner", "outer"]
    assert (frames[1].file, frames[1].line, frames[1].text) == (HERE, line, "")


def test_of_a_deep_stack_the_innermost_calls_are_told():
    def sink(depth):
        return sink(depth - 1) if depth else frames_from(sys._getframe())

    assert {frame.function for frame in sink(2 * MOST_FRAMES)} == {"sink"}
    assert len(sink(2 * MOST_FRAMES)) == MOST_FRAMES
    assert frames_from(None) == []


def test_of_many_threads_the_rest_is_counted():
    with threads(MOST_THREADS + 5):
        stacks = looked()
    assert len(stacks.threads) == MOST_THREADS
    assert stacks.threads_left_out >= 5 + 1
    assert stacks.threads[0].main


def test_a_thread_of_another_kind_has_no_name():
    """One that `threading` did not start."""
    import _thread

    gate, inside = _thread.allocate_lock(), threading.Event()
    gate.acquire()

    def hold_the_gate():
        inside.set()
        gate.acquire()

    _thread.start_new_thread(hold_the_gate, ())
    assert inside.wait(PATIENCE)
    try:
        assert [(thread.name, thread.tid) for thread in looked().threads if "hold_the_gate" in functions(thread)] == [
            ("", 0)
        ]
    finally:
        gate.release()


def test_the_main_thread_alone_is_cheap_to_look_at():
    assert of_main_thread()[0].function == "of_main_thread"
    assert of_main_thread()[1].function == "test_the_main_thread_alone_is_cheap_to_look_at"


# -- tasks


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request):
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


async def seen(awaitable, name="it"):
    """How this is told of when it waits."""
    task = asyncio.ensure_future(awaitable)
    task.set_name(name)
    for _turn in range(3):
        await asyncio.sleep(0)
    stacks = take(asyncio.get_running_loop(), [])
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return next(stack for stack in stacks.tasks if stack.name == name)


async def on(awaitable):
    return await awaitable


async def nothing():
    await asyncio.get_running_loop().create_future()


async def two_locks(lock):
    async with lock, lock:
        pass


async def gathered():
    await asyncio.gather(nothing(), nothing(), nothing())


async def in_a_thread():
    gate = threading.Event()
    try:
        await asyncio.get_running_loop().run_in_executor(None, gate.wait)
    finally:
        gate.set()


async def reading():
    await asyncio.StreamReader().readline()


@pytest.mark.parametrize(
    ("make", "waits"),
    [
        (lambda: on(asyncio.Event().wait()), "Event.wait"),
        (lambda: on(asyncio.sleep(60)), "sleep"),
        (lambda: on(asyncio.Queue().get()), "Queue.get"),
        (lambda: two_locks(asyncio.Lock()), "Lock.acquire"),
        (lambda: on(asyncio.Semaphore(0).acquire()), "Semaphore.acquire"),
        (lambda: on(asyncio.wait([asyncio.ensure_future(nothing())])), "wait"),
        (reading, "StreamReader.readline"),
        (gathered, "gather of 3"),
        (lambda: on(asyncio.create_task(nothing(), name="the other")), 'task "the other"'),
        (in_a_thread, "a thread or process of an executor"),
        (nothing, "Future"),
    ],
)
def test_a_task_is_told_with_what_it_waits_for(runner, make, waits):
    async def main():
        return await seen(make())

    assert runner.run(main()).waits == waits


def test_the_chain_leads_through_everything_that_awaits(runner):
    class Awaitable:
        def __await__(self):
            return (yield from nothing().__await__())

    async def generator():
        await Awaitable()
        yield 1

    @contextlib.asynccontextmanager
    async def context():
        async for _ in generator():
            yield

    async def handler():
        async with context():
            pass

    async def main():
        return await seen(on(handler()))

    stack = runner.run(main())
    assert [name for name in functions(stack) if name != "__aenter__"] == [
        "nothing",
        "__await__",
        "generator",
        "context",
        "handler",
        "on",
    ]
    assert stack.frames[0].line == nothing.__code__.co_firstlineno + 1


def test_a_task_that_runs_or_has_its_turn_waits_for_nothing_else(runner):
    """Of many that wait it is told first."""

    async def main():
        event = asyncio.Event()
        woken = asyncio.create_task(event.wait(), name="woken")
        await asyncio.sleep(0)
        event.set()
        begun = asyncio.create_task(nothing(), name="begun")
        stacks = take(asyncio.get_running_loop(), [])
        begun.cancel()
        await woken
        return stacks.tasks

    tasks = runner.run(main())
    assert functions(tasks[0]) == ["main"]
    assert {task.name: task.waits for task in tasks[1:]} == {"woken": "its turn", "begun": "its turn"}
    assert tasks[0].waits == ""


def test_of_many_tasks_the_rest_is_counted_and_the_oldest_are_told(runner):
    async def main():
        tasks = [asyncio.create_task(nothing(), name=f"Task-{9000 + number}") for number in range(MOST_TASKS + 20)]
        await asyncio.sleep(0)
        stacks = take(asyncio.get_running_loop(), [])
        for task in tasks:
            task.cancel()
        return stacks

    stacks = runner.run(main())
    assert (len(stacks.tasks), stacks.tasks_left_out) == (MOST_TASKS, 21)
    assert [task.name for task in stacks.tasks[1:]] == [f"Task-{9000 + number}" for number in range(MOST_TASKS - 1)]


def test_objects_of_the_application_are_asked_nothing(runner):
    class Strange(asyncio.Future):
        done = __repr__ = Mute.__repr__

    async def handler(_first):
        await Strange(loop=asyncio.get_running_loop())

    async def main():
        return await seen(handler(Mute()))

    assert runner.run(main()).waits == "Strange"


def test_whatever_is_told_fits_a_message(runner):
    """Names that are no text, names without end, more than a message holds."""
    names = {}
    exec(compile("async def f(a):\n await a", "/x" * 2000 + "\udcff", "exec"), names)

    async def main():
        tasks = []
        for number in range(MOST_TASKS):
            chain = nothing()
            for _depth in range(2 * MOST_FRAMES):
                chain = names["f"](chain)
            tasks.append(asyncio.create_task(chain, name=f"{number}\udcff" * 2000))
        await asyncio.sleep(0)
        stacks = take(asyncio.get_running_loop(), [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return stacks

    stacks = runner.run(main())
    payload = encode(Dumped(1, stacks))
    assert frame(payload)
    assert body(decode(payload), Dumped).stacks == stacks
    assert len(stacks.tasks) + stacks.tasks_left_out == MOST_TASKS + 1
    assert stacks.tasks_left_out > 0


def test_it_can_be_looked_at_while_everything_changes(runner):
    """Tasks and threads come and go in the main thread; the look is taken from another, as the heartbeat's is."""
    over, answers = threading.Event(), []

    def look(loop):
        answers.extend(take(loop, []) for _ in range(50))
        over.set()

    async def main():
        loop = asyncio.get_running_loop()
        looking = threading.Thread(target=look, args=(loop,))
        looking.start()
        while not over.is_set():
            await asyncio.gather(*(on(asyncio.sleep(0)) for _ in range(20)))
        looking.join(PATIENCE)

    runner.run(main())
    assert len(answers) == 50
    assert all(stacks.threads[0].main for stacks in answers)


def test_without_a_loop_there_are_no_tasks():
    assert looked().tasks == []


# -- the file


@pytest.fixture
def calm(request, capfd):
    """faulthandler as it is in a fresh interpreter, and afterwards as the test runner wants it."""
    plugin = request.config.pluginmanager.get_plugin("faulthandler")
    if plugin is not None:
        plugin.pytest_unconfigure(request.config)
    faulthandler.disable()
    yield
    faulthandler.unregister(DUMP_SIGNAL)
    faulthandler.disable()
    if plugin is not None:
        with capfd.disabled():
            plugin.pytest_configure(request.config)


def test_the_signal_writes_all_stacks_into_the_file(calm):
    """At its end: whoever empties it does not leave a hole before what comes."""
    file = FaultFile()
    with threads(1):
        signal.raise_signal(DUMP_SIGNAL)
        first = os.pread(file.descriptor, 1 << 20, 0).decode()
        os.ftruncate(file.descriptor, 0)
        signal.raise_signal(DUMP_SIGNAL)
    again = os.pread(file.descriptor, 1 << 20, 0).decode()
    for text in (first, again):
        assert text.startswith(("Thread 0x", "Current thread 0x"))
        assert "test_the_signal_writes_all_stacks" in text
        assert f'File "{threading.__file__}"' in text
    assert os.readlink(f"/proc/self/fd/{file.descriptor}").startswith("/memfd:bkd-stacks")
    assert fcntl.fcntl(file.descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(file.descriptor)


def test_a_forked_process_has_a_file_of_its_own(calm):
    old = FaultFile()
    held = os.dup(old.descriptor)
    new = old.anew()
    signal.raise_signal(DUMP_SIGNAL)
    assert (os.fstat(held).st_size, os.fstat(new.descriptor).st_size > 0) == (0, True)
    assert faulthandler.is_enabled()
    os.close(held)
    os.close(new.descriptor)


def test_what_the_application_has_enabled_stays_in_force(calm, tmp_path):
    """Before or after; and what it has disabled is enabled, for it may have meant another file."""
    with (tmp_path / "its.log").open("w") as log:
        faulthandler.enable(log)
        before = FaultFile()
        assert before._fatal is None
        faulthandler.disable()
        ours = before.anew()
        assert ours._fatal() is not None
        faulthandler.enable(log)
        assert ours._fatal() is None
        after = ours.anew()
        assert after._fatal is None
        assert faulthandler.is_enabled()
        faulthandler.disable()
    os.close(after.descriptor)


# -- open requests, memory


def traffic(*requests):
    """What the web server holds: age, method and path of each request."""
    traffic = Traffic([], lambda: None)
    now = time.monotonic()
    for number, (age, method, path) in enumerate(requests):
        scope = {"type": "http", "method": method, "path": path}
        cycle = SimpleNamespace(scope=scope, response_started=True)
        traffic.requests[number] = SimpleNamespace(touched=now - age, cycle=cycle)
    return traffic


def test_open_requests_are_named_without_their_query():
    """The oldest first, streams and websockets as well; idle connections are no work."""
    open_now = traffic((2, "GET", "/a?token=1"), (9, "POST", "/" + "b" * 900), (5, "GET", Mute()))
    open_now.connections.update({Http.__new__(Http)})
    websocket = SimpleNamespace(touched=time.monotonic() - 7, scope={"type": "websocket", "path": "/ws"})
    handshake = object()
    open_now.connections = [*open_now.connections, websocket, handshake]
    work = open_now.open_work()
    assert [each.what for each in work] == [("POST /" + "b" * 900)[:LONGEST_WHAT], "websocket /ws", "GET", "GET /a", ""]
    assert [round(each.age) for each in work] == [9, 7, 5, 2, 0]


def test_of_many_open_requests_the_oldest_are_named():
    many = traffic(*((age, "GET", f"/{age}") for age in range(2 * MOST_OPEN)))
    assert [each.what for each in many.open_work()] == [
        f"GET /{age}" for age in range(2 * MOST_OPEN - 1, MOST_OPEN - 1, -1)
    ]


def test_open_work_comes_with_the_stacks():
    assert take(None, [OpenWork("GET /", 1.0)]).work == [OpenWork("GET /", 1.0)]


def test_memory_is_measured_twice_and_then_rarely():
    footprint = Footprint()
    assert footprint.pss == 0
    footprint.measure(10.0)
    footprint.measure(100.0)
    first = footprint.pss
    assert 1 << 20 < first < 1 << 40
    held = bytearray(os.urandom(1 << 20)) * 64
    footprint.measure(100.0 + RAREST - 0.1)
    assert footprint.pss == first
    footprint.measure(1e9)
    assert footprint.pss > first + len(held) // 2
