"""What a kind of work may say to the master and hear from it: the seam between the work and the heartbeat thread."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..ipc.message import Drain
from ..ipc.stacks import OpenWork


class Load(NamedTuple):
    """What is open in this worker: requests in flight, age of the oldest in seconds; and how many were finished."""

    in_flight: int = 0
    oldest: float = 0.0
    served: int = 0


class Supervision(Protocol):
    """Handed to a kind of work in the worker's process; its methods may be called from the main thread."""

    def watch(
        self,
        loop: asyncio.AbstractEventLoop | None,
        load: Callable[[], Load],
        work: Callable[[], list[OpenWork]] = list,
    ) -> None:
        """Measure this loop's lag from now on (None: plain functions run in the main thread). `load` and `work`, which
        names what is open, oldest first, are called in the heartbeat thread and must not block."""

    def ready(self) -> None:
        """The work is being done from now on."""

    def failed(self, reason: str, trace: str = "") -> None:
        """The work cannot be done; the process will end. `reason` is one line for people, `trace` the rest of it."""

    def terminated(self) -> None:
        """SIGTERM came; the process will end."""

    def worn(self, why: str) -> None:
        """A fresh process had better take the place of this one, which takes nothing more. Called in any thread."""

    def on_serve(self, callback: Callable[[], None]) -> bool:
        """Whether work is not to be taken yet. Then `callback` is called in the heartbeat thread when it may be."""

    def on_drain(self, callback: Callable[[Drain], None]) -> None:
        """`callback` is called in the heartbeat thread when the master asks to drain (at once if it did already)."""
