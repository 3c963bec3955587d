"""Where text goes that code of the shell prints: apart from what the application prints at the same time.

While code of a shell runs, `sys.stdout` and `sys.stderr` are stand-ins that look at a context variable: what that code
and the tasks it makes print goes to the shell, everything else where it always went.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar, copy_context
from typing import Any, TextIO

MOST_PRINTED = 1 << 20
PIECE = 1 << 16
CUT = f"\n… cut here: more than {MOST_PRINTED >> 20} MiB was printed\n"


class Printed:
    """What one statement has printed and nobody has taken yet: text with its stream, about MOST_PRINTED bytes in all.

    `closed`: the statement has ended; what its tasks print from now on is not its own any more.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.closed = False
        self._wake = wake
        self._lock = threading.Lock()
        self._pieces: deque[tuple[bool, str]] = deque()
        self._left = MOST_PRINTED

    def write(self, text: str, *, error: bool = False) -> None:
        """Called in whatever thread prints. What is too much is not kept, and that is said once."""
        data = text.encode(errors="backslashreplace")
        with self._lock:
            if self._left < 0 or not data:
                return
            is_first = not self._pieces
            self._pieces.append((error, data[: self._left].decode(errors="ignore")))
            self._left -= len(data)
            if self._left < 0:
                self._pieces.append((True, CUT))
        if is_first:
            self._wake()

    def end(self, text: str) -> None:
        """Why the statement failed, however much it has printed before."""
        with self._lock:
            self._pieces.append((True, text))
        self._wake()

    def take(self) -> tuple[str, str]:
        """The next PIECE characters at most, for standard output and for standard error: one of them is empty."""
        with self._lock:
            if not self._pieces:
                return "", ""
            error, size, texts = self._pieces[0][0], 0, []
            while self._pieces and self._pieces[0][0] == error and size < PIECE:
                text = self._pieces.popleft()[1]
                if len(text) > PIECE - size:
                    self._pieces.appendleft((error, text[PIECE - size :]))
                    text = text[: PIECE - size]
                texts.append(text)
                size += len(text)
        return ("", "".join(texts)) if error else ("".join(texts), "")

    def is_empty(self) -> bool:
        """Whether everything was taken."""
        return not self._pieces


_printed: ContextVar[Printed | None] = ContextVar("bkd-shell", default=None)


def context_of(printed: Printed) -> Context:
    """A context in which what is printed goes there."""
    context = copy_context()
    context.run(_printed.set, printed)
    return context


class StandIn:
    """Stands for a standard stream: text goes to the shell whose code prints it, all else to the stream itself."""

    def __init__(self, stream: TextIO | None, *, error: bool) -> None:
        self.stream, self._error = stream, error

    def write(self, text: str) -> int:
        """As of the stream."""
        printed = _printed.get()
        if printed is None or printed.closed:
            return self.stream.write(text) if self.stream is not None else len(text)
        printed.write(text, error=self._error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """As of the stream."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Streams:
    """Puts the stand-ins in place while any code of a shell runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._places: dict[str, StandIn] = {}

    def enter(self) -> None:
        """A statement begins."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                for name in ("stdout", "stderr"):
                    self._places[name] = StandIn(getattr(sys, name), error=name == "stderr")
                    setattr(sys, name, self._places[name])

    def leave(self) -> None:
        """A statement has ended. A stream that the application has replaced meanwhile stays as it is."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for name, place in self._places.items():
                    if getattr(sys, name) is place:
                        setattr(sys, name, place.stream)
