"""What the threads of `bkd top` tell its loop."""

import os
import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from .model import Order


@dataclass(frozen=True)
class Told:
    """The master has answered."""

    document: dict[str, Any]


@dataclass(frozen=True)
class Lost:
    """It has not. `broken`: the connection has gone; `fault`: what it said instead of a status."""

    broken: bool = False
    fault: str = ""


@dataclass(frozen=True)
class Gone:
    """There is no cluster any more (`is_running` false), or this user may not look at it."""

    why: str
    is_running: bool = False


@dataclass(frozen=True)
class Added:
    """More lines for the pane of this source."""

    source: int
    lines: list[str]


@dataclass(frozen=True)
class Progressed:
    """A command tells how far it is."""

    order: Order
    line: str


@dataclass(frozen=True)
class Answered:
    """A command has ended."""

    order: Order
    code: int
    text: list[str]


Message = Told | Lost | Gone | Added | Progressed | Answered


class Inbox:
    """Many put, one takes. `descriptor` is readable while there is something."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False

    def put(self, message: Message) -> None:
        """In any thread; without effect once nobody takes."""
        with self._lock:
            if not self._is_closed:
                self._messages.put(message)
                os.eventfd_write(self.descriptor, 1)

    def take(self) -> list[Message]:
        """All there is; never waits."""
        try:
            os.eventfd_read(self.descriptor)
        except BlockingIOError:
            return []
        found: list[Message] = []
        while True:
            try:
                found.append(self._messages.get_nowait())
            except Empty:
                return found

    def close(self) -> None:
        """Nobody takes any more."""
        with self._lock:
            self._is_closed = True
            os.close(self.descriptor)
