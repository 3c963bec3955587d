"""The bus on a server of the Redis protocol: Redis from 6.2 on, or Valkey."""

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...ipc import bucket, leases
from . import scripts
from .driver import NOTHING, PATIENCE, BusError, Entry
from .place import parse

if TYPE_CHECKING:
    from . import redislink

FENCE_REMEMBERED = 3_600_000
_FIELD = b"p"


class RedisDriver:
    """The bus `redis://`, `rediss://` or `unix://`. The library is imported by `open`, beside the loop.

    `name` is what the server calls these connections in its own lists. Raises BusError for a URL that cannot be read.
    """

    def __init__(self, url: str, *, name: str = "bkd", patience: float = PATIENCE) -> None:
        self._at = parse(url)
        self.place = str(self._at)
        self.hear: Callable[[str, bytes], None] = lambda channel, payload: None
        self.lost: Callable[[str], None] = lambda why: None
        self._name = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name)
        self._patience = patience
        self._link: redislink.RedisLink | None = None
        self._subscription: redislink.Subscription | None = None
        self._changing = asyncio.Lock()

    async def open(self) -> None:
        await self.close()
        self._link = await asyncio.to_thread(self._make_link)
        try:
            await self.now()
        except BaseException:
            await self.close()
            raise

    def _make_link(self) -> "redislink.RedisLink":
        """Runs in a thread of the loop's executor."""
        from . import redislink

        return redislink.RedisLink(self._at, self._name, self._patience)

    async def close(self) -> None:
        link, self._link = self._link, None
        subscription, self._subscription = self._subscription, None
        if link is not None:
            await link.close(subscription)

    async def subscribe(self, channels: frozenset[str]) -> None:
        link = self._connected()
        async with link.speaking(), self._changing:
            if self._subscription is None:
                self._subscription = link.subscription(self._heard, lambda error: self.lost(link.reason(error)))
            await self._subscription.set(channels)

    async def now(self) -> float:
        return await self._connected().time()

    async def append(self, stream: str, payload: bytes, *, most: int = 10_000, ttl: float = 0.0, bell: str = "") -> str:
        commands: list[tuple[str | bytes | int, ...]] = [("XADD", stream, "MAXLEN", "~", most, "*", _FIELD, payload)]
        if ttl:
            commands.append(("PEXPIRE", stream, _milliseconds(ttl)))
        if bell:
            commands.append(("PUBLISH", bell, payload))
        id, *_rest = await self._connected().together(*commands)
        return str(id, "ascii")

    async def read(self, stream: str, after: str, count: int = 100) -> list[Entry]:
        found = await self._connected().command("XRANGE", stream, f"({after}", "+", "COUNT", count)
        return [Entry(str(id, "ascii"), fields.get(_FIELD, b"")) for id, fields in found]

    async def last(self, stream: str) -> str:
        return str(await self._connected().run(scripts.LAST, stream), "ascii") or NOTHING

    async def publish(self, channel: str, payload: bytes) -> int:
        return int(await self._connected().command("PUBLISH", channel, payload))

    async def set_field(self, key: str, field: str, value: bytes | None) -> None:
        change = ("HDEL", key, field) if value is None else ("HSET", key, field, value)
        await self._connected().command(*change)

    async def fields(self, key: str) -> dict[str, bytes]:
        found = await self._connected().command("HGETALL", key)
        return {str(field, errors="replace"): value for field, value in found.items()}

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._connected().command("GET", key)
        return value

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float) -> bool:
        return bool(await self._connected().run(scripts.SWAP, key, *_maybe(old), *_maybe(new), _milliseconds(ttl)))

    async def limit(self, key: str, rate: bucket.Rate) -> float:
        rate.check()
        numbers = (rate.rate, rate.interval, rate.burst, rate.cost, rate.reset, rate.multiplier, rate.cap, rate.made)
        arguments = [repr(number) for number in numbers]
        return float(await self._connected().run(scripts.LIMIT, key, *arguments))

    async def lock(self, key: str, owner: str, ttl: float) -> leases.Taken:
        leases.check(owner, ttl)
        fence, left = await self._connected().run(scripts.LOCK, key, owner, _microseconds(ttl), FENCE_REMEMBERED)
        return leases.Taken(int(fence), int(left) / 1_000_000)

    async def renew(self, key: str, owner: str, ttl: float) -> bool:
        leases.check(owner, ttl)
        return bool(await self._connected().run(scripts.RENEW, key, owner, _microseconds(ttl), FENCE_REMEMBERED))

    async def unlock(self, key: str, owner: str) -> bool:
        return bool(await self._connected().run(scripts.UNLOCK, key, owner, FENCE_REMEMBERED))

    def _heard(self, channel: str, payload: bytes) -> None:
        self.hear(channel, payload)

    def _connected(self) -> "redislink.RedisLink":
        if self._link is None:
            raise BusError(f"{self.place} is not connected")
        return self._link


def _maybe(value: bytes | None) -> tuple[str, bytes]:
    return ("0", b"") if value is None else ("1", value)


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)


def _microseconds(seconds: float) -> int:
    return math.ceil(seconds * 1_000_000)
