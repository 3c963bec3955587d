"""Real peers of a dispatcher over a real socket, without the processes they are otherwise in."""

import asyncio
import functools
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from bkd.ipc.durable.model import ENDS, NewMessage, Outcome, Receipt, Result, Task
from bkd.ipc.durable.policy import Exponential, KindPolicy
from bkd.ipc.durable.wire import (
    AnyFrame,
    Began,
    Cancel,
    Enlist,
    Enlisted,
    Frame,
    Greet,
    Held,
    Outcomes,
    Put,
    PutDone,
    Run,
    Stored,
    packed,
    unpacked,
)
from bkd.ipc.frames import FrameReader
from bkd.ipc.processes import start_time
from bkd.workers.dispatch.dispatcher import Dispatcher
from bkd.workers.dispatch.door import bound
from bkd.workers.store.protocol import Store, Story

LIMIT = 30.0
LOOK = 0.005
AT_ONCE = Exponential(first=0.01, cap=0.02, jitter=0.0)
CLIENTS: ContextVar[list["Client"]] = ContextVar("clients")
CHILD = Path(__file__).with_name("executor_child.py")


def looped(test):
    """Decorator: run the coroutine in a loop of its own; clients made in it are closed at its end."""

    @functools.wraps(test)
    def run(**named):
        asyncio.run(_with_clients(test(**named)))

    return run


async def _with_clients(work):
    clients: list[Client] = []
    CLIENTS.set(clients)
    try:
        await work
    finally:
        for client in clients:
            await client.close()


@asynccontextmanager
async def dispatching(store: Store, path: Path, name: str = "h1") -> AsyncIterator[Dispatcher]:
    """A dispatcher at work in this loop."""
    dispatcher = Dispatcher(store, name)
    await dispatcher.open(5.0)
    await dispatcher.serve([bound(path)])
    try:
        yield dispatcher
    finally:
        await dispatcher.close()
        dispatcher.tasks.check()


class Client:
    """Any peer: says frames, and keeps what it hears by type."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard: list[AnyFrame] = []
        self._reader, self._writer = reader, writer
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._listen())
        self.closed = False
        CLIENTS.get().append(self)

    @classmethod
    async def connect(cls, path: Path, *arguments, **options):
        return cls(*(await asyncio.open_unix_connection(str(path))), *arguments, **options)

    def say(self, what: Frame) -> None:
        self._writer.write(packed(what))

    def of(self, kind: type) -> list:
        return [frame for frame in self.heard if isinstance(frame, kind)]

    async def until(self, condition: Callable[[], object], limit: float = LIMIT):
        """The same for what this peer hears: nothing else makes it look again."""
        async with asyncio.timeout(limit):
            while not (found := condition()):
                self._changed.clear()
                await self._changed.wait()
            return found

    async def close(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _listen(self) -> None:
        frames = FrameReader()
        with suppress(OSError):
            while data := await self._reader.read(1 << 18):
                for payload in frames.feed(data):
                    frame = unpacked(payload)
                    self.heard.append(frame)
                    self.hear(frame)
                self._changed.set()
        self.closed = True
        self._changed.set()

    def hear(self, frame: AnyFrame) -> None:
        """For subclasses."""


class Producer(Client):
    """Enqueues."""

    def __init__(self, *streams) -> None:
        super().__init__(*streams)
        self._number = 0
        self.say(Greet("producer"))

    async def put(self, *messages: NewMessage) -> list[Receipt]:
        done = await self.put_done(*messages)
        assert done.error == "", done.error
        return done.receipts

    async def put_done(self, *messages: NewMessage) -> PutDone:
        number = self.begin_put(*messages)
        return await self.until(lambda: next((done for done in self.of(PutDone) if done.number == number), None))

    def begin_put(self, *messages: NewMessage) -> int:
        self._number += 1
        self.say(Put(self._number, list(messages)))
        return self._number


class Executor(Client):
    """Runs what it gets by `handle`, at once; None: it goes on until `end`."""

    def __init__(
        self,
        *streams,
        kinds: list[KindPolicy] | None = None,
        handle: Callable[[Task], Outcome | None] | None = None,
        credit: int = 10,
        slot: str = "jobs.1",
        mode: str = "shared",
        holds: list[Held] | None = None,
    ) -> None:
        super().__init__(*streams)
        self.tasks: dict[int, list[Task]] = defaultdict(list)
        self.ran = 0
        self._handle = handle or ok
        self._number = 0
        pid = os.getpid()
        kinds = kinds if kinds is not None else [KindPolicy("a", schedule=AT_ONCE)]
        self.say(Enlist(slot, "jobs", pid, start_time(pid), mode, credit, kinds, holds or []))

    def hear(self, frame: AnyFrame) -> None:
        if not isinstance(frame, Run):
            return
        self.say(Began([Held(task.id, task.fence) for task in frame.tasks]))
        outcomes = []
        for task in frame.tasks:
            self.tasks[task.id].append(task)
            self.ran += 1
            if (outcome := self._handle(task)) is not None:
                outcomes.append(outcome)
        if outcomes:
            self.end(*outcomes)

    def end(self, *outcomes: Outcome) -> int:
        self._number += 1
        self.say(Outcomes(self._number, list(outcomes)))
        return self._number

    async def enlisted(self) -> Enlisted:
        return (await self.until(lambda: self.of(Enlisted)))[0]

    async def stored(self, number: int) -> Stored:
        return await self.until(lambda: next((one for one in self.of(Stored) if one.number == number), None))

    async def cancelled(self) -> Cancel:
        return (await self.until(lambda: self.of(Cancel)))[0]


async def ended(dispatcher: Dispatcher, id: int) -> Story:
    """The message's story once it has come to an end."""
    async with asyncio.timeout(LIMIT):
        while True:
            found = await dispatcher.run(lambda store, _now: story(store, id))
            if found.row.state in ENDS:
                return found
            await asyncio.sleep(LOOK)


async def eventually(condition: Callable[[], object], limit: float = LIMIT):
    """What the condition gives as soon as it is true, whoever changes it."""
    async with asyncio.timeout(limit):
        while not (found := condition()):
            await asyncio.sleep(LOOK)
        return found


def story(store: Store, id: int) -> Story:
    """Of a message that is there."""
    found = store.story(id)
    assert found is not None
    return found


def ok(task: Task) -> Outcome:
    """It has been done."""
    now = now_ms()
    return Outcome(task.id, task.fence, Result.OK, task.stage, now, now, b"null")


def outcome(task: Task, result: Result, **more) -> Outcome:
    """Any other end."""
    return Outcome(task.id, task.fence, result, task.stage, now_ms(), now_ms(), **more)


def never(_task: Task) -> None:
    """It goes on and on."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def child_executor(path: Path, slot: str = "jobs.1", **options: str) -> asyncio.subprocess.Process:
    """An executor in a process of its own; it says on standard output what it runs."""
    arguments = [f"{name}={value}" for name, value in options.items()]
    return await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), str(path), slot, *arguments, stdout=asyncio.subprocess.PIPE
    )
