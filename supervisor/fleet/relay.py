"""Application events between hosts: out on the channels of their roles, in to the processes of this host."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from ...ipc.errors import RefusedError
from .. import ops
from ..bus.driver import BusError
from ..bus.letter import Letter, OversizedError
from ..bus.orders import BusAnswer, BusEvent
from ..desk import Desk
from ..exchange import Exchange
from ..neighbours import Shared
from .hosts import Hosts
from .issuing import Issuing
from .wire import Wire

LASTS = 30.0
MOST_ASKED = 1000
EVERYTHING = msgspec.Raw(msgspec.msgpack.encode({"all": True}))
Answers = dict[str, msgspec.Raw]


class Asked:
    """One question to other hosts: who is still to answer, and what came."""

    def __init__(self, hosts: set[str]) -> None:
        self.missing, self.answers, self.done = hosts, Answers(), asyncio.Event()

    def take(self, host: str, answers: Answers) -> None:
        """A host answered for its processes."""
        self.answers |= answers
        self.missing.discard(host)
        if not self.missing:
            self.done.set()


def _answer(event: BusEvent, answers: Mapping[str, Any]) -> BusAnswer:
    return BusAnswer(event.answer, msgspec.Raw(msgspec.msgpack.encode(answers)))


def _answers(answer: BusAnswer) -> Answers:
    try:
        return msgspec.msgpack.decode(answer.answers, type=Answers)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


class Relay:
    """What `ipc.broadcast` reaches beyond this host. `lost` counts events that no bus was there for."""

    def __init__(self, wire: Wire, desk: Desk, hosts: Hosts, exchange: Exchange, issuing: Issuing) -> None:
        self.wire, self.desk, self.hosts, self.exchange = wire, desk, hosts, exchange
        self.command = issuing.command
        self.host, self.app = wire.host, wire.names.app
        self.tag = desk.config.app.tag
        self.driver: Shared | None = wire.driver
        self.lost = 0
        self._asked: dict[str, Asked] = {}
        self._number = 0
        self._in_order = asyncio.Lock()
        self._owes_deletions = False

    async def up(self) -> None:
        """The bus is there, perhaps again: deletions in caches that were not heard meanwhile, here or elsewhere, may
        have been of anything. Raises BusError."""
        self.exchange.event("all", "", ops.FORGET, EVERYTHING, self.host)
        if self._owes_deletions:
            await self._publish(BusEvent("all", "", ops.FORGET, EVERYTHING, self.host))
            self._owes_deletions = False

    async def broadcast(self, role: str, tag: str, op: str, data: msgspec.Raw, by: str) -> int:
        """Tell other hosts; how many of them there are. Raises BusError when there are some and the bus is away."""
        try:
            return await self._publish(BusEvent(role, tag, op, data, by))
        except BusError:
            self._owes_deletions |= op == ops.FORGET
            raise

    async def gather(self, role: str, tag: str, op: str, data: msgspec.Raw, by: str, within: float) -> Answers:
        """Ask the processes of other hosts; what those answered that did within so many seconds."""
        others = self.hosts.others(role, tag)
        if not others or len(self._asked) >= MOST_ASKED:
            return {}
        self._number += 1
        id = f"{self.wire.instance}-{self._number}"
        asked = self._asked[id] = Asked(others)
        try:
            await self._publish(BusEvent(role, tag, op, data, by, id, within))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asked.done.wait(), within)
            silent = {"error": "timeout", "reason": "the host did not answer"}
            return asked.answers | {host: msgspec.Raw(msgspec.msgpack.encode(silent)) for host in asked.missing}
        finally:
            del self._asked[id]

    def heard(self, letter: Letter) -> None:
        """A letter on the channel of a role, or an answer to this host."""
        if letter.sender == self.wire.host:
            return
        if letter.op == "fleet:event":
            event = self.wire.body(letter, BusEvent)
            if event is not None and self._is_for_us(letter, event):
                self._deliver(letter, replace(event, by=f"{event.by}@{letter.sender}"))
        elif letter.op == "fleet:answer":
            answer = self.wire.body(letter, BusAnswer)
            asked = self._asked.get(answer.id) if answer is not None else None
            if answer is not None and asked is not None:
                asked.take(letter.sender, _answers(answer))

    def _is_for_us(self, letter: Letter, event: BusEvent) -> bool:
        """The channel is what is signed for: an event for a role is told on that role's channel."""
        known = letter.channel == self.wire.names.channel(event.role, event.tag)
        return known and event.tag in ("", self.tag)

    def _deliver(self, letter: Letter, event: BusEvent) -> None:
        """No application of another host may say more than one of this host."""
        if event.op != ops.FORGET and ops.refusal(event.op):
            self.exchange.refused += 1
        elif event.answer:
            self.desk.tasks.run(self._answer(letter.sender, event))
        else:
            try:
                self.exchange.event(event.role, event.tag, event.op, event.data, event.by)
            except RefusedError:  # it fits into a letter, and with its head not into a frame
                self.exchange.refused += 1

    async def _answer(self, host: str, event: BusEvent) -> None:
        within = min(LASTS, max(0.0, event.within))  # in this order not a number is 0
        answers = await self.exchange.gather_here(event.role, event.tag, event.op, event.data, event.by, within)
        channel = self.wire.names.reply(host)
        with contextlib.suppress(BusError):  # whoever asked sees that this host did not answer
            try:
                await self._say(channel, "fleet:answer", _answer(event, answers))
            except OversizedError as error:
                refused = {"error": "refused", "reason": str(error)}
                await self._say(channel, "fleet:answer", _answer(event, dict.fromkeys(answers, refused)))

    async def _publish(self, event: BusEvent) -> int:
        """To other hosts alone; the processes of this one are told without a bus."""
        if not self.wire.is_up:
            self.lost += 1
            self.wire.refuse_if_away()
        channel = self.wire.names.channel(event.role, event.tag)
        heard = await self._say(channel, "fleet:event", event)
        ours = event.role in ("server", "all", *self.desk.config.workers) and event.tag in ("", self.tag)
        return max(0, heard - ours)

    async def _say(self, channel: str, op: str, body: msgspec.Struct) -> int:
        """What is signed first is sent first: it is taken in that order only."""
        async with self._in_order:
            return await self.wire.driver.publish(channel, self.wire.sign(channel, op, body, LASTS))
