"""The bus of one host: in the memory of this process, gone with it."""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from ...ipc import bucket, leases
from ...ipc.errors import RefusedError
from .driver import NOTHING, BusError, Entry


class _Stream:
    def __init__(self) -> None:
        self.last = (0, 0)
        self.entries: deque[tuple[tuple[int, int], Entry]] = deque()

    def append(self, payload: bytes, most: int, now: float) -> str:
        moment, number = self.last
        self.last = max((int(now * 1000), 0), (moment, number + 1))
        entry = Entry(_text(self.last), payload)
        self.entries.append((self.last, entry))
        while len(self.entries) > most:
            self.entries.popleft()
        return entry.id

    def behind(self, after: tuple[int, int]) -> Iterator[Entry]:
        return (entry for number, entry in self.entries if number > after)


def _text(number: tuple[int, int]) -> str:
    return f"{number[0]}-{number[1]}"


def _number(id: str) -> tuple[int, int]:
    moment, _, number = id.partition("-")
    return int(moment), int(number or 0)


class LocalDriver:
    """The bus `local:`. What it holds stays when it is closed. The locks and limiters of one host are its as well."""

    place = "local:"

    def __init__(self) -> None:
        self.hear: Callable[[str, bytes], None] = lambda channel, payload: None
        self.lost: Callable[[str], None] = lambda why: None
        self._channels: frozenset[str] = frozenset()
        self._streams: dict[str, _Stream] = {}
        self._hashes: dict[str, dict[str, bytes]] = {}
        self._values: dict[str, bytes] = {}
        self._ends: dict[str, float] = {}
        self._queue: list[tuple[float, str]] = []
        self._buckets = bucket.Buckets()
        self._leases = leases.Leases()

    async def open(self) -> None:
        """There is nothing to connect to."""

    async def close(self) -> None:
        """Nothing is heard any more."""
        self._channels = frozenset()

    async def now(self) -> float:
        return time.time()

    async def subscribe(self, channels: frozenset[str]) -> None:
        self._channels = channels

    async def append(self, stream: str, payload: bytes, *, most: int = 10_000, ttl: float = 0.0, bell: str = "") -> str:
        self._expire()
        id = self._streams.setdefault(stream, _Stream()).append(payload, most, time.time())
        if ttl:
            self._end(stream, ttl)
        if bell:
            await self.publish(bell, payload)
        return id

    async def read(self, stream: str, after: str, count: int = 100) -> list[Entry]:
        self._expire()
        found = self._streams.get(stream)
        return list(islice(found.behind(_number(after)), count)) if found is not None else []

    async def last(self, stream: str) -> str:
        self._expire()
        found = self._streams.get(stream)
        return _text(found.last) if found is not None else NOTHING

    async def publish(self, channel: str, payload: bytes) -> int:
        """It is heard in the loop's next turn, never inside of this call."""
        if channel not in self._channels:
            return 0
        asyncio.get_running_loop().call_soon(self._deliver, channel, payload)
        return 1

    async def set_field(self, key: str, field: str, value: bytes | None) -> None:
        fields = self._hashes.setdefault(key, {})
        if value is None:
            fields.pop(field, None)
        else:
            fields[field] = value

    async def fields(self, key: str) -> dict[str, bytes]:
        return dict(self._hashes.get(key, {}))

    async def get(self, key: str) -> bytes | None:
        self._expire()
        return self._values.get(key)

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float) -> bool:
        self._expire()
        if self._values.get(key) != old:
            return False
        self._values.pop(key, None)
        self._ends.pop(key, None)
        if new is not None:
            self._values[key] = new
            if ttl:
                self._end(key, ttl)
        return True

    async def limit(self, key: str, rate: bucket.Rate) -> float:
        return self._buckets.take(key, rate, time.monotonic())

    async def lock(self, key: str, owner: str, ttl: float) -> leases.Taken:
        try:
            return self._leases.take(key, owner, ttl, time.monotonic())
        except RefusedError as error:
            raise BusError(str(error)) from error

    async def renew(self, key: str, owner: str, ttl: float) -> bool:
        return self._leases.renew(key, owner, ttl, time.monotonic())

    async def unlock(self, key: str, owner: str) -> bool:
        self._leases.expire(time.monotonic())
        return self._leases.free(key, owner)

    def _deliver(self, channel: str, payload: bytes) -> None:
        if channel in self._channels:
            self.hear(channel, payload)

    def _end(self, key: str, ttl: float) -> None:
        end = time.monotonic() + ttl
        self._ends[key] = end
        heapq.heappush(self._queue, (end, key))

    def _expire(self) -> None:
        """Entries of `_queue` that a later `_end` has overtaken mean nothing."""
        now = time.monotonic()
        while self._queue and self._queue[0][0] <= now:
            end, key = heapq.heappop(self._queue)
            if self._ends.get(key) == end:
                del self._ends[key]
                self._streams.pop(key, None)
                self._values.pop(key, None)
