"""A letter: what one master says to others, and how it becomes bytes. Pure."""

import math
import re
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec

from ...ipc.errors import FrameError, RefusedError
from .names import Names, is_command_id

LIMIT = 64 * 1024  # bytes of a payload: signature and letter
REPLY_LIMIT = 512 * 1024  # … of an acknowledgement, which may hold the output of a program
LONGEST_COMMAND = 300.0  # seconds a command may be valid: so long its id is kept

_SERIAL = re.compile(r"([0-9a-f]{16})-(0|[1-9][0-9]{0,17})")

T = TypeVar("T")
Name = Annotated[str, msgspec.Meta(max_length=255)]


class OversizedError(RefusedError):
    """What is to be said is too large for the bus."""


class Refusal(StrEnum):
    """Why a payload is not listened to.

    foreign: of another application or for another channel; clock: from the future, or the bus's clock is not to be
    trusted; replayed: seen before, or older than what was seen.
    """

    OVERSIZED = "oversized"
    UNSIGNED = "unsigned"
    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown-key"
    FORGED = "forged"
    FOREIGN = "foreign"
    EXPIRED = "expired"
    CLOCK = "clock"
    REPLAYED = "replayed"


class Letter(msgspec.Struct, frozen=True):
    """What is signed. `sender` is a host, `channel` the full name of the key or channel it is written to, so that it
    can be moved nowhere else; `issued` and `expires` are seconds of the bus's clock; `data` is an order, encoded."""

    app: Name
    sender: Name
    channel: Annotated[str, msgspec.Meta(max_length=500)]
    id: Name
    issued: float
    expires: float
    op: Name
    data: msgspec.Raw


_decoder = msgspec.msgpack.Decoder(Letter)
_encode = msgspec.msgpack.Encoder().encode


def encode(letter: Letter) -> bytes:
    """The body that is signed."""
    return _encode(letter)


def decode(body: bytes) -> Letter:
    """The letter of a body; raises FrameError when it is none, or is not written as `encode` writes it.

    With one way only to write a letter it can be read in one way only: no key twice, none that nobody reads.
    """
    try:
        letter = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"not a letter: {error}") from error
    if _encode(letter) != body:
        raise FrameError("not a letter: not in its canonical form")
    return letter


def contents(letter: Letter, kind: type[T]) -> T:
    """The data of a letter as this type; raises FrameError when they do not fit."""
    try:
        return msgspec.msgpack.decode(letter.data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"{letter.op} of {letter.sender}: {error}") from error


def is_sound(letter: Letter, names: Names) -> bool:
    """Whether its times can be, and its id is of the kind its channel wants."""
    if not 0.0 <= letter.issued <= letter.expires or not math.isfinite(letter.expires):
        return False
    if letter.channel != names.commands:
        return _SERIAL.fullmatch(letter.id) is not None
    return letter.expires - letter.issued <= LONGEST_COMMAND and is_command_id(letter.id)


def serial(id: str) -> tuple[str, int]:
    """INSTANCE and N of the id of a sound letter that is no command: what a sender says later is greater."""
    instance, _dash, number = id.partition("-")
    return instance, int(number)


def limit_of(channel: str, names: Names) -> int:
    """The most bytes of a payload there."""
    return REPLY_LIMIT if names.is_reply(channel) else LIMIT
