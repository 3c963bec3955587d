"""Limiters and locks for applications: of this host in the master's memory, of the fleet on the bus.

A lock belongs to a process: when it ends, its locks are free at once, whatever they were taken for.
"""

import asyncio
import math
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from loguru import logger

from ..ipc.bucket import Buckets, Rate
from ..ipc.errors import AwayError, BkdError, RefusedError
from ..ipc.leases import Leases
from ..ipc.message import UNREADABLE, Envelope
from .exchange import Exchange
from .identity import Identity
from .neighbours import Shared
from .port import Port, raw
from .tree import Handle

LONGEST_NAME = 200
LONGEST_TTL = 86_400.0
SCOPES = ("fleet", "host")
Answer = msgspec.Raw | Coroutine[Any, Any, msgspec.Raw]
T = TypeVar("T")
A = TypeVar("A", bound="Asked")


class Asked(msgspec.Struct):
    """What every one of them is given."""

    name: str
    scope: str = "fleet"


class LimiterAsked(Asked):
    """See `bucket.Rate`."""

    rate: float = 0.0
    interval: float = 1.0
    most: float = 0.0
    cost: float = 1.0
    reset: int = 0
    multiplier: float = 0.0
    cap: float = 3600.0


class LockAsked(Asked):
    """`owner`: whatever tells the holders of one process apart; `ttl` in seconds."""

    owner: str = ""
    ttl: float = 60.0


@dataclass
class Holder:
    """A process with locks; `fleet`: the keys and owners of those on the bus."""

    handle: Handle
    fleet: set[tuple[str, str]] = field(default_factory=set)


class Services:
    """One per master. Scopes are the same where the fleet is one host."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._buckets, self._leases = Buckets(), Leases()
        self._holders: dict[tuple[int, int], Holder] = {}

    def limiter(self, port: Port, envelope: Envelope) -> Answer:
        """Seconds to wait, 0.0 when it was taken."""
        asked = understood(envelope, LimiterAsked)
        rate = Rate(asked.rate, asked.interval, asked.most, asked.cost, asked.reset, asked.multiplier, asked.cap)
        driver = self._driver(asked)
        if driver is None:
            return raw(_checked(lambda: self._buckets.take(asked.name, rate, _now())))
        _checked(rate.check)
        return _of_the_bus(driver.limit(self._key("limit", asked), rate))

    def lock(self, port: Port, envelope: Envelope) -> Answer:
        """{"fence", "wait"}: see `leases.Taken`."""
        asked = _locked(envelope)
        owner, driver = self._owner(port.who, asked), self._driver(asked)
        holder = self._holder(port.who)
        if driver is None:
            taken = _checked(lambda: self._leases.take(asked.name, owner, asked.ttl, _now()))
            return raw({"fence": taken.fence, "wait": taken.wait})
        return self._lock_on_bus(driver, holder, (self._key("lock", asked), owner), asked.ttl)

    def renew(self, port: Port, envelope: Envelope) -> Answer:
        """Whether it is still the owner's, now for another `ttl` seconds."""
        asked = _locked(envelope)
        owner, driver = self._owner(port.who, asked), self._driver(asked)
        if driver is None:
            return raw(self._leases.renew(asked.name, owner, asked.ttl, _now()))
        return self._renew_on_bus(driver, self._holder(port.who), (self._key("lock", asked), owner), asked.ttl)

    def unlock(self, port: Port, envelope: Envelope) -> Answer:
        """Whether it was still the owner's."""
        asked = _locked(envelope)
        owner, driver = self._owner(port.who, asked), self._driver(asked)
        if driver is None:
            return raw(self._leases.free(asked.name, owner))
        key = self._key("lock", asked)
        holder = self._holders.get((port.who.pid, port.who.start))
        if holder is not None:
            holder.fleet.discard((key, owner))
        return _of_the_bus(driver.unlock(key, owner))

    # -- on the bus

    def _driver(self, asked: Asked) -> Shared | None:
        return self.exchange.fleet.driver if asked.scope == "fleet" else None

    def _key(self, kind: str, asked: Asked) -> str:
        return f"{self.exchange.fleet.app}:{kind}:{asked.name}"

    def _owner(self, who: Identity, asked: LockAsked) -> str:
        return f"{self.exchange.fleet.host}/{who.pid}.{who.start}/{asked.owner}"

    async def _lock_on_bus(self, driver: Shared, holder: Holder, held: tuple[str, str], ttl: float) -> msgspec.Raw:
        holder.fleet.add(held)
        try:
            taken = await _known(driver.lock(*held, ttl))
        except BkdError:
            holder.fleet.discard(held)
            raise
        await self._note(driver, holder, held, is_held=taken.fence > 0)
        return raw({"fence": taken.fence, "wait": taken.wait})

    async def _renew_on_bus(self, driver: Shared, holder: Holder, held: tuple[str, str], ttl: float) -> msgspec.Raw:
        """It may have been taken of another master: from now on it ends with its process here as well."""
        renewed = await _known(driver.renew(*held, ttl))
        await self._note(driver, holder, held, is_held=renewed)
        return raw(renewed)

    async def _note(self, driver: Shared, holder: Holder, held: tuple[str, str], *, is_held: bool) -> None:
        """The process may have ended while the bus was asked."""
        if not is_held:
            holder.fleet.discard(held)
        elif holder.handle.alive():
            holder.fleet.add(held)
        else:
            await self._unlock_all(driver, frozenset({held}))

    async def _unlock_all(self, driver: Shared, held: frozenset[tuple[str, str]]) -> None:
        for key, owner in held:
            try:
                await driver.unlock(key, owner)
            except BkdError as error:
                logger.warning("{} stays locked until its time is over: {}", key, error)

    # -- whose they are

    def _holder(self, who: Identity) -> Holder:
        """Watched from its first lock on; raises RefusedError when it has ended already, or cannot be watched."""
        key = (who.pid, who.start)
        holder = self._holders.get(key)
        if holder is None:
            try:
                handle = Handle.open(*key)
            except OSError as error:
                raise RefusedError(f"{who.name} cannot be watched: {error.strerror}") from error
            if handle is None:
                raise RefusedError(f"{who.name} has ended")
            holder = self._holders[key] = Holder(handle)
            asyncio.get_running_loop().add_reader(handle.pidfd, self._ended, key)
        return holder

    def _ended(self, key: tuple[int, int]) -> None:
        holder = self._holders.pop(key)
        asyncio.get_running_loop().remove_reader(holder.handle.pidfd)
        holder.handle.close()
        self._leases.free_all(f"{self.exchange.fleet.host}/{key[0]}.{key[1]}/")
        driver = self.exchange.fleet.driver
        if driver is not None and holder.fleet:
            self.exchange.tasks.run(self._unlock_all(driver, frozenset(holder.fleet)))


