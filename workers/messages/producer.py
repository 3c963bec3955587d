"""`enqueue` and its sisters: durable messages from any process of an application, from scripts and from tests."""

import asyncio
import os
import threading
import time
from asyncio import _get_running_loop as running_loop
from collections.abc import Coroutine, Iterable, Iterator
from time import monotonic
from typing import Any, TypeVar, Unpack

import msgspec

from ...ipc.application import Application, ipc
from ...ipc.durable.model import ENDS, SCHEMA, NewMessage, Receipt, State
from ...ipc.durable.wire import FRAME_GOAL, letterbox
from ...ipc.errors import DeadlineError, NotConnected, RefusedError
from .draft import Kind, Options, draft, drafts
from .postbox import MOST_IN_PUT, Postbox, weight

PUT_LIMIT = 10.0
MOST_PIECES = 8  # at once; the others wait
SLACK = 0.5
T = TypeVar("T")


class End(msgspec.Struct, frozen=True):
    """How a message stands: `result` is what its handler returned, decoded, once it has succeeded."""

    state: State
    result: Any = None
    reason: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it has come to an end."""
        return self.state in ENDS


class Producer:
    """One per process; its connection lives where `ipc` has its own."""

    def __init__(self, application: Application) -> None:
        self._ipc = application
        self._postbox: Postbox | None = None
        self._lock = threading.Lock()

    async def put(self, messages: list[NewMessage], timeout: float) -> list[Receipt]:
        """Store them, in one transaction for each thousand at most; called in any loop."""
        postbox = self._open()
        return await self._there(postbox, _in_pieces(postbox, messages, timeout))

    async def end_of(self, id: int, within: float) -> End:
        """How this message stands when it has ended, or at the latest after `within` seconds."""
        postbox = self._open()
        ended = await self._there(postbox, postbox.end_of(id, within))
        if ended.error:
            raise RefusedError(ended.error)
        return End(State(ended.state), msgspec.json.decode(ended.result) if ended.result else None, ended.reason)

    def wait(self, coroutine: Coroutine[Any, Any, T], limit: float) -> T:
        """Its result, in a thread that may wait. Raises RuntimeError in the thread of a running loop, NotConnected."""
        if running_loop() is not None:
            coroutine.close()
            raise RuntimeError("this would block the event loop of this thread: use the awaitable form")
        try:
            loop = self._open().loop
        except NotConnected:
            coroutine.close()
            raise
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result(limit + SLACK)
        except TimeoutError:
            future.cancel()
            raise DeadlineError(f"the event loop of this process did not come to it within {limit:g} s") from None

    def _open(self) -> Postbox:
        """The connection of this process: in a forked child a new one."""
        with self._lock:
            present, path = self._postbox, self._path()
            usable = present is not None and present.pid == os.getpid() and not present.loop.is_closed()
            if present is None or not usable or present.path != path:
                present = self._postbox = Postbox(path, self._ipc.loop)
            return present

    def _path(self) -> str:
        if not self._ipc.path:
            raise NotConnected("this process is in no cluster: start it with bkd, or join one with ipc.connect()")
        return letterbox(self._ipc.path)

    async def _there(self, postbox: Postbox, coroutine: Coroutine[Any, Any, T]) -> T:
        if running_loop() is postbox.loop:
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, postbox.loop))


async def _in_pieces(postbox: Postbox, messages: list[NewMessage], timeout: float) -> list[Receipt]:
    """Runs in the postbox's loop."""
    if len(messages) == 1:
        return await postbox.put(messages, timeout)
    room, deadline = asyncio.Semaphore(MOST_PIECES), monotonic() + timeout

    async def put(piece: list[NewMessage]) -> list[Receipt]:
        async with room:
            return await postbox.put(piece, max(0.0, deadline - monotonic()))

    receipts = await asyncio.gather(*(put(piece) for piece in pieces(messages)))
    return [receipt for some in receipts for receipt in some]


def pieces(messages: list[NewMessage]) -> Iterator[list[NewMessage]]:
    """What fits into a frame and a transaction each."""
    piece: list[NewMessage] = []
    size = 0
    for message in messages:
        if piece and (len(piece) >= MOST_IN_PUT or size + weight(message) > FRAME_GOAL):
            yield piece
            piece, size = [], 0
        piece.append(message)
        size += weight(message)
    if piece:
        yield piece


producer = Producer(ipc)


async def enqueue(
    kind: Kind,
    args: Any = None,
    *,
    connection: Any = None,
    schema: str = SCHEMA,
    timeout: float = PUT_LIMIT,
    **options: Unpack[Options],
) -> Receipt:
    """Store a message; it is stored for good when this returns, and its handler will run.

    `kind`: a name, or a decorated handler; `args`: a Struct, dataclass or dict. With `connection`, an open connection
    to the PostgreSQL of the messages, it is stored in the caller's transaction: with what the caller does, or not at
    all; `schema` is that of the store, if its url names one. Other options: see `Options`. Raises RefusedError (too
    large, key conflicts), NotConnected, and DeadlineError after `timeout` seconds, when it may be stored all the same:
    a `key` makes it safe to try again.
    """
    message = draft(kind, args, _now(), options)
    if connection is not None:
        from ..store.transactional import aenqueue_in

        return _taken(await aenqueue_in(connection, message, schema=schema))
    return _taken((await producer.put([message], timeout))[0])


async def enqueue_many(
    kind: Kind, args: Iterable[Any], *, timeout: float = 60.0, **options: Unpack[Options]
) -> list[Receipt]:
    """Store a message for each of `args`, a thousand in a transaction. What is refused says so in its receipt."""
    return await producer.put(drafts(kind, args, _now(), options), timeout)


async def end_of(message: Receipt | int, within: float = PUT_LIMIT) -> End:
    """Wait until a message has ended, at most `within` seconds; see `End`."""
    return await producer.end_of(message if isinstance(message, int) else message.id, within)


def sync_enqueue(
    kind: Kind,
    args: Any = None,
    *,
    connection: Any = None,
    schema: str = SCHEMA,
    timeout: float = PUT_LIMIT,
    **options: Unpack[Options],
) -> Receipt:
    """`enqueue` for threads, WSGI applications and scripts: it waits."""
    message = draft(kind, args, _now(), options)
    if connection is not None:
        from ..store.transactional import enqueue_in

        return _taken(enqueue_in(connection, message, schema=schema))
    return _taken(producer.wait(producer.put([message], timeout), timeout)[0])


def sync_enqueue_many(
    kind: Kind, args: Iterable[Any], *, timeout: float = 60.0, **options: Unpack[Options]
) -> list[Receipt]:
    """`enqueue_many`, waiting."""
    return producer.wait(producer.put(drafts(kind, args, _now(), options), timeout), timeout)


def sync_end_of(message: Receipt | int, within: float = PUT_LIMIT) -> End:
    """`end_of`, waiting."""
    return producer.wait(end_of(message, within), within + 5.0)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _taken(receipt: Receipt) -> Receipt:
    if receipt.refused:
        raise RefusedError(receipt.refused)
    return receipt
