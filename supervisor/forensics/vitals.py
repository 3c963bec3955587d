"""The last minute of each worker's heartbeats: for evidence, and for whoever looks. Lost with the master."""

from collections import deque
from typing import Any

from ...ipc.message import Late, Ping
from ...ipc.stacks import bounded_frames
from .evidence import LateSample, Sample

EVERY = 2.0
KEPT = 30
PAUSE, LONGEST, MOST_TOLD = 0.5, 1e7, 20
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
        self._told: dict[int, int] = {}

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

    def was_late(self, worker: int, late: Late, now: float) -> bool:
        """A worker said where its main loop was when it was late; whether that is worth telling. A worker that says it
        more often than it should is not listened to."""
        before, told = self._late[worker][0] if worker in self._late else -PAUSE, self._told.get(worker, 0)
        if not 0.0 <= late.seconds < LONGEST or now - before < PAUSE or told >= MOST_TOLD:
            return False
        self._told[worker] = told + 1
        self._late[worker] = now, late
        return True

    def forget(self, worker: int) -> None:
        """It is gone, and its end is explained."""
        self._beats.pop(worker, None)
        self._late.pop(worker, None)
        self._told.pop(worker, None)

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
        return LateSample(round(now - at, 3), round(late.seconds, 3), bounded_frames(late.frames))

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