def understood(envelope: Envelope, kind: type[A]) -> A:
    """What is asked for; raises RefusedError when it cannot be."""
    try:
        asked = msgspec.msgpack.decode(envelope.data, type=kind)
    except UNREADABLE as error:
        raise RefusedError(f"{envelope.op}: {error}") from error
    if not 0 < len(asked.name) <= LONGEST_NAME:
        raise RefusedError(f"{envelope.op}: a name has 1 to {LONGEST_NAME} characters")
    if asked.scope not in SCOPES:
        raise RefusedError(f"{envelope.op}: scope is {' or '.join(SCOPES)}")
    return asked


def _locked(envelope: Envelope) -> LockAsked:
    asked = understood(envelope, LockAsked)
    if not (math.isfinite(asked.ttl) and 0.0 < asked.ttl <= LONGEST_TTL):
        raise RefusedError(f"{envelope.op}: a lock is held for more than 0 and at most {LONGEST_TTL:g} s")
    if len(asked.owner) > LONGEST_NAME:
        raise RefusedError(f"{envelope.op}: an owner has at most {LONGEST_NAME} characters")
    return asked


def _checked(take: Any) -> Any:
    try:
        return take()
    except ValueError as error:
        raise RefusedError(str(error)) from error


async def _of_the_bus(answer: Awaitable[object]) -> msgspec.Raw:
    return raw(await _known(answer))


async def _known(answer: Awaitable[T]) -> T:
    """What the bus says; raises AwayError when it is away."""
    try:
        return await answer
    except ValueError as error:
        raise RefusedError(str(error)) from error
    except BkdError as error:
        raise AwayError(str(error)) from error


def _now() -> float:
    return asyncio.get_running_loop().time()
