"""What this host says of the commands it was given: in order, and of the time while the bus was away as well."""

import asyncio
import contextlib
from collections import deque
from itertools import islice

from loguru import logger

from ...ipc.message import Finished
from ..bus.driver import BusError
from ..bus.letter import OversizedError
from ..bus.orders import Ack
from ..desk import Desk
from .audience import LONGEST
from .facts import FleetCommandEnded
from .record import Taken
from .verbs import LOOKS
from .wire import Wire

KEPT = 3600.0  # seconds that answers outlive whoever asked
MOST_WAITING = 1000
AGAIN = 1.0


class Replies:
    """A queue of acknowledgements and the task that empties it."""

    def __init__(self, wire: Wire, desk: Desk) -> None:
        self.wire, self.desk = wire, desk
        self.lost = 0
        self._waiting: deque[tuple[Taken, Ack]] = deque()
        self._something = asyncio.Event()
        self._back, self._empty = asyncio.Event(), asyncio.Event()
        self._empty.set()

    def say(self, taken: Taken, state: str, *, reason: str = "", step: str = "") -> None:
        """How far this host is."""
        self._put(taken, state, Ack(self.wire.host, taken.number + 1, state, reason=reason, step=step))

    def end(self, taken: Taken, state: str, finished: Finished, *, reason: str = "") -> None:
        """This host's last word on a command."""
        took, reason = max(0.0, self.wire.now() - taken.taken), _last(reason)
        if taken.verb in LOOKS and len(finished.out) >= LONGEST:
            state, finished, reason = "failed", Finished(1), "what it says is too long for the bus"
        out, err = _last(finished.out), _last(finished.err)
        number = taken.number + 1
        ack = Ack(self.wire.host, number, state, reason=reason, took=took, code=finished.code, out=out, err=err)
        taken.unsaid = ack
        self._put(taken, state, ack)
        if taken.verb not in LOOKS:
            self.desk.tell(FleetCommandEnded(taken.id, taken.verb, state, reason, took))

    def repeat(self, taken: Taken) -> None:
        """The last master may have died before its last word was on the bus. If it was, nobody minds."""
        if taken.unsaid is not None:
            self._put(taken, taken.state, taken.unsaid)

    def ring(self) -> None:
        """The bus is back."""
        self._back.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                await self._send(*self._waiting[0])
                self._waiting.popleft()
            self._empty.set()

    async def flushed(self) -> None:
        """Wait until everything is said."""
        await self._empty.wait()

    def _put(self, taken: Taken, state: str, ack: Ack) -> None:
        taken.number, taken.state = ack.number, state
        self._waiting.append((taken, ack))
        if len(self._waiting) > MOST_WAITING:
            self._make_room()
        self._empty.clear()
        self._something.set()

    def _make_room(self) -> None:
        """What is on its way stays, and the word of an end; steps that were overtaken go first."""
        rest = enumerate(islice(self._waiting, 1, None), 1)
        del self._waiting[next((index for index, (_, ack) in rest if ack.state in ("accepted", "running")), 1)]
        self.lost += 1

    async def _send(self, taken: Taken, ack: Ack) -> None:
        """Over times without a bus. What cannot be put into a letter is lost, and keeps nothing else up."""
        wire = self.wire
        stream, bell = wire.names.reply(taken.id), wire.names.reply(taken.origin)
        while True:
            try:
                await wire.driver.append(stream, wire.sign(stream, "fleet:ack", ack, KEPT), ttl=KEPT, bell=bell)
            except BusError:  # the session tells of it
                self._back.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._back.wait(), AGAIN)
            except (OversizedError, ValueError) as error:
                self.lost += 1
                logger.error("acknowledgement {} of {} cannot be sent: {}", ack.number, taken.id, error)
                return
            else:
                taken.unsaid = None if taken.unsaid is ack else taken.unsaid
                return


def _last(text: str) -> str:
    """As much of the end as goes along."""
    return text.encode(errors="replace")[-LONGEST:].decode(errors="ignore")
