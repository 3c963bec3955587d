"""What a master writes letters with. Pure: time and chance are handed in."""

import msgspec

from .keyring import Keyring
from .letter import Letter, OversizedError, encode, is_sound, limit_of
from .names import Names


class Writer:
    """Writes for one master; `instance` is its `instance_of`. `keyring` may be replaced when keys have changed.

    What is written first has to be sent first: receivers take the letters of one channel in their order only.
    """

    def __init__(self, names: Names, host: str, instance: str, keyring: Keyring) -> None:
        self.names = names
        self.host = host
        self.instance = instance
        self.keyring = keyring
        self._count = 0

    def letter(self, channel: str, op: str, body: msgspec.Struct, now: float, ttl: float, id: str = "") -> bytes:
        """The payload to write to `channel` at this time of the bus, good for `ttl` seconds; `id` is for commands only.

        Raises OversizedError above what the channel takes, ValueError for an id or a time no receiver would take.
        """
        data = msgspec.Raw(msgspec.msgpack.encode(body))
        letter = Letter(self.names.app, self.host, channel, id or self._next_id(), now, now + ttl, op, data)
        if not is_sound(letter, self.names):
            raise ValueError(f"no letter for {channel}: id {letter.id!r}, for {ttl!r} s")
        payload = self.keyring.sign(encode(letter))
        most = limit_of(channel, self.names)
        if len(payload) > most:
            raise OversizedError(f"{op}: {len(payload)} bytes are over the {most} that go over the bus: send less")
        return payload

    def _next_id(self) -> str:
        self._count += 1
        return f"{self.instance}-{self._count}"


def instance_of(now: float, noise: bytes) -> str:
    """Names one run of a master: the bus's milliseconds at its start in 12 hex digits, and 2 random bytes."""
    return _stamp(now) + noise[:2].hex()


def command_id(now: float, noise: bytes) -> str:
    """Names one command: the bus's milliseconds in 12 hex digits, and 6 random bytes. Later ones sort later."""
    return _stamp(now) + noise[:6].hex()


def _stamp(now: float) -> str:
    return f"{round(now * 1000) % (1 << 48):012x}"
