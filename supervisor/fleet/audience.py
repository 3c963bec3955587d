"""Who listens to a command that came over the bus: keeps what it says, bounded."""

from collections.abc import Callable
from typing import Any

from ...ipc.message import Finished, Message, Progress

LONGEST = 200_000


class Collected:
    """An audience that remembers."""

    def __init__(self, *, on_progress: Callable[[], None], on_promise: Callable[[dict[str, Any]], None]) -> None:
        self.on_progress, self.on_promise = on_progress, on_promise
        self._out = self._err = ""
        self._code = 1

    def send(self, message: Message, *, re: int = 0) -> None:
        """What the command says, piece by piece, and its end."""
        if isinstance(message, Progress | Finished):
            self._out = (self._out + message.out)[-LONGEST:]
            self._err = (self._err + message.err)[-LONGEST:]
        if isinstance(message, Finished):
            self._code = message.code
        elif isinstance(message, Progress):
            if message.resume:
                self.on_promise(message.resume)
            self.on_progress()

    def finished(self) -> Finished:
        """All of it, after the end; the last LONGEST characters when it is more."""
        return Finished(self._code, self._out, self._err)
