"""The last minute of each worker's heartbeats: for evidence, and for whoever looks. Lost with the master."""

from collections import deque
from typing import Any

from ...ipc.message import Late, Ping
from .evidence import LateSample, Sample

EVERY = 2.0
KEPT = 30
HURRY = 0.1  # a heartbeat may come that much early and count all the same


class Beat:
    """What the heartbeats of EVERY seconds said; of lag and load the worst."""

    __slots__ = ("at", "cpu", "in_flight", "lag", "pss", "rss", "share")

    def __init__(self, at: float, ping: Ping, before: "Beat | None") -> None:
        self.at, self.cpu, self.rss, self.pss = at, ping.cpu, ping.rss, ping.pss
        self.lag, self.in_flight = ping.lag, ping.in_flight
        self.share = (ping.cpu - before.cpu) / max(at - before.at, 0.001) if before is not None else 0.0

    def more(self, ping: Ping) -> None:
        """Another heartbeat of the same EVERY seconds."""
        if ping.lag is not None:
            self.lag = max(self.lag or 0.0, ping.lag)
        self.in_flight = max(self.in_flight, ping.in_flight)


class Vitals:
    """One per master; workers are told apart by their numbers."""

    def __init__(self) -> None:
        self._beats: dict[int, deque[Beat]] = {}
        self._late: dict[int, tuple[float, Late]] = {}

    def heard(self, worker: int, ping: Ping, now: float) -> None:
        """A heartbeat came."""
        beats = self._beats.get(worker)
        if beats is None:
            beats = self._beats[worker] = deque(maxlen=KEPT)
        last = beats[-1] if beats else None
        if last is not None and now - last.at < EVERY - HURRY:
            last.more(ping)
        else:
            beats.append(Beat(now, ping, last))

    def was_late(self, worker: int, late: Late, now: float) -> None:
        """A worker said where its main loop was when it was late."""
        self._late[worker] = now, late

    def forget(self, worker: int) -> None:
        """It is gone, and its end is explained."""
        self._beats.pop(worker, None)
        self._late.pop(worker, None)

    def trend(self, worker: int, now: float) -> list[Sample]:
        """Oldest first."""
        return [
            Sample(round(now - beat.at, 3), beat.rss, beat.pss, round(beat.share, 3), beat.lag, beat.in_flight)
            for beat in self._beats.get(worker, ())
        ]

    def late(self, worker: int, now: float) -> LateSample | None:
        """Where it was when it was late last."""
        if worker not in self._late:
            return None
        at, late = self._late[worker]
        return LateSample(round(now - at, 3), round(late.seconds, 3), list(late.frames))

    def document(self, worker: int) -> dict[str, Any]:
        """The same for a picture, oldest first."""
        beats = self._beats.get(worker, ())
        return {
            "seconds": EVERY,
            "rss": [beat.rss for beat in beats],
            "cpu": [round(beat.share, 3) for beat in beats],
            "lag": [beat.lag for beat in beats],
            "in_flight": [beat.in_flight for beat in beats],
        }
