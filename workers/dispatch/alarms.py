"""What operators should know: said to every master that is connected, or to the next one."""

import logging
from collections import deque
from collections.abc import Callable

from ...ipc.durable.wire import Alarm

MOST_KEPT = 100
QUIET = 10.0  # seconds between two alarms of the same fact about the same thing

logger = logging.getLogger("bkd.dispatch")


class Alarms:
    """Keeps alarms until a master is there. The same about the same thing is not said again within QUIET seconds, only
    counted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._masters: list[Callable[[Alarm], None]] = []
        self._kept: deque[Alarm] = deque(maxlen=MOST_KEPT)
        self._said: dict[tuple[str, str], float] = {}
        self._unsaid: dict[tuple[str, str], int] = {}

    def tell(self, fact: str, text: str, about: str = "") -> None:
        """One line about `about`; always in the log, too, unless it is held back."""
        key, now = (fact, about), self._clock()
        if about and now - self._said.get(key, -QUIET) < QUIET:
            self._unsaid[key] = self._unsaid.get(key, 0) + 1
            return
        if others := self._unsaid.pop(key, 0):
            text = f"{text} (and {others} more since the last line)"
        self._forget(now)
        self._said[key] = now
        text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
        logger.warning("%s: %s", fact, text)
        self._send(Alarm(fact, text))

    def join(self, master: Callable[[Alarm], None]) -> None:
        """A master listens from now on."""
        self._masters.append(master)
        while self._kept:
            master(self._kept.popleft())

    def leave(self, master: Callable[[Alarm], None]) -> None:
        """It does not any more."""
        self._masters.remove(master)

    def _send(self, alarm: Alarm) -> None:
        for master in self._masters:
            master(alarm)
        if not self._masters:
            self._kept.append(alarm)

    def _forget(self, now: float) -> None:
        old = [key for key, when in self._said.items() if now - when >= QUIET and key not in self._unsaid]
        for key in old:
            del self._said[key]
