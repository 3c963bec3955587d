"""The journal: what the supervisor did and why, one line of JSON for each fact, in `events.jsonl` of a folder.

Written by the master alone; read by anybody, with or without a cluster. A line is
`{"time": wall clock, "mono": monotonic seconds, "fact": kind, …}`. Older parts are events.jsonl.1 (the newest) … .keep.
"""

import os
import select
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from math import inf
from pathlib import Path

import msgspec

from .fact import Fact
from .facts import Dropped, decode
from .inotify import Watch
from .logfiles import Stream
from .rotation import move

NAME = "events.jsonl"

_READ = 256 << 10
_LONGEST = 8 << 20
_BREATH = 0.02
_encode = msgspec.json.Encoder().encode


class Journal:
    """The writing side. It never raises for want of disk: what could not be written is counted in `lost`, and said in
    the journal as soon as that works again. Rotates when the file would pass `limit` bytes (0: never)."""

    def __init__(self, folder: Path, *, limit: int, keep: int) -> None:
        self.lost = 0
        self.fault = ""
        self._path = Path(folder) / NAME
        self.bound(limit=limit, keep=keep)
        self._unsaid = 0
        self._descriptor = -1
        self._size = 0
        self._torn = False

    def bound(self, *, limit: int, keep: int) -> None:
        """How large a file may be, and how many older ones stay."""
        self._limit, self._keep = limit, keep

    def write(self, fact: Fact) -> None:
        """Append one fact; `fault` says what went wrong with it, if anything."""
        self.fault = ""
        try:
            self._open()
            if self._unsaid:
                self._append(_line(Dropped(count=self._unsaid)))
                self._unsaid = 0
            self._append(_line(fact))
        except (OSError, UnicodeError, TypeError) as error:  # a name that is no UTF-8 is no reason to stop the master
            self.lost += 1
            self._unsaid += 1
            self.fault = str(error)

    def close(self) -> None:
        """Close the file; the next fact opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        if self._descriptor >= 0:
            if _same(self._path, self._descriptor):
                return
            self.close()
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o640)
        self._size = os.fstat(self._descriptor).st_size
        self._torn = self._size > 0 and os.pread(self._descriptor, 1, self._size - 1) != b"\n"

    def _append(self, line: bytes) -> None:
        if self._limit and self._size and self._size + len(line) > self._limit:
            self._rotate()
        data = b"\n" + line if self._torn else line
        written = os.write(self._descriptor, data)
        self._size += written
        if written < len(data):
            self._torn = True
            raise OSError(f"{self._path}: only {written} of {len(data)} bytes were written")
        self._torn = False

    def _rotate(self) -> None:
        """A rotation that fails is tried again after another `limit` bytes: rather a long file than none."""
        try:
            move(self._path, self._path, self._keep)
        except OSError as error:
            self.fault = str(error)
            self._size = 0
            return
        self.close()
        self._open()


class Record(msgspec.Struct, frozen=True):
    """One line read: `time` is the wall clock in seconds since 1970, `mono` the writer's monotonic clock.

    `fact` is None when this bkd does not know its `kind`; `line` is the JSON as it stands.
    """

    time: float
    mono: float
    kind: str
    fact: Fact | None
    line: bytes

    def describe(self) -> str:
        """One line for people."""
        return self.fact.describe() if self.fact else f"{self.kind} (unknown to this version of bkd)"


class Records(Iterator[Record]):
    """What lies in the journal, oldest first; it closes itself at the end."""

    def __init__(self, folder: Path, *, since: float | None = None) -> None:
        self._malformed = 0
        self._since = since
        self._stream = Stream(os.fspath(Path(folder) / NAME), longest=_LONGEST)
        self._ready: deque[Record] = deque()

    def __next__(self) -> Record:
        while not self._ready:
            self._ready.extend(self.some())
            if not self._ready and not self._stream.pending():
                self.close()
                raise StopIteration
        return self._ready.popleft()

    def some(self) -> list[Record]:
        """The next ones, none if there are none yet."""
        return [record for record in map(self._record, self._stream.read(_READ)) if record is not None]

    def pending(self) -> bool:
        """Whether there is more to read now."""
        return self._stream.pending()

    @property
    def malformed(self) -> int:
        """Lines passed over because they are no facts, such as one torn by a power cut."""
        return self._malformed + (self._stream.overdue() < inf)

    def to_end(self) -> None:
        """Pass over all there is now."""
        self._stream.rewind(0)

    def close(self) -> None:
        """Close the files."""
        self._stream.close()

    def _record(self, line: bytes) -> Record | None:
        if not line:
            return None
        try:
            stamp = _stamp.decode(line)
        except msgspec.MsgspecError:
            self._malformed += 1
            return None
        at = stamp.time.timestamp()
        if self._since is not None and at < self._since:
            return None
        try:
            return Record(at, stamp.mono, stamp.fact, decode(line), line)
        except msgspec.MsgspecError:
            return Record(at, stamp.mono, stamp.fact, None, line)


class _Stamp(msgspec.Struct, frozen=True):
    time: datetime
    mono: float
    fact: str


_stamp = msgspec.json.Decoder(_Stamp)


def read(folder: Path, *, since: float | None = None) -> Records:
    """What was written, from `since` (seconds since 1970) on; ends at the end. Close it when you stop before that."""
    return Records(folder, since=since)


def follow(folder: Path, *, since: float | None = None, stop: int | None = None) -> Iterator[Record]:
    """What is written from now (the first item being asked for) or from `since` on, until `stop` is readable."""
    records = Records(folder, since=since)
    watch = Watch(os.fspath(folder))
    try:
        if since is None:
            records.to_end()
        while True:
            found = records.some()
            yield from found
            watch.changed(found=bool(found))
            if not records.pending() and _stopped(watch, stop, breath=bool(found)):
                return
    finally:
        watch.close()
        records.close()


def _stopped(watch: Watch, stop: int | None, *, breath: bool) -> bool:
    poll = select.poll()
    if stop is not None:
        poll.register(stop, select.POLLIN)
    if watch.descriptor is not None and not breath:
        poll.register(watch.descriptor, select.POLLIN)
    ready = poll.poll(1000 * (_BREATH if breath else watch.patience) + 1)
    return stop in [descriptor for descriptor, _ in ready]


def _line(fact: Fact) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    return b'{"time":"%sZ","mono":%.3f,%s\n' % (now.encode(), time.monotonic(), _encode(fact)[1:])


def _same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
