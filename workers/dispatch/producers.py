"""Whoever enqueues, or waits for the end of a message, as a peer of the dispatcher."""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from ...ipc.durable.guid import new_guid
from ...ipc.durable.model import ENDS, MOST_ARGS, MOST_PAYLOAD, NewMessage, Receipt
from ...ipc.durable.wire import AnyFrame, Await, Ended, Put, PutDone, PutPart
from ...ipc.errors import FrameError
from ..store.protocol import Filter, Row, StoreAway, StoreError
from .access import Access
from .ledger import Ledger
from .ledger import Put as PutToStore
from .peer import Peer
from .tasks import Tasks
from .turnkeeper import Turnkeeper
from .waiters import Waiters

MOST_PARTS = 4 * MOST_PAYLOAD  # bytes of payloads of one connection before their `Put`
MOST_WAITING = 20_000  # messages of one connection that are not stored yet
MOST_WAITING_BYTES = 64 * 1024 * 1024
MOST_WITHIN = 3600.0
MOST_AWAITED = 10_000
LOOKS = 2  # the first one may find out that a connection has been lost since
ROUGH = 200  # bytes of a message beside its bodies


class Hands(Protocol):
    """What producers need of the dispatcher."""

    access: Access
    ledger: Ledger
    keeper: Turnkeeper
    waiters: Waiters
    tasks: Tasks


class ProducerRole:
    """From `Greet` on. One that puts faster than the store takes is not read meanwhile."""

    def __init__(self, hands: Hands, peer: Peer) -> None:
        self._hands, self._peer = hands, peer
        self._parts: dict[tuple[int, int], bytearray] = {}
        self._parts_size = 0
        self._waiting = self._waiting_size = 0
        self._awaited: set[asyncio.Task[None]] = set()

    def heard(self, frame: AnyFrame) -> None:
        """One frame; raises FrameError when it has no sense."""
        match frame:
            case Put():
                self._put(frame)
            case PutPart():
                self._part(frame)
            case Await():
                self._await(frame)
            case _:
                raise FrameError(f"a producer may not say {type(frame).__name__}")

    def gone(self) -> None:
        """The connection is closed; what was put is stored all the same."""
        self._parts.clear()
        for task in self._awaited:
            task.cancel()

    # -- putting

    def _part(self, frame: PutPart) -> None:
        self._parts_size += len(frame.data)
        if self._parts_size > MOST_PARTS:
            raise FrameError(f"payloads of {self._parts_size} bytes wait for their messages, {MOST_PARTS} are allowed")
        self._parts.setdefault((frame.number, frame.index), bytearray()).extend(frame.data)

    def _put(self, frame: Put) -> None:
        messages = self._whole(frame)
        if error := _fault(messages):
            self._peer.send(PutDone(frame.number, error=error))
            return
        size = sum(len(message.args) + len(message.payload) + ROUGH for message in messages)
        self._count(len(messages), size)
        done = partial(self._done, frame.number, len(messages), size)
        self._hands.ledger.put(PutToStore(messages, done, self._hands.access.clock.steady))
        self._hands.keeper.ring()

    def _whole(self, frame: Put) -> list[NewMessage]:
        """With the payloads that came in parts, and with guids: one that is stored twice by mistake is known by it."""
        messages = [message if message.guid else replace(message, guid=new_guid()) for message in frame.messages]
        for number, index in [key for key in self._parts if key[0] <= frame.number]:
            payload = bytes(self._parts.pop((number, index)))
            self._parts_size -= len(payload)
            if number == frame.number:
                if not 0 <= index < len(messages):
                    raise FrameError(f"a payload came for message {index} of {len(messages)}")
                messages[index] = replace(messages[index], payload=payload)
        return messages

    def _done(self, number: int, count: int, size: int, receipts: list[Receipt], error: str) -> None:
        self._peer.send(PutDone(number, receipts, error))
        self._count(-count, -size)

    def _count(self, messages: int, size: int) -> None:
        self._waiting += messages
        self._waiting_size += size
        if self._waiting > MOST_WAITING or self._waiting_size > MOST_WAITING_BYTES:
            self._peer.hold()
        else:
            self._peer.go_on()

    # -- waiting

    def _await(self, frame: Await) -> None:
        if len(self._awaited) >= MOST_AWAITED:
            self._peer.send(Ended(frame.number, "", error=f"{MOST_AWAITED} messages are waited for already"))
            return
        task = self._hands.tasks.start(self._wait(frame), f"await {frame.id}")
        self._awaited.add(task)
        task.add_done_callback(self._awaited.discard)

    async def _wait(self, frame: Await) -> None:
        """Registered before the store is asked, so that no end is missed."""
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        told = partial(_tell, ended, frame.number)
        self._hands.waiters.add(frame.id, told)
        try:
            answer = await self._look(frame)
            if answer.error or answer.state in ENDS:
                self._peer.send(answer)
                return
            await asyncio.wait([ended], timeout=max(0.0, min(frame.within, MOST_WITHIN)))
            self._peer.send(ended.result() if ended.done() else await self._look(frame))
        finally:
            self._hands.waiters.remove(frame.id, told)

    async def _look(self, frame: Await) -> Ended:
        for _ in range(LOOKS):
            try:
                rows = await self._hands.access.ask(lambda store, _now: store.find(Filter(ids=(frame.id,)), 1))
            except (StoreAway, StoreError) as error:
                away = Ended(frame.number, "", error=f"the store does not answer: {error}")
            else:
                return _answer(frame, rows)
        return away


def _answer(frame: Await, rows: list[Row]) -> Ended:
    if not rows:
        return Ended(frame.number, "", error=f"there is no message {frame.id}")
    return Ended(frame.number, rows[0].state, rows[0].result, rows[0].reason)


def _tell(ended: asyncio.Future[Ended], number: int, state: str, result: bytes, reason: str) -> None:
    if not ended.done():
        ended.set_result(Ended(number, state, result, reason))


def _fault(messages: Iterable[NewMessage]) -> str:
    for message in messages:
        if len(message.args) > MOST_ARGS:
            return (
                f"{message.kind}: arguments of {len(message.args)} bytes, {MOST_ARGS} are allowed; "
                "put what is larger into the payload"
            )
        if len(message.payload) > MOST_PAYLOAD:
            return (
                f"{message.kind}: a payload of {len(message.payload)} bytes, {MOST_PAYLOAD} are allowed; "
                "store it elsewhere and send where it is"
            )
    return ""
