"""Reads the commands of the fleet off the bus: in order, each once, and none after its time."""

import asyncio
import contextlib
import random

from ...ipc.message import Finished
from ..bus.driver import BusError, Entry
from ..bus.letter import Letter, Refusal
from ..bus.orders import FleetCommand
from ..desk import Desk
from .executor import Executor
from .facts import BusResync, FleetCommandIgnored, FleetCommandTaken
from .record import Taken
from .replies import Replies
from .verbs import LOOKS, ROLLS, VERBS
from .wire import Wire

POLL, DEAF_POLL = 8.0, 1.0
AT_ONCE = 100
BREATH = 0.05
NOT_NOW = {
    Refusal.EXPIRED: ("expired", "it came too late: this host was cut off"),
    Refusal.CLOCK: ("refused", "the clock of the bus went back, or is 5 minutes and more apart from this host's"),
}


class Intake:
    """One task; woken by the doorbell, and by the clock should nobody ring. `late`: commands that came too late."""

    def __init__(self, wire: Wire, desk: Desk, executor: Executor, replies: Replies) -> None:
        self.wire, self.desk, self.executor, self.replies = wire, desk, executor, replies
        self.late = 0
        self._unsaved = False
        self._bell = asyncio.Event()

    def ring(self) -> None:
        """There may be something to read."""
        self._bell.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._bell.wait(), self._pause())
            if self._unsaved and not self._bell.is_set():
                self._unsaved = False
                self.executor.save()
            self._bell.clear()
            if self.wire.is_up:
                with contextlib.suppress(BusError):  # the session knows of it and reconnects
                    await self.catch_up()
                await asyncio.sleep(BREATH)

    def _pause(self) -> float | None:
        """Seconds until it is looked without a bell."""
        if self.wire.is_alone:
            return None
        return (DEAF_POLL if self.wire.session.state == "deaf" else POLL) * random.uniform(0.75, 1.25)

    async def start_at_end(self) -> None:
        """A cluster that was just started obeys nothing that was said before."""
        self.executor.record.cursor = await self.wire.driver.last(self.wire.names.commands)

    async def catch_up(self) -> None:
        """Everything behind the cursor; raises BusError."""
        record, stream = self.executor.record, self.wire.names.commands
        self.wire.observe()
        entries = await self.wire.driver.read(stream, record.cursor, AT_ONCE)
        if not entries and is_before(await self.wire.driver.last(stream), record.cursor):
            self.desk.tell(BusResync())
            record.cursor = "0-0"
            entries = await self.wire.driver.read(stream, record.cursor, AT_ONCE)
        while entries:
            for entry in entries:
                record.cursor = entry.id
                self._take(entry)
            self._unsaved = True
            await asyncio.sleep(0)
            full = len(entries) == AT_ONCE
            entries = await self.wire.driver.read(stream, record.cursor, AT_ONCE) if full else []

    def _take(self, entry: Entry) -> None:
        letter = self.wire.open(entry.payload, self.wire.names.commands)
        if isinstance(letter, Refusal):
            if letter in NOT_NOW:
                self._too_late(entry, letter)
            return
        command = self.wire.body(letter, FleetCommand)
        if command is not None and self.wire.host in command.targets:
            self._obey(letter, command)

    def _obey(self, letter: Letter, command: FleetCommand) -> None:
        taken = _taken(letter, command, self.wire.now())
        if command.verb in LOOKS:
            self.executor.look(taken)
        elif command.verb not in VERBS:
            self.replies.end(taken, "refused", Finished(1), reason=f"this host's bkd knows no {command.verb[:40]}")
        else:
            self._remember(taken)

    def _remember(self, taken: Taken) -> None:
        """Written down before it is begun: it takes effect once."""
        self.executor.record.take(taken)
        fault = self.executor.save()
        if fault:
            self.executor.refuse(taken, f"it cannot be written down in {self.executor.records.path}: {fault}")
            taken.forget()
            return
        self.desk.tell(FleetCommandTaken(taken.id, taken.verb, taken.issuer))
        self.executor.begin(taken)

    def _too_late(self, entry: Entry, refusal: Refusal) -> None:
        """A command that was really given, but whose time is over or cannot be told: whoever gave it hears of it."""
        letter = self.wire.judge.verify(entry.payload, self.wire.names.commands)
        command = self.wire.body(letter, FleetCommand) if isinstance(letter, Letter) else None
        if not isinstance(letter, Letter) or command is None or self.wire.host not in command.targets:
            return
        if letter.id in self.executor.record.taken or letter.id in self.wire.judge.ledger.ids:
            return
        self.late += 1
        self.desk.tell(FleetCommandIgnored(letter.id, command.verb, command.issuer))
        state, why = NOT_NOW[refusal]
        self.replies.end(_taken(letter, command, self.wire.now()), state, Finished(1), reason=why)


def _taken(letter: Letter, command: FleetCommand, now: float) -> Taken:
    rollout = command.verb in ROLLS
    return Taken(letter.id, command.verb, command.arguments, command.issuer, letter.sender, rollout, now)


def is_before(id: str, other: str) -> bool:
    """Whether one id of a stream (`milliseconds-number`) is older than the other."""
    return _number(id) < _number(other)


def _number(id: str) -> tuple[int, int]:
    milliseconds, _, number = (id or "0-0").partition("-")
    return int(milliseconds), int(number or 0)
