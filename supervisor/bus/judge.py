"""Which of what is heard on the bus is listened to. Pure: the time is an argument, nothing is read or written.

A payload is authentic before a byte of it is parsed, then for this application and this channel, then in time, and then
new: a command by its id, which is kept until it has expired; all else by growing numbers of its sender on its channel.
What is forgotten for want of room takes all that is as old with it: nothing can be played back for being forgotten.
"""

from collections import Counter
from typing import NamedTuple

import msgspec

from ...ipc.errors import FrameError
from .keyring import Keyring
from .letter import Letter, Refusal, decode, is_sound, limit_of, serial
from .names import Names

AHEAD = 300.0  # seconds a letter may be issued ahead of the bus's clock, and that clock be apart from the machine's
STEP_BACK = 5.0  # seconds the bus's clock may go back
MOST_COMMANDS = 10_000
MOST_MARKS = 10_000


class Bell(NamedTuple):
    """Something was appended to this stream: read it."""

    stream: str


class Ledger(msgspec.Struct):
    """What must outlive a master so that a command takes effect once: to be stored before a command is carried out.

    Times are the bus's. `ids`: commands seen, and when each expires; `forgotten`: commands that expire up to then are
    not known any more; `since`: nor are those issued before (for a host whose ledger is lost or was never there);
    `highest`: the highest time the bus's clock has shown.
    """

    ids: dict[str, float] = {}
    forgotten: float = 0.0
    since: float = 0.0
    highest: float = 0.0

    def enter(self, letter: Letter, now: float) -> bool:
        """Note a command that has not expired; False when it is, or may be, one that was seen."""
        if letter.id in self.ids or letter.expires <= self.forgotten or letter.issued < self.since:
            return False
        self._forget(now)
        self.ids[letter.id] = letter.expires
        return True

    def _forget(self, now: float) -> None:
        self.forgotten = max(self.forgotten, now)
        if len(self.ids) >= MOST_COMMANDS:
            self.forgotten = max(self.forgotten, sorted(self.ids.values())[MOST_COMMANDS // 10])
        self.ids = {id: expires for id, expires in self.ids.items() if expires > self.forgotten}


class Mark(NamedTuple):
    """The newest letter of a sender on a channel, the latest time it issued one there, and when the last expires."""

    serial: tuple[str, int]
    issued: float
    until: float


_NEVER = Mark(("", 0), 0.0, 0.0)


class Marks:
    """How far each sender has come on each channel: at most MOST_MARKS of them, those heard last."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, str], Mark] = {}
        self._forgotten = 0.0

    def enter(self, letter: Letter, now: float) -> bool:
        """Note a letter; False when it is not newer than what its sender said there before."""
        key = (letter.sender, letter.channel)
        if not self._is_new(letter, self._marks.get(key), now):
            return False
        last = self._marks.pop(key, _NEVER)
        self._make_room(now)
        issued, until = max(last.issued, letter.issued), max(last.until, letter.expires)
        self._marks[key] = Mark(serial(letter.id), issued, until)
        return True

    def _is_new(self, letter: Letter, mark: Mark | None, now: float) -> bool:
        if mark is None:
            return letter.issued > self._forgotten
        # past its end nothing taken before can come again; a sender whose clock was set back is heard again
        return mark.until <= now or serial(letter.id) > mark.serial

    def _make_room(self, now: float) -> None:
        if len(self._marks) < MOST_MARKS:
            return
        self._marks = {key: mark for key, mark in self._marks.items() if mark.until > now}
        excess = len(self._marks) - MOST_MARKS * 9 // 10
        for key in list(self._marks)[: max(0, excess)]:
            self._forgotten = max(self._forgotten, self._marks.pop(key).issued)


class Judge:
    """One master's ear. `refused` counts refusals by reason; `keyring` may be replaced when keys have changed."""

    def __init__(self, names: Names, keyring: Keyring, ledger: Ledger) -> None:
        self.names = names
        self.keyring = keyring
        self.ledger = ledger
        self.refused: Counter[Refusal] = Counter()
        self._marks = Marks()
        self._near = False

    def observe(self, now: float, wall: float) -> bool:
        """The bus's clock was asked and showed `now` when this machine's showed `wall`; whether it is to be trusted.

        Commands are refused until this was called, and while it says no.
        """
        self._near = abs(now - wall) <= AHEAD
        if self._near:
            self.ledger.highest = max(self.ledger.highest, now)
        return self.trusts(now)

    def trusts(self, now: float) -> bool:
        """Whether commands are taken at this time of the bus: its clock is near the machine's and did not go back."""
        return self._near and now >= self.ledger.highest - STEP_BACK

    def open(self, payload: bytes, channel: str, now: float) -> Letter | Refusal:
        """What was heard on a channel or read in a stream: only once, and only in order."""
        return self._counted(self._opened(self._authentic(payload, channel), channel, now))

    def hear(self, payload: bytes, channel: str, now: float) -> Letter | Bell | Refusal:
        """What was heard on a channel where bells ring as well. What rang is still to be read in its stream."""
        letter = self._authentic(payload, channel)
        if isinstance(letter, Letter) and self._rang(letter, channel):
            return Bell(letter.channel)
        return self._counted(self._opened(letter, channel, now))

    def read(self, payload: bytes, key: str, now: float) -> Letter | Refusal:
        """What lies on the bus to be read again and again; which of two is newer is for its reader to say."""
        letter = self.verify(payload, key)
        return self._counted(_timely(letter, now) if isinstance(letter, Letter) else letter)

    def verify(self, payload: bytes, channel: str) -> Letter | Refusal:
        """The letter if it is authentic and for this channel, whatever the time; counts nothing."""
        return self._placed(self._authentic(payload, channel), channel)

    def _authentic(self, payload: bytes, channel: str) -> Letter | Refusal:
        if len(payload) > limit_of(channel, self.names):
            return Refusal.OVERSIZED
        body = self.keyring.check(payload)
        if isinstance(body, Refusal):
            return body
        try:
            return decode(body)
        except FrameError:
            return Refusal.MALFORMED

    def _rang(self, letter: Letter, channel: str) -> bool:
        return letter.app == self.names.app and self.names.rings(letter.channel, channel)

    def _placed(self, letter: Letter | Refusal, channel: str) -> Letter | Refusal:
        if isinstance(letter, Refusal):
            return letter
        if (letter.app, letter.channel) != (self.names.app, channel):
            return Refusal.FOREIGN
        return letter if is_sound(letter, self.names) else Refusal.MALFORMED

    def _opened(self, letter: Letter | Refusal, channel: str, now: float) -> Letter | Refusal:
        letter = self._placed(letter, channel)
        if isinstance(letter, Refusal):
            return letter
        if channel == self.names.commands:
            return self._command(letter, now)
        timely = _timely(letter, now)
        if timely is letter and not self._marks.enter(letter, now):
            return Refusal.REPLAYED
        return timely

    def _command(self, letter: Letter, now: float) -> Letter | Refusal:
        if not self.trusts(now):
            return Refusal.CLOCK
        # by the highest time seen: what has expired stays so when the clock goes back a little
        latest = max(now, self.ledger.highest)
        timely = _timely(letter, latest)
        if timely is letter and not self.ledger.enter(letter, latest):
            return Refusal.REPLAYED
        return timely

    def _counted(self, opened: Letter | Refusal) -> Letter | Refusal:
        if isinstance(opened, Refusal):
            self.refused[opened] += 1
        return opened


def _timely(letter: Letter, now: float) -> Letter | Refusal:
    if letter.issued > now + AHEAD:
        return Refusal.CLOCK
    return Refusal.EXPIRED if letter.expires <= now else letter
