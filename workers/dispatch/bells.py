"""What rings from outside: a store that tells when something was enqueued elsewhere. Polling alone would be enough."""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from ..store.protocol import Store, StoreAway, StoreError

HEARKEN = 1.0  # seconds of one wait; a bell that is to end does so after it
BACK_OFF_FIRST, BACK_OFF_CAP = 0.05, 1.0
CHANGED = "*"  # said for cancels, and for what was said of kinds

logger = logging.getLogger("bkd.dispatch")


class Listener(Protocol):
    """A connection of its own at which the store tells news."""

    def wait(self, timeout: float) -> set[str]:
        """Kinds that may be claimed now, and CHANGED; empty when nothing came. Raises StoreAway, StoreError."""

    def close(self) -> None:
        """Let go of the connection. Called in the thread that waits."""


class Bells:
    """A daemon thread that waits at the listener; `rung` is called in it."""

    def __init__(self, listener: Listener, rung: Callable[[set[str]], None]) -> None:
        self._listener, self._rung = listener, rung
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bells", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait no more."""
        self._ended.set()

    def _run(self) -> None:
        delay, is_deaf = BACK_OFF_FIRST, False
        while not self._ended.is_set():
            try:
                if news := self._listener.wait(HEARKEN):
                    self._rung(news)
                delay, is_deaf = BACK_OFF_FIRST, False
            except (StoreAway, StoreError) as error:
                logger.log(logging.DEBUG if is_deaf else logging.INFO, "news of the store are not heard: %s", error)
                is_deaf = True
                self._ended.wait(delay)
                delay = min(2 * delay, BACK_OFF_CAP)
        self._listener.close()


def listener_of(store: Store) -> Listener | None:
    """None: this kind of store has no news, whatever changes it comes through the dispatcher."""
    make = getattr(store, "listener", None)
    found: Listener | None = make() if make is not None else None
    return found
