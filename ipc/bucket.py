"""A token bucket: how often something may be done. Pure: the clock is an argument, in seconds, and only ever compared.

The bus's limiter does the same sums in the server (`supervisor/bus/scripts.py`); both have to agree.
"""

import heapq
import math

import msgspec

CLOSE_ENOUGH = 1e-6
MOST_NAMES = 100_000


class Rate(msgspec.Struct, frozen=True):
    """`rate` tokens come every `interval` seconds, up to `most` (0: as many as `rate`); one call costs `cost` of them.

    `reset` 1: after a refusal the bucket is forgotten, so that the next call finds it full; N > 1: it is forgotten with
    the Nth call. `multiplier`: with more than 1, each refusal makes the interval so many times longer, up to `cap`
    seconds; with less than -1 the same, until the next success makes it what it was.
    """

    rate: float
    interval: float = 1.0
    most: float = 0.0
    cost: float = 1.0
    reset: int = 0
    multiplier: float = 0.0
    cap: float = 3600.0

    @property
    def burst(self) -> float:
        """How many tokens a full bucket holds."""
        return self.most or self.rate

    @property
    def made(self) -> tuple[float, float, float]:
        """What a bucket is made for: with another one it begins anew."""
        return (self.rate, self.burst, self.interval)

    def check(self) -> None:
        """Raises ValueError when no bucket can keep to this rate."""
        numbers = (self.rate, self.interval, self.most, self.cost, self.multiplier, self.cap)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("a limiter needs finite numbers")
        if min(self.rate, self.interval, self.cost, self.cap) <= 0:
            raise ValueError("rate, interval, cost and cap of a limiter have to be more than 0")
        if self.most < 0 or self.reset < 0:
            raise ValueError("most and reset of a limiter cannot be less than 0")
        if self.cost > self.burst:
            raise ValueError(f"a cost of {self.cost:g} never fits into a limit of {self.burst:g}: make `most` larger")


class Bucket(msgspec.Struct, frozen=True):
    """`tokens` at the time `at`; `interval` is the present one, in seconds; `calls` since it was made."""

    tokens: float
    at: float
    interval: float
    calls: int
    made_for: tuple[float, float, float]


def take(bucket: Bucket | None, rate: Rate, now: float) -> tuple[Bucket | None, float]:
    """The bucket afterwards, None to forget it, and the seconds to wait: 0.0 if it was taken.

    The wait is the time until the tokens are there, if nobody else takes any. Raises ValueError for an impossible rate.
    A clock that went back refills nothing.
    """
    rate.check()
    if bucket is None or bucket.made_for != rate.made:
        bucket = Bucket(rate.burst, now, rate.interval, 0, rate.made)
    tokens = min(rate.burst, bucket.tokens + max(0.0, now - bucket.at) * rate.rate / bucket.interval)
    wait, interval = (rate.cost - tokens) * bucket.interval / rate.rate, bucket.interval
    taken = wait <= CLOSE_ENOUGH
    if taken:
        tokens, wait = tokens - rate.cost, 0.0
        interval = rate.interval if rate.multiplier < 0 else interval
    else:
        interval = _longer(interval, rate)
        wait = (rate.cost - tokens) * interval / rate.rate
    calls = bucket.calls + 1
    forget = calls >= rate.reset if rate.reset > 1 else rate.reset == 1 and not taken
    return None if forget else Bucket(tokens, now, interval, calls, rate.made), wait


def _longer(interval: float, rate: Rate) -> float:
    times = abs(rate.multiplier)
    return max(rate.interval, min(interval * times, rate.cap)) if times > 1 else interval


def lifetime(bucket: Bucket, rate: Rate) -> float:
    """Seconds after which the bucket is full again and may be forgotten."""
    return max(0.0, rate.burst - bucket.tokens) * bucket.interval / rate.rate


class Buckets:
    """Buckets by name. Full ones are forgotten; of more than MOST_NAMES, those that would be full soonest."""

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most = most
        self._buckets: dict[str, tuple[Bucket, float]] = {}
        self._ends: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str, rate: Rate, now: float) -> float:
        """Seconds to wait, 0.0 when it was taken. Raises ValueError for an impossible rate."""
        self._forget_full(now)
        known = name in self._buckets
        bucket, wait = take(self._buckets[name][0] if known else None, rate, now)
        if bucket is None:
            bucket = Bucket(rate.burst, now, rate.interval, 0, rate.made)
        end = now + lifetime(bucket, rate)
        self._buckets[name] = (bucket, end)
        if not known:
            heapq.heappush(self._ends, (end, name))
            self._make_room()
        return wait

    def _forget_full(self, now: float) -> None:
        """There is one entry in `_ends` for each name: one that comes too early is put back with the right time."""
        while self._ends and self._ends[0][0] <= now:
            name = self._ends[0][1]
            end = self._buckets[name][1]
            if end > now:
                heapq.heapreplace(self._ends, (end, name))
            else:
                heapq.heappop(self._ends)
                del self._buckets[name]

    def _make_room(self) -> None:
        if len(self._buckets) > self._most:
            del self._buckets[heapq.heappop(self._ends)[1]]
