"""What a bus can do, whichever it is: the seam between the master and the drivers."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ...ipc import bucket, leases
from ...ipc.errors import AwayError

PATIENCE = 5.0
NOTHING = "0-0"


class BusError(AwayError):
    """The bus is away or refuses; the text is for people and never holds a password."""


class Entry(NamedTuple):
    """One entry of a stream. Ids are `MILLISECONDS-NUMBER` and grow, as numbers and not as text."""

    id: str
    payload: bytes


class Driver(Protocol):
    """A bus. Every call raises BusError within PATIENCE seconds when it cannot be done. Keys are used as they are."""

    place: str
    """The URL for people, without a password."""
    hear: Callable[[str, bytes], None]
    """Called in the loop with channel and payload of each published message."""
    lost: Callable[[str], None]
    """Called in the loop, with the reason, when the subscription ends by itself."""

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Let go of all connections; raises nothing. It may be opened again."""

    async def now(self) -> float:
        """The bus's clock: seconds since 1970."""

    async def subscribe(self, channels: frozenset[str]) -> None:
        """Hear exactly these from now on; returns when the bus has confirmed that."""

    async def append(self, stream: str, payload: bytes, *, most: int = 10_000, ttl: float = 0.0, bell: str = "") -> str:
        """Add an entry, keep about `most` of them, for `ttl` seconds (0: for ever), and publish the payload on channel
        `bell` if there is one, all or nothing of it. Returns the entry's id."""

    async def read(self, stream: str, after: str, count: int = 100) -> list[Entry]:
        """The first `count` entries behind this id, in order."""

    async def last(self, stream: str) -> str:
        """The id given out last, NOTHING when there is no such stream."""

    async def publish(self, channel: str, payload: bytes) -> int:
        """Returns how many heard it."""

    async def set_field(self, key: str, field: str, value: bytes | None) -> None:
        """Set a field of a hash; None deletes it."""

    async def fields(self, key: str) -> dict[str, bytes]:
        """All fields of a hash."""

    async def get(self, key: str) -> bytes | None:
        """The value of a key."""

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float) -> bool:
        """Set the key to `new` (None deletes it) for `ttl` seconds (0: for ever) if it is `old` now (None: if it is not
        there); at one moment. Returns whether it was."""

    async def limit(self, key: str, rate: bucket.Rate) -> float:
        """Seconds to wait; 0.0: taken. Raises ValueError for an impossible rate."""

    async def lock(self, key: str, owner: str, ttl: float) -> leases.Taken:
        """Take a lock for `ttl` seconds. Raises ValueError for an impossible owner or time."""

    async def renew(self, key: str, owner: str, ttl: float) -> bool:
        """Keep a lock for `ttl` seconds from now; False when it is not the owner's any more."""

    async def unlock(self, key: str, owner: str) -> bool:
        """Give a lock back; False when it is not the owner's any more."""
