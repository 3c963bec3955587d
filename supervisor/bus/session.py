"""Keeps the bus connected: the only one who opens, closes and subscribes a driver."""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from ..fact import Fact
from ..facts import BusConnected, BusDeaf, BusLost
from . import hearing
from .driver import BusError, Driver

State = Literal["connecting", "connected", "deaf", "away"]
PROBE = b"probe "


class Deaf(BusError):
    """The bus answers, but what is published is not heard."""


class Session:
    """Connects, subscribes to `channels()`, awaits `up()`, and then watches: with a probe on its own channel every
    `period` seconds (0: never, for a bus that cannot be lost). After a loss it begins again, with a growing back-off.

    `hear` gets what is heard but for the probes. `offset` is the bus's clock minus `time.monotonic()`, as of the last
    probe; `since` is the monotonic time of the present `state`; `error` is why the bus is not connected.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        channels: Callable[[], frozenset[str]],
        probe: str,
        hear: Callable[[str, bytes], None],
        up: Callable[[], Awaitable[None]],
        tell: Callable[[Fact], None],
        period: float = hearing.PERIOD,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.state: State = "connecting"
        self.since = time.monotonic()
        self.error = ""
        self.reconnects = 0
        self.offset = time.time() - time.monotonic()
        self._driver, self._channels, self._probe_channel = driver, channels, probe
        self._hear, self._up, self._tell = hear, up, tell
        self._period, self._jitter = period, jitter
        self._hearing = hearing.Hearing()
        self._subscribed: frozenset[str] | None = None
        self._loss = ""
        self._broken = asyncio.Event()
        self._connections = 0
        driver.hear, driver.lost = self._heard, self._break

    async def run(self) -> None:
        """Until cancelled."""
        tries = 0
        while True:
            began = time.monotonic()
            try:
                await self._connect()
                began = time.monotonic()
                await self._up()
                await self._watch()
            except BusError as error:
                tries = hearing.tries_after(tries, time.monotonic() - began if self._subscribed is not None else 0.0)
                self._lose(error)
            finally:
                self._subscribed = None
                await self._driver.close()
            await asyncio.sleep(hearing.delay(tries, self._jitter()))

    def now(self) -> float:
        """The bus's time, seconds since 1970, without asking."""
        return time.monotonic() + self.offset

    async def resubscribe(self) -> None:
        """`channels()` changed. A bus that is away is subscribed when it is back."""
        if self._subscribed is None:
            return
        try:
            await self._subscribe()
        except BusError as error:
            self._break(str(error))

    def document(self) -> dict[str, Any]:
        """For `bkd status`: `since` are the seconds in this state, `probe` those since the last probe was heard."""
        now, heard = time.monotonic(), self._hearing.heard
        return {
            "url": self._driver.place,
            "connected": self.state == "connected",
            "state": self.state,
            "since": round(now - self.since, 3),
            "error": self.error or None,
            "reconnects": self.reconnects,
            "probe": None if heard is None else round(now - heard, 3),
        }

    async def _connect(self) -> None:
        self._hearing = hearing.Hearing()
        self._broken.clear()
        await self._driver.open()
        await self._ask_time()
        await self._subscribe()
        self.error = ""
        self.reconnects = self._connections
        self._connections += 1
        self._change("connected")
        self._tell(BusConnected(url=self._driver.place))

    async def _subscribe(self) -> None:
        """Again, if they changed meanwhile."""
        while (wanted := self._channels() | {self._probe_channel}) != self._subscribed:
            await self._driver.subscribe(wanted)
            self._subscribed = wanted

    async def _watch(self) -> None:
        due = time.monotonic()
        while True:
            late = time.monotonic() - due > self._period / 2
            if self._period:
                await self._probe(late=late)
            wait = hearing.period(self._period, self._jitter())
            due = time.monotonic() + wait
            await self._unbroken(wait or None)

    async def _probe(self, *, late: bool) -> None:
        token = secrets.token_hex(8).encode()
        self._hearing = hearing.ask(self._hearing, token, late=late)
        if self._hearing.deaf:
            raise Deaf("what is published is not heard any more")
        await self._driver.publish(self._probe_channel, PROBE + token)
        await self._ask_time()

    async def _unbroken(self, limit: float | None) -> None:
        """Returns after so many seconds; raises BusError as soon as the subscription is broken."""
        try:
            async with asyncio.timeout(limit):
                await self._broken.wait()
        except TimeoutError:
            return
        raise BusError(self._loss)

    async def _ask_time(self) -> None:
        """The bus's clock is taken to be read in the middle of the round trip."""
        asked = time.monotonic()
        at = await self._driver.now()
        self.offset = at - (asked + time.monotonic()) / 2

    def _heard(self, channel: str, payload: bytes) -> None:
        if channel == self._probe_channel and payload.startswith(PROBE):
            known = hearing.hear(self._hearing, payload.removeprefix(PROBE), time.monotonic())
            if known is not None:
                self._hearing = known
                return
        self._hear(channel, payload)

    def _break(self, why: str) -> None:
        self._loss = why
        self._broken.set()

    def _lose(self, error: BusError) -> None:
        self.error = str(error)
        if isinstance(error, Deaf):
            self._change("deaf")
            self._tell(BusDeaf(url=self._driver.place))
        elif self.state != "away":
            self._change("away")
            self._tell(BusLost(url=self._driver.place, why=self.error))

    def _change(self, state: State) -> None:
        if state != self.state:
            self.state, self.since = state, time.monotonic()
