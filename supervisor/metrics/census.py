"""The numbers of durable messages: asked for when somebody scrapes, and no more often than the store can bear."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from loguru import logger

from ...ipc.errors import BkdError

EVERY = 5.0  # seconds between two questions at least
REST = 20  # times as long as an answer took nothing is asked: a twentieth of the store's time at most is for counting
LONGEST_REST = 60.0
WAIT = 1.0  # seconds that a scrape waits for an answer


class Tallies(NamedTuple):
    """`kinds`: the rows of `bkd message stats --json` as they were last known; `is_up`: the last question was
    answered; `why`: what was said instead."""

    kinds: Sequence[Mapping[str, Any]]
    is_up: bool
    why: str = ""


class _Document(msgspec.Struct):
    kinds: list[dict[str, Any]]


class Census:
    """Lives in the master's loop. `ask` gives that document, or None where there are no messages; raises BkdError."""

    def __init__(self, ask: Callable[[], Awaitable[str | None]]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[None] | None = None
        self._asked = self._next = 0.0
        self._known: Tallies | None = None

    async def latest(self, wait: float = WAIT) -> Tallies | None:
        """What is known, None for nothing; a question that is due is asked first, and waited for `wait` seconds."""
        now = time.monotonic()
        asking = self._asking
        if asking is None or (asking.done() and now >= self._next):
            self._asked = now
            asking = self._asking = asyncio.get_running_loop().create_task(self._renew())
        if not asking.done():
            await asyncio.wait([asking], timeout=max(0.0, self._asked + wait - now))
        return self._known

    async def _renew(self) -> None:
        took = 0.0
        try:
            answer = await self._ask()
            took = time.monotonic() - self._asked
            self._known = None if answer is None else Tallies(msgspec.json.decode(answer, type=_Document).kinds, True)
        except (BkdError, msgspec.DecodeError) as error:
            logger.debug("the numbers of messages are not to be had: {}", error)
            self._known = Tallies(self._known.kinds if self._known else (), False, str(error))
        finally:
            self._next = self._asked + max(EVERY, min(LONGEST_REST, REST * took))
