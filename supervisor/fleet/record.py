"""What this host has to know of the bus over the death of its master: `run_dir/bus`, MessagePack.

Who starts a cluster anew obeys no command that was given before, whatever the file says.
"""

from typing import Any

import msgspec
from loguru import logger

from ...ipc.message import UNREADABLE
from ..bus.judge import Ledger
from ..bus.orders import Ack
from ..statefile import StateFile

SCHEMA = 1
MOST = 1000


class Taken(msgspec.Struct):
    """A command that this host has accepted, or begun, at the bus's time `taken`. `number`: of its last
    acknowledgement, `fence`: of its permit; `resume`: what the next master has to wait for; `state`: as in `progress`.
    `unsaid`: the last acknowledgement, until the bus has it.
    """

    id: str
    verb: str
    arguments: dict[str, Any]
    issuer: str
    origin: str
    rollout: bool
    taken: float
    state: str = "accepted"
    number: int = 0
    fence: int = 0
    resume: dict[str, Any] = {}
    unsaid: Ack | None = None

    def forget(self) -> None:
        """It is over: nobody needs any more what it was about, which may be long, or a secret."""
        self.arguments, self.resume = {}, {}

    @property
    def is_over(self) -> bool:
        """Whether its last acknowledgement was given."""
        return self.state not in ("accepted", "running")


class Record(msgspec.Struct):
    """One whole file. `cursor`: the last entry of the commands' stream that was looked at."""

    schema: int = SCHEMA
    cursor: str = ""
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    taken: dict[str, Taken] = {}

    def take(self, taken: Taken) -> None:
        """One more command; the oldest of those that are over make room."""
        self.taken[taken.id] = taken
        for id in [id for id, other in self.taken.items() if other.is_over][: max(0, len(self.taken) - MOST)]:
            del self.taken[id]


class Records(StateFile):
    """The file of one run directory."""

    def __init__(self, run_dir: str) -> None:
        super().__init__(f"{run_dir}/bus")

    def load(self) -> Record:
        """What the last master left; a new record when there is none that can be used."""
        data = self.read()
        try:
            record = msgspec.msgpack.decode(data, type=Record) if data is not None else Record()
        except UNREADABLE as error:
            logger.error("{} cannot be used: {}", self.path, error)
            return Record()
        return record if record.schema == SCHEMA else Record()

    def save(self, record: Record) -> None:
        """Replace the file; arguments that are nested too deeply are a fault like a full disk."""
        try:
            self.replace(msgspec.msgpack.encode(record))
        except RecursionError as error:
            self.fault = str(error)
