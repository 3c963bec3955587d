"""How late the main loop is, and where it was instead of turning. Used in the heartbeat thread alone."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from time import monotonic, process_time  # bound before an application can patch them

from .. import ipc
from ..ipc.message import Late
from ..ipc.stacks import Frame
from .sources import INSTALLED

CLOSEST = 0.05
PROBES = 4
MOST_PLACES = 20
OVERSLEPT = 1.0
RAN = 0.1  # share of one CPU: a process that was stopped has used none, one that was starved a little
STDLIB = os.path.dirname(os.__file__) + os.sep
MACHINERY = (
    os.path.dirname(asyncio.__file__) + os.sep,
    os.path.dirname(__file__) + os.sep,
    os.path.dirname(ipc.__file__) + os.sep,
)

Place = tuple[str, str, int]


class Probe:
    """A callback posted to the loop again and again: when it was posted last, when it ran last; `is_out` in between."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop, self._clock = loop, clock
        self.posted = self.ran = 0.0
        self.is_out = False

    @property
    def is_over(self) -> bool:
        """Whether the loop has ended, and the worker will: a probe that is out stays out."""
        return not self._loop.is_running()

    def post(self, now: float) -> None:
        """To be called when it is not out."""
        self.posted, self.is_out = now, True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._mark)

    def _mark(self) -> None:
        self.ran = self._clock()
        self.is_out = False


class Lateness:
    """Looks at the loop every now and then, `due` says when next; `late` counts how often it was later than `warn`.

    `sample` gives the stack of the main thread. A process that was stopped as a whole blames nobody; one that C code
    kept from running anything else, which shows in its CPU time, was late. Times are in seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sample: Callable[[], list[Frame]],
        *,
        period: float,
        warn: float,
        clock: Callable[[], float] = monotonic,
        cpu: Callable[[], float] = process_time,
    ) -> None:
        self._probe, self._sample, self._cpu = Probe(loop, clock), sample, cpu
        self.due = self._looked = self._used = self._worst = 0.0
        self.late, self._caught = 0, False
        self._places: set[Place] = set()
        self.again(clock())
        self.pace(period, warn)

    def pace(self, period: float, warn: float) -> None:
        """Look at every heartbeat at least, and often enough for `warn` (0: nothing is late)."""
        self._warn = warn
        self._every = min(period, max(CLOSEST, warn / PROBES)) if warn else period
        self.due = min(self.due, self._looked + self._every)

    def again(self, now: float) -> None:
        """Begin to look, now; nobody has for a while, for want of a master."""
        self.due, self._looked, self._used = now, now, self._cpu()

    def look(self, now: float, *, woke: float) -> Late | None:
        """What there is to tell: where the loop is, if it is late there for the first time. `woke`: when the calling
        thread came back from its last sleep, which was to end when a look is `due`."""
        kept = self._kept(woke)
        probe, told = self._probe, None
        behind = max(kept, (now if probe.is_out else probe.ran) - probe.posted)
        self._worst = max(self._worst, behind)
        if self._warn and behind >= self._warn and not self._caught:
            self._caught = True
            told = self._told(behind, stays=probe.is_out or kept > 0) if not probe.is_over else None
        if not probe.is_out:
            probe.post(now)
            self._caught = False
        self._looked = now
        self._plan(now)
        return told

    def lag(self, now: float) -> float:
        """The most that it was behind since the last call, or is now."""
        worst = max(self._worst, self.behind(now))
        self._worst = 0.0
        return worst

    def behind(self, now: float) -> float:
        """For how long the loop has not turned."""
        return now - self._probe.posted if self._probe.is_out else 0.0

    def _kept(self, woke: float) -> float:
        """How long C code let nothing else of this process run, not even the calling thread, which could post no probe.
        When the whole process did not run, a probe that is out counts anew."""
        overslept, before, self._used = woke - self.due, self._used, self._cpu()
        if self._used - before >= overslept * RAN:
            return overslept if overslept > self._every else 0.0
        if overslept > self._every + OVERSLEPT:
            self._probe.posted = woke if self._probe.is_out else self._probe.ran
        return 0.0

    def _plan(self, now: float) -> None:
        self.due = now + self._every
        if self._warn and not self._caught:
            self.due = min(self.due, max(self._probe.posted + self._warn, now + CLOSEST))

    def _told(self, seconds: float, *, stays: bool) -> Late | None:
        """None for a place that was told of, when that were enough, and for one that it does not stay in."""
        self.late += 1
        frames = self._sample() if stays else []
        where = place(frames)
        if where is None or where in self._places or len(self._places) >= MOST_PLACES:
            return None
        self._places.add(where)
        return Late(round(seconds, 3), frames)


def place(frames: list[Frame]) -> Place | None:
    """File, function and line of the innermost frame of the application; without one, of the innermost that does not
    belong to the loop or to bkd, or of the innermost at all."""
    theirs = [frame for frame in frames if not _is_machinery(frame.file)]
    own = [frame for frame in theirs if not _is_library(frame.file)]
    return next(((frame.file, frame.function, frame.line) for frame in (*own, *theirs, *frames)), None)


def _is_machinery(file: str) -> bool:
    return file.startswith(MACHINERY) or os.path.basename(os.path.dirname(file)) == "uvloop"


def _is_library(file: str) -> bool:
    return file.startswith((STDLIB, "<frozen ")) or not INSTALLED.isdisjoint(file.split(os.sep))
