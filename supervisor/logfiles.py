"""Reading what workers print: run_dir/log/NAME.log and its older parts NAME.log.1 …

A Stream joins the parts of one file and goes on through their rotation, of whichever kind (see `rotation`); it holds
its files open, so that an inode it knows cannot become another file's. A Follower looks after the streams of a folder.
The viewer imports this: standard library only, and no more of it than must be.
"""

import os
import select
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf

from .inotify import Watch
from .rotation import SUFFIX, Part, name_of, open_part

Folder = str | os.PathLike[str]
Line = tuple[str, str]

LONGEST_LINE, PATIENCE = 64 << 10, 1.0
TURN = 256 << 10
SHARE, LEAST_SHARE = 64 << 10, 4 << 10

_BREATH, _LOCK_PATIENCE = 0.02, 1.0

_PLAIN = "\x1b[0m"
_CONTROLS = [*range(9), *range(10, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: chr(code).encode("unicode_escape").decode() for code in _CONTROLS}


class Stream:
    """The lines of one file across its rotations, from the oldest part on unless told otherwise.

    A line is given out when it ends or has `longest` bytes; whether to wait `patience` seconds is up to the caller.
    """

    def __init__(self, path: str, *, longest: int = LONGEST_LINE, patience: float = PATIENCE) -> None:
        self.path = path
        self.consumed = 0
        self._longest, self._patience = longest, patience
        self._older: Part | None = None  # read to its end, kept for what a late writer adds
        self._parts: deque[Part] = deque()  # the first is being read, the last is the newest
        self._unfinished_since: float | None = None
        self._locked_since: float | None = None

    def read(self, amount: int) -> list[bytes]:
        """The lines completed by about `amount` bytes; none while the file is just being cut. Raises OSError."""
        with self._steady() as live:
            if self._locked_since is not None:
                return []
            lines = self._refresh(live) + self._late(amount)
            while self._parts and amount > 0:
                size, more = self._parts[0].read(amount, self._longest)
                lines += more
                amount -= size
                self.consumed += size
                if not size and not self._advance():
                    break
            self._let_go()
        self._note_unfinished(lines)
        return lines

    def unfinished(self) -> bytes:
        """The begin of a line whose end has not come (or nothing); it is given out once."""
        rest = b"".join(part.rest for part in self._held())
        for part in self._held():
            part.rest = b""
        self._unfinished_since = None
        return rest

    def overdue(self) -> float:
        """Monotonic time from which `unfinished` has waited long enough."""
        return inf if self._unfinished_since is None else self._unfinished_since + self._patience

    def left(self) -> int:
        """Bytes there are to read, if no file was cut since the last reading."""
        return sum(part.left() for part in self._held())

    def pending(self) -> bool:
        """Whether to read again without waiting for a change."""
        return self._locked_since is not None or self.left() > 0

    def written(self) -> float:
        """When something was last written (wall clock), 0 if there is nothing."""
        return max((part.written() for part in self._parts), default=0.0)

    def skip(self, over: int, leave: int) -> int:
        """When more than `over` bytes wait, drop all but the lines in the last `leave`; returns how many that were."""
        if self.left() <= over:
            return 0
        with self._steady() as live:
            if self._locked_since is not None:
                return 0
            self._refresh(live)
            before = self.left()
            if before <= over:
                return 0
            while len(self._parts) > 1:
                self._finish_first()
            self._parts[0].seek_line(leave)
            return before - self.left()

    def rewind(self, lines: int) -> None:
        """Go to the last `lines` lines there are now (0: to the end). Raises OSError."""
        with self._steady() as live:
            self._refresh(live)
            for part in self._parts:
                part.position = part.size()
            if lines and self._parts:
                missing = lines + self._parts[-1].ends_in_newline()
                for part in reversed(self._parts):
                    missing = missing and part.seek_back(missing)
            while len(self._parts) > 1 and not self._parts[0].left():
                self._advance()

    def start_at(self, inode: int, position: int) -> None:
        """Go to a place noted by `moment`; when that file is gone, all there is counts as new. Raises OSError."""
        with self._steady() as live:
            self._refresh(live)
            if inode not in [part.inode for part in self._parts]:
                return
            while self._parts[0].inode != inode:
                self._finish_first()
            self._parts[0].position = min(position, self._parts[0].size())

    def close(self) -> None:
        """Close the files."""
        for part in self._held():
            part.close()
        self._parts.clear()
        self._older = None

    def _held(self) -> list[Part]:
        return [*self._parts] if self._older is None else [self._older, *self._parts]

    @contextmanager
    def _steady(self) -> Iterator[Part | None]:
        """The live file, locked against being cut; a lock that is not to be had for long is passed over."""
        live = open_part(self.path)
        if live is None or live.lock():
            self._locked_since = None
        else:
            now = time.monotonic()
            since = self._locked_since or now
            self._locked_since = since if now - since < _LOCK_PATIENCE else None
        try:
            yield live
        finally:
            if live is not None:
                if live in self._parts:
                    live.unlock()
                else:
                    live.close()

    def _refresh(self, live: Part | None) -> list[bytes]:
        """Find out what rotations did; returns the line that a file emptied by somebody else left unfinished."""
        newer, copies = self._unknown(live)
        if copies:
            self._spread(copies)
        self._parts.extend(reversed(newer))
        newest = self._parts[-1] if self._parts else None
        if newest is None or newest.size() >= newest.position:
            return []
        newest.position = 0
        rest, newest.rest = newest.rest, b""
        return [rest] if rest else []

    def _unknown(self, live: Part | None) -> tuple[list[Part], list[Part]]:
        """Files not held yet, newest first: those newer than our newest, and those cut off from its head."""
        newest = self._parts[-1].inode if self._parts else None
        known = {part.inode for part in self._held()}
        newer: list[Part] = []
        copies: list[Part] = []
        found, number, part = newer, 0, live
        while part is not None or number == 0:
            if part is not None and part.inode not in known:
                known.add(part.inode)
                found.append(part)
            elif part is not None:
                if part is not live:
                    part.close()
                if part.inode == newest:
                    found = copies
                elif part.inode not in [new.inode for new in newer]:
                    break
            number += 1
            part = open_part(f"{self.path}.{number}")
        return newer, copies

    def _spread(self, copies: list[Part]) -> None:
        """Our place was counted in a file whose head now lies in `copies`: find it there."""
        current = self._parts.pop()
        oldest = copies[-1]
        for part in reversed(copies):
            part.position = min(current.position, part.size())
            current.position -= part.position
            self._parts.append(part)
        oldest.rest, current.rest = current.rest, b""
        self._parts.append(current)

    def _late(self, amount: int) -> list[bytes]:
        return self._older.read(amount, self._longest)[1] if self._older and self._older.left() else []

    def _advance(self) -> bool:
        if len(self._parts) < 2:
            return False
        done = self._parts.popleft()
        late = b""
        if self._older is not None:
            late = self._older.rest and self._older.rest + b"\n"
            self._older.close()
        self._parts[0].rest = late + done.rest
        done.rest = b""
        self._older = done
        return True

    def _finish_first(self) -> None:
        self._parts[0].position = self._parts[0].size()
        self._advance()

    def _let_go(self) -> None:
        """A deleted file that was read would only keep its blocks from the disk."""
        if self._older is not None and self._older.useless():
            self._older.close()
            self._older = None
        if len(self._parts) == 1 and self._parts[0].useless():
            self._parts.pop().close()

    def _note_unfinished(self, lines: list[bytes]) -> None:
        if not any(part.rest for part in self._held()):
            self._unfinished_since = None
        elif lines or self._unfinished_since is None:
            self._unfinished_since = time.monotonic()


class Follower:
    """The streams of a folder, found as they appear.

    Those that are there at first begin with their last `lines` lines, or where they were at the moment `since`; later
    ones begin at their begin. What cannot be read says so in a line of its own.
    """

    def __init__(self, folder: Folder, names: Sequence[str] = (), *, lines: int = 0, since: str | None = None) -> None:
        self.streams: dict[str, Stream] = {}
        self._folder, self._names = os.fspath(folder), names
        self._watch = Watch(self._folder)
        self._dirty = dict.fromkeys(log_names(folder, names))
        self._found, self._faults = False, dict[str, str]()
        places = _places(since or "")
        for name in self._dirty:
            self.streams[name] = stream = self._stream(name)
            with suppress(OSError):  # reading will say it
                if since is None:
                    stream.rewind(lines)
                elif name in places:
                    stream.start_at(*places[name])

    def turn(self) -> list[tuple[str, bytes]]:
        """A share of what is new, the same for each stream; never waits."""
        self._notice(self._watch.changed(found=self._found))
        share = min(SHARE, max(LEAST_SHARE, TURN // max(1, len(self._dirty))))
        lines = [(name, line) for name in [*self._dirty] for line in self._read(name, share)]
        now = time.monotonic()
        lines += [(name, stream.unfinished()) for name, stream in self.streams.items() if stream.overdue() <= now]
        self._found = bool(lines)
        return lines

    def rest(self) -> list[tuple[str, bytes]]:
        """Lines whose ends nobody waits for any more."""
        unfinished = [(name, stream.unfinished()) for name, stream in self.streams.items()]
        return [(name, line) for name, line in unfinished if line]

    def wait(self, *stops: int) -> set[int]:
        """Until the next turn is worth it or one of these descriptors is readable; returns those that are."""
        poll = select.poll()
        for stop in stops:
            poll.register(stop, select.POLLIN)
        if self._dirty or self._found:
            breath = 0.0 if self._dirty and self._found else _BREATH
            return {descriptor for descriptor, _ in poll.poll(breath * 1000)}
        if self._watch.descriptor is not None:
            poll.register(self._watch.descriptor, select.POLLIN)
        overdue = min((stream.overdue() for stream in self.streams.values()), default=inf) - time.monotonic()
        timeout = max(0.0, min(self._watch.patience, overdue))
        return {descriptor for descriptor, _ in poll.poll(timeout * 1000 + 1)} - {self._watch.descriptor}

    def close(self) -> None:
        """Close all files."""
        self._watch.close()
        for stream in self.streams.values():
            stream.close()

    def _notice(self, changed: set[str] | None) -> None:
        if changed is None:
            self._dirty |= dict.fromkeys([*self.streams, *log_names(self._folder, self._names)])
        else:
            names = {name for name in map(name_of, changed) if name and _selected(name, self._names)}
            self._dirty |= dict.fromkeys(sorted(names))

    def _read(self, name: str, share: int) -> list[bytes]:
        stream = self.streams.get(name)
        if stream is None:
            stream = self.streams[name] = self._stream(name)
        try:
            lines = stream.read(share)
        except OSError as error:
            del self._dirty[name]
            return self._complain(name, f"cannot read {stream.path}: {error.strerror}")
        if not stream.pending():
            del self._dirty[name]
        return lines

    def _complain(self, name: str, fault: str) -> list[bytes]:
        told, self._faults[name] = self._faults.get(name), fault
        return [] if told == fault else [fault.encode()]

    def _stream(self, name: str) -> Stream:
        return Stream(f"{self._folder}/{name}{SUFFIX}")


def follow(folder: Folder, names: Sequence[str] = (), *, lines: int = 0, stop: int | None = None) -> Iterator[Line]:
    """`(name, line)` as workers print them, after the last `lines` lines of each, until `stop` is readable."""
    follower = Follower(folder, names, lines=lines)
    try:
        while True:
            yield from ((name, show(line)) for name, line in follower.turn())
            if follower.wait(*([] if stop is None else [stop])):
                break
        yield from ((name, show(line)) for name, line in [*follower.turn(), *follower.rest()])
    finally:
        follower.close()


def tail(folder: Folder, names: Sequence[str] = (), lines: int = 10) -> Iterator[Line]:
    """The last `lines` lines of each file as `(name, line)`, file by file, the one written to last comes last."""
    follower = Follower(folder, names, lines=lines)
    try:
        for name, stream in sorted(follower.streams.items(), key=lambda item: item[1].written()):
            at, end = -1, stream.consumed + stream.left()
            while stream.consumed < end and (stream.consumed > at or stream.pending()):
                at = stream.consumed
                yield from ((name, show(line)) for line in stream.read(min(SHARE, end - at)))
            yield from [(name, show(rest)) for rest in [stream.unfinished()] if rest]
    finally:
        follower.close()


def log_names(folder: Folder, wanted: Sequence[str] = ()) -> list[str]:
    """Names that have printed something; `wanted` are slots or groups, none: all. Without a folder there are none."""
    try:
        with os.scandir(folder) as entries:
            names = {name_of(entry.name) for entry in entries if entry.is_file(follow_symlinks=False)}
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if name and _selected(name, wanted))


def moment(folder: Folder) -> str:
    """Where each file ends now, for a Follower to start there later."""
    places = []
    for name in log_names(folder):
        part = open_part(f"{os.fspath(folder)}/{name}{SUFFIX}")
        if part is not None:
            places.append(f"{name}/{part.inode}/{part.size()}")
            part.close()
    return "\n".join(places)


def show(line: bytes) -> str:
    """A line for a terminal, whatever the bytes."""
    return clean(line.removesuffix(b"\r").decode(errors="replace"))


def clean(text: str) -> str:
    """Text without power over a terminal: of control characters only tabs and colours (SGR) stay."""
    if text.isprintable():
        return text
    first, *others = text.encode(errors="backslashreplace").decode().split("\x1b[")
    pieces, coloured = [first.translate(_ESCAPES)], False
    for other in others:
        colour, end, after = other.partition("m")
        if end and not colour.strip("0123456789;:"):
            pieces += ["\x1b[", colour, end, after.translate(_ESCAPES)]
            coloured = True
        else:
            pieces += ["\\x1b[", other.translate(_ESCAPES)]
    return "".join(pieces) + (_PLAIN if coloured else "")


def _selected(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(name == one or name.startswith(f"{one}.") for one in wanted)


def _places(since: str) -> dict[str, tuple[int, int]]:
    return {name: (int(inode), int(at)) for name, inode, at in (line.rsplit("/", 2) for line in since.splitlines())}
