"""Whoever enqueues, or waits for the end of a message, as a peer of the dispatcher."""

import asyncio
import logging
from collections.abc import Iterable, Sized
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from ...ipc.durable.guid import new_guid
from ...ipc.durable.model import ENDS, MOST_ARGS, MOST_PAYLOAD, NewMessage, Receipt
from ...ipc.durable.wire import AnyFrame, Await, Ended, Put, PutDone, PutPart
from ...ipc.errors import FrameError
from ..store.protocol import Row, StoreAway, StoreError
from .access import Access
from .ledger import Ledger
from .ledger import Put as PutToStore
from .lookups import Lookups
from .peer import Peer
from .tasks import Tasks
from .turnkeeper import Turnkeeper
from .waiters import Waiters

MOST_IN_PUT = 5000  # messages of one frame
MOST_PARTS = 4 * MOST_PAYLOAD  # bytes of payloads of one connection before their `Put`
MOST_WAITING = 20_000  # messages of one connection that are not stored yet
MOST_WAITING_BYTES = 64 * 1024 * 1024
MOST_WITHIN = 3600.0
MOST_AWAITED = 10_000
MOST_ID = 2**63 - 1
ROUGH = 200  # bytes of a message beside its bodies
CUT = 40  # characters of a refusal, where receipts would not fit into a frame otherwise


logger = logging.getLogger("bkd.dispatch")


class Hands(Protocol):
    """What producers need of the dispatcher."""

    access: Access
    ledger: Ledger
    keeper: Turnkeeper
    waiters: Waiters
    lookups: Lookups
    tasks: Tasks


class ProducerRole:
    """From `Greet` on. One that puts faster than the store takes is not read meanwhile."""

    def __init__(self, hands: Hands, peer: Peer) -> None:
        self._hands, self._peer = hands, peer
        self._parts: dict[tuple[int, int], bytearray] = {}
        self._parts_size = 0
        self._waiting = self._waiting_size = 0
        self._awaited: set[asyncio.Task[None]] = set()

    @property
    def waits(self) -> bool:
        """Whether it is owed an answer: what it has put is not stored yet, or was only sent in part."""
        return bool(self._waiting or self._parts)

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
        place = frame.number, frame.index
        if not frame.data:
            raise FrameError("a part of a payload has no bytes")
        self._parts_size += len(frame.data) + (0 if place in self._parts else ROUGH)
        if self._parts_size > MOST_PARTS:
            raise FrameError(f"payloads of {self._parts_size} bytes wait for their messages, {MOST_PARTS} are allowed")
        self._parts.setdefault(place, bytearray()).extend(frame.data)

    def _put(self, frame: Put) -> None:
        parts = self._parts_until(frame.number)
        error = _too_many(frame.messages)
        messages = [] if error else _whole(frame.messages, parts)
        if error := error or _fault(messages):
            self._peer.send(PutDone(frame.number, error=error))
            return
        size = sum(len(message.args) + len(message.payload) + ROUGH for message in messages)
        self._count(len(messages), size)
        done = partial(self._done, frame.number, len(messages), size)
        self._hands.ledger.put(PutToStore(messages, done, self._hands.access.clock.steady))
        self._hands.keeper.ring()

    def _parts_until(self, last: int) -> dict[int, bytes]:
        """Payloads that came in parts for the messages of this put. Those of earlier ones are of no use any more."""
        found: dict[int, bytes] = {}
        for number, index in [key for key in self._parts if key[0] <= last]:
            payload = bytes(self._parts.pop((number, index)))
            self._parts_size -= len(payload) + ROUGH
            if number == last:
                found[index] = payload
        return found

    def _done(self, number: int, count: int, size: int, receipts: list[Receipt], error: str) -> None:
        self._count(-count, -size)
        try:
            self._peer.send(PutDone(number, receipts, error))
        except FrameError as too_large:
            self._peer.send(PutDone(number, [_cut(receipt) for receipt in receipts], error))
            logger.warning("pid %d: refusals are cut short: %s", self._peer.credentials.pid, too_large)

    def _count(self, messages: int, size: int) -> None:
        self._waiting += messages
        self._waiting_size += size
        if self._waiting > MOST_WAITING or self._waiting_size > MOST_WAITING_BYTES:
            self._peer.hold()
        else:
            self._peer.go_on()

    # -- waiting

    def _await(self, frame: Await) -> None:
        if not 0 <= frame.id <= MOST_ID:
            self._peer.send(Ended(frame.number, "", error=f"there is no message {frame.id}"))
            return
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
        try:
            return _answer(frame, await self._hands.lookups.row(frame.id))
        except (StoreAway, StoreError) as error:
            return Ended(frame.number, "", error=f"the store does not answer: {error}")


def _answer(frame: Await, row: Row | None) -> Ended:
    if row is None:
        return Ended(frame.number, "", error=f"there is no message {frame.id}")
    return Ended(frame.number, row.state, row.result, row.reason)


def _tell(ended: asyncio.Future[Ended], number: int, state: str, result: bytes, reason: str) -> None:
    if not ended.done():
        ended.set_result(Ended(number, state, result, reason))


def _too_many(messages: Sized) -> str:
    if len(messages) <= MOST_IN_PUT:
        return ""
    return f"{len(messages):,} messages in one put, {MOST_IN_PUT:,} are allowed: put them in pieces"


def _whole(messages: Iterable[NewMessage], payloads: dict[int, bytes]) -> list[NewMessage]:
    """With the payloads that came in parts, and with guids: one that is stored twice by mistake is known by it."""
    whole = [message if message.guid else replace(message, guid=new_guid()) for message in messages]
    for index, payload in payloads.items():
        if not 0 <= index < len(whole):
            raise FrameError(f"a payload came for message {index} of {len(whole)}")
        whole[index] = replace(whole[index], payload=payload)
    return whole


def _cut(receipt: Receipt) -> Receipt:
    """So short that MOST_IN_PUT of them fit into a frame."""
    return replace(receipt, refused=receipt.refused[:CUT])


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
