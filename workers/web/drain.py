"""Leaving without losing a request.

The order matters: the gates close at an exact point; from there on every response says `Connection: close`; accepted
connections on their way arrive; a connection without a request is closed only after it has been idle for `lame_duck`,
and for as long again, at most, as this process stood still: the whole machine may have, with the clients on it;
streams and websockets run until they end. The whole has no deadline of its own: that is the supervisor's, by SIGTERM.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from time import monotonic

from .accept import Gate, Welcome
from .protocol import Http, Traffic

LOOK = 0.25  # seconds; a stream that ends leaves an idle connection behind and tells nobody
BREATH = 0.005  # seconds between two looks at least


class Drain:
    """The drain of one worker; `changed` is set whenever a connection comes or goes."""

    def __init__(
        self, gates: Sequence[Gate], welcome: Welcome, traffic: Traffic, changed: asyncio.Event, *, lame_duck: float
    ) -> None:
        self._gates = gates
        self._welcome = welcome
        self._traffic = traffic
        self._changed = changed
        self._lame_duck = lame_duck
        self._stood_still = 0.0  # seconds by which looks were late, at most `lame_duck`

    async def run(self, *, last: bool) -> None:
        """Returns when nothing is open any more. `last`: nobody else accepts, so the queue is emptied first."""
        for gate in self._gates:
            gate.close()
        self._traffic.announce_close()
        if last:
            self.empty()
        await self._welcome.settled()
        while self._traffic.connections or self._traffic.work():
            await self._connections_gone()
            await self._work_done()

    def empty(self) -> None:
        """Accept what is queued now."""
        for gate in self._gates:
            gate.empty()

    async def _connections_gone(self) -> None:
        due = monotonic()
        while self._traffic.connections:
            self._changed.clear()
            now = monotonic()
            self._stood_still = min(self._stood_still + max(now - due, 0.0), self._lame_duck)
            pause = self._close_idle(now)
            due = now + pause
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _work_done(self) -> None:
        if work := self._traffic.work():
            await asyncio.wait(work)

    def _close_idle(self, now: float) -> float:
        """Close what has been idle long enough; seconds until the next look."""
        pause = LOOK
        for connection in list(self._traffic.connections):
            since = connection.idle_since() if isinstance(connection, Http) else None
            if since is None:
                continue
            left = since + self._lame_duck + self._stood_still - now
            if left <= 0:
                connection.transport.close()
            else:
                pause = min(pause, left)
        return max(pause, BREATH)
