"""Traffic of visitors beside a measurement, and what became of each request."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from statistics import quantiles

from place import HERE, program

LOST = ("refused", "reset", "truncated", "5xx", "timed out")
CLOSED = "closed on request"
"""A kept connection was closed in the instant of a request: clients may send a GET again, so it is no loss."""
QUICK = ("kept /", "new /")
BUSY = (*QUICK, "kept /slow?ms=50", "new /slow?ms=50")


@dataclass(frozen=True)
class Request:
    """`start` is monotonic, `took` in seconds; `outcome`: ok, closed on request, or one of those that are lost."""

    visitor: str
    start: float
    took: float
    outcome: str

    @property
    def end(self) -> float:
        return self.start + self.took


@dataclass(frozen=True)
class Record:
    """The requests that began from `start` up to `end`, both monotonic."""

    requests: list[Request]
    start: float
    end: float

    def between(self, start: float, end: float) -> "Record":
        return Record([request for request in self.requests if start <= request.start < end], start, end)

    def of(self, *visitors: str) -> "Record":
        return Record([request for request in self.requests if request.visitor in visitors], self.start, self.end)

    def count(self, *outcomes: str) -> int:
        return sum(request.outcome in outcomes for request in self.requests)

    def lost(self) -> int:
        return len(self.requests) - self.count("ok", CLOSED)

    def longest_silence(self) -> float:
        """The longest stretch without any answer, in seconds."""
        answers = sorted(request.end for request in self.requests if request.outcome == "ok" and request.end < self.end)
        times = [self.start, *answers, self.end]
        return max(later - earlier for earlier, later in pairwise(times))

    def served(self, slot: float = 0.1) -> float:
        """Share of the slots of that many seconds in which somebody was answered, in per cent."""
        slots = int((self.end - self.start) / slot)
        good = {int((request.end - self.start) / slot) for request in self.requests if request.outcome == "ok"}
        return 100 * len(good & set(range(slots))) / slots

    def milliseconds(self, percentile: int) -> float:
        """Percentile of the time until an answer; infinite when nobody was answered."""
        taken = [1000 * request.took for request in self.requests if request.outcome == "ok"]
        return quantiles(taken, n=100)[percentile - 1] if len(taken) > 1 else float("inf")


class Traffic:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def record(self) -> Record:
        """End it; everything that was asked. RuntimeError when the visitors failed, and so accounted for nothing."""
        self.process.send_signal(signal.SIGTERM)
        text, _ = self.process.communicate(timeout=30)
        if self.process.returncode:
            raise RuntimeError(f"the visitors exit {self.process.returncode}")
        requests = [Request(*row) for row in json.loads(text)]
        if not requests:
            raise RuntimeError("the visitors asked nothing")
        return Record(requests, requests[0].start, max(request.end for request in requests))


@contextmanager
def flowing(port: int, pauses: tuple[float, ...] = ()) -> Iterator[Traffic]:
    """Visitors at the port, with eight more for each of `pauses` (seconds idle on a kept connection)."""
    argv = [program("python"), str(HERE / "visitors.py"), str(port), *map(str, pauses)]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=sys.stderr)
    try:
        yield Traffic(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
