"""The bus as the rest of the fleet's code uses it: letters go out signed, and come in checked."""

import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from ...ipc.errors import FrameError
from ..bus.driver import BusError, Driver
from ..bus.fitness import LOCAL
from ..bus.judge import Bell, Judge
from ..bus.letter import Letter, Refusal, contents
from ..bus.names import Names
from ..bus.session import Session
from ..bus.writer import Writer
from ..fact import Fact
from .facts import BusRefused

B = TypeVar("B", bound=msgspec.Struct)
H = TypeVar("H", bound=Letter | Bell)
QUIET, LONG_QUIET = 1.0, 600.0  # seconds between two facts about refusals of one kind, growing while they go on


class Wire:
    """One per master. What is not believed is counted by the judge, and told."""

    def __init__(self, driver: Driver, writer: Writer, judge: Judge, tell: Callable[[Fact], None]) -> None:
        self.driver, self.writer, self.judge, self._tell = driver, writer, judge, tell
        self.session: Session
        self._told: dict[str, tuple[float, float]] = {}

    @property
    def names(self) -> Names:
        """Every key and channel."""
        return self.judge.names

    @property
    def host(self) -> str:
        """What this host is called."""
        return self.writer.host

    @property
    def instance(self) -> str:
        """Which master of this host this is."""
        return self.writer.instance

    @property
    def is_alone(self) -> bool:
        """Whether this bus reaches this host only: nothing happens on it that this master does not do itself."""
        return self.driver.place == LOCAL

    @property
    def is_up(self) -> bool:
        """Whether the bus can be asked."""
        return self.session.state in ("connected", "deaf")

    def now(self) -> float:
        """The bus's time."""
        return self.session.now()

    def observe(self) -> None:
        """Compare the clocks, before commands are read."""
        self.judge.observe(self.now(), time.time())

    def refuse_if_away(self) -> None:
        """Raises BusError when the bus cannot be asked now."""
        if not self.is_up:
            raise BusError(f"the bus is away ({self.session.error or 'connecting'}): only this host can be reached")

    def sign(self, channel: str, op: str, body: msgspec.Struct, ttl: float, *, id: str = "") -> bytes:
        """A letter; raises OversizedError."""
        return self.writer.letter(channel, op, body, self.now(), ttl, id)

    def hear(self, channel: str, payload: bytes) -> Letter | Bell | None:
        """What was published."""
        return self._believed(self.judge.hear(payload, channel, self.now()), channel)

    def open(self, payload: bytes, channel: str) -> Letter | Refusal:
        """What is to be taken once and in order."""
        opened = self.judge.open(payload, channel, self.now())
        self._believed(opened, channel)
        return opened

    def letter(self, payload: bytes, key: str) -> Letter | None:
        """What lies on the bus to be read again and again."""
        return self._believed(self.judge.read(payload, key, self.now()), key)

    def read(self, payload: bytes, key: str, kind: type[B]) -> B | None:
        """The same, and what is in it."""
        letter = self.letter(payload, key)
        return self.body(letter, kind) if letter is not None else None

    def body(self, letter: Letter, kind: type[B]) -> B | None:
        """What is in a letter; None, counted, when that is something else."""
        try:
            return contents(letter, kind)
        except FrameError:
            self.refuse(Refusal.MALFORMED, letter.channel)
            return None

    def refuse(self, reason: Refusal, channel: str) -> None:
        """What was signed but is not to be believed there: it is counted, and told."""
        self.judge.refused[reason] += 1
        self._refused(reason, channel)

    def _believed(self, heard: H | Refusal, channel: str) -> H | None:
        if isinstance(heard, Refusal):
            self._refused(heard, channel)
            return None
        return heard

    def _refused(self, reason: Refusal, channel: str) -> None:
        now = time.monotonic()
        last, pause = self._told.get(reason, (-LONG_QUIET, QUIET))
        if now - last >= pause:
            self._told[reason] = now, QUIET if now - last >= LONG_QUIET else min(LONG_QUIET, 2 * pause)
            self._tell(BusRefused(str(reason), channel[:200], self.judge.refused[reason]))
