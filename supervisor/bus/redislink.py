"""The connections to a server of the Redis protocol. Importing this imports redis: only `RedisDriver.open` does.

The library's own retries are off: a call that fails says so, and the session connects anew.
"""

import asyncio
import inspect
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from loguru import logger
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, RedisError

from ..logfiles import clean
from .driver import BusError
from .place import FILES, Place
from .scripts import Script

MOST_CONNECTIONS = 8
FRAMES_A_TURN = 64
LISTEN = 60.0
LETTING_GO = 1.0
LONGEST_REASON = 300


def reason(place: Place, error: BaseException, patience: float) -> str:
    """One line that says what is wrong with the bus, and what to do where that is known."""
    text = " ".join(clean(str(error)).split())
    if place.password:
        text = text.replace(place.password, "***")
    text = text[:LONGEST_REASON].rstrip(".")
    if isinstance(error, AuthenticationError):
        return f"{place} refuses user {place.user or 'default'}: correct user and password in [bus] url ({text})"
    if isinstance(error, NoPermissionError):
        return f"{place} does not allow that: give user {place.user or 'default'} the rights of etc/redis.acl ({text})"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{place}: its certificate is not trusted: name the authority's with ?ssl_ca_certs=FILE ({text})"
    if isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutError":
        return f"{place} did not answer within {patience:g} s"
    cause = next((e for e in (error, error.__cause__, error.__context__) if isinstance(e, OSError) and e.errno), None)
    if cause is not None and cause.errno is not None:
        return f"{place}: {os.strerror(cause.errno).lower()}"
    known = isinstance(error, RedisError | OSError)
    return f"{place}: {text}" if known and text else f"{place}: {type(error).__name__} {text}".rstrip()


class RedisLink:
    """A bounded pool of connections for commands, and one connection for the subscription."""

    def __init__(self, place: Place, name: str, patience: float) -> None:
        self._place, self._patience = place, patience
        kind, options = _connections(place)
        options |= {
            "username": place.user or None,
            "password": place.password or None,
            "db": place.db,
            "client_name": name,
            "protocol": 2,
            # `speaking` limits each call: below 3.12 the library's way of doing that can swallow a cancellation
            "socket_timeout": None,
            "socket_connect_timeout": patience,
            "retry": Retry(NoBackoff(), 0, supported_errors=()),
            **_no_introduction(kind),
        }
        self._pools = [
            BlockingConnectionPool(most, timeout=patience, connection_class=kind, **options)
            for most in (MOST_CONNECTIONS, 1)
        ]
        self._client, self._listener = (Redis(connection_pool=pool) for pool in self._pools)

    async def command(self, *arguments: str | bytes | int) -> Any:
        """The server's answer; raises BusError."""
        async with self.speaking():
            return await self._say(*arguments)

    async def time(self) -> float:
        """The server's clock, seconds since 1970; raises BusError."""
        async with self.speaking():
            seconds, microseconds = await self._say("TIME")
            return float(int(seconds) + int(microseconds) / 1_000_000)

    async def together(self, *commands: tuple[str | bytes | int, ...]) -> list[Any]:
        """The answers of commands of which all are done or none; raises BusError."""
        async with self.speaking(), self._client.pipeline(transaction=True) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute()

    async def run(self, script: Script, key: str, *arguments: str | bytes | int) -> Any:
        """Run a script by its digest; a server that has not seen it yet is given the text. Raises BusError."""
        async with self.speaking():
            try:
                return await self._say("EVALSHA", script.digest, 1, key, *arguments)
            except NoScriptError:
                return await self._say("EVAL", script.text, 1, key, *arguments)

    def _say(self, *arguments: str | bytes | int) -> Awaitable[Any]:
        answer: Awaitable[Any] = self._client.execute_command(*arguments)  # type: ignore[no-untyped-call]
        return answer

    @asynccontextmanager
    async def speaking(self) -> AsyncIterator[None]:
        """Whatever goes wrong with the server in here, or takes longer than `patience` seconds, is a BusError."""
        try:
            async with asyncio.timeout(self._patience):
                yield
        except Exception as error:  # an odd answer makes the library raise whatever it likes
            raise BusError(self.reason(error)) from error

    def reason(self, error: BaseException) -> str:
        """One line that says what is wrong with the bus, and what to do where that is known."""
        return reason(self._place, error, self._patience)

    def subscription(self, hear: Callable[[str, bytes], None], lost: Callable[[Exception], None]) -> "Subscription":
        """The one that may be there at a time."""
        return Subscription(self._listener.pubsub(), hear, lost)

    async def close(self, subscription: "Subscription | None") -> None:
        """Let go of everything; a server that is away delays that by LETTING_GO seconds for each part at most."""
        parts = [subscription.close] if subscription is not None else []
        for part in [*parts, *(pool.disconnect for pool in self._pools)]:
            try:
                async with asyncio.timeout(LETTING_GO):
                    await part()
            except Exception as error:  # noqa: BLE001 - what is let go of may be in any state
                logger.debug("a connection to {} did not end well: {}", self._place, type(error).__name__)


def _connections(place: Place) -> tuple[type[Any], dict[str, Any]]:
    if place.scheme == "unix":
        return UnixDomainSocketConnection, {"path": place.path}
    tcp = {"host": place.host, "port": place.port, "socket_keepalive": True}
    return (_Trusting, tcp | {"trust": _trust(place)}) if place.scheme == "rediss" else (Connection, tcp)


class _Trust(NamedTuple):
    context: ssl.SSLContext

    def get(self) -> ssl.SSLContext:
        return self.context


class _Trusting(SSLConnection):
    """The library would read the certificates of all authorities anew for each connection, in the loop."""

    def __init__(self, *, trust: _Trust, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context = trust  # type: ignore[assignment]


def _trust(place: Place) -> _Trust:
    """Raises BusError when a file of the URL cannot be used."""
    authorities, certificate, key = (place.files.get(name) for name in FILES)
    try:
        context = ssl.create_default_context(cafile=authorities)
        if certificate:
            context.load_cert_chain(certificate, key)
    except OSError as error:
        names = ", ".join(f"{name}={path}" for name, path in place.files.items())
        raise BusError(f"{place}: correct the files in [bus] url: {error.strerror or error} ({names})") from error
    return _Trust(context)


def _no_introduction(kind: type[Any]) -> dict[str, None]:
    """The library would tell the server its name and version, which etc/redis.acl does not allow."""
    modern = any("driver_info" in inspect.signature(base).parameters for base in kind.__mro__)
    return {"driver_info": None} if modern else {"lib_name": None, "lib_version": None}


class Subscription:
    """The channels of one connection, and the task that reads it. It ends with the connection, and says so once."""

    def __init__(self, pubsub: PubSub, hear: Callable[[str, bytes], None], lost: Callable[[Exception], None]) -> None:
        self._pubsub, self._hear, self._lost = pubsub, hear, lost
        self._wanted: frozenset[str] = frozenset()
        self._confirmed: set[str] = set()
        self._changed = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None
        self._end: Exception | None = None

    async def set(self, channels: frozenset[str]) -> None:
        """Returns when the server has confirmed it; the caller limits how long that may take."""
        self._wanted = channels
        if more := channels - self._confirmed:
            await self._pubsub.subscribe(*more)
            if self._reader is None:
                self._reader = asyncio.create_task(self._read(), name="bus subscription")
        if less := self._confirmed - channels:
            await self._pubsub.unsubscribe(*less)
        async with self._changed:
            await self._changed.wait_for(lambda: self._confirmed == channels or self._end is not None)
        if self._end is not None:
            raise self._end

    async def close(self) -> None:
        """The caller limits how long that may take."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _read(self) -> None:
        try:
            while True:
                for _ in range(FRAMES_A_TURN):
                    message = await self._pubsub.get_message(timeout=LISTEN)
                    if message is not None:
                        await self._take(message)
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 - whatever ends it, the session has to know
            self._end = error
            self._lost(error)
            async with self._changed:
                self._changed.notify_all()

    async def _take(self, message: dict[str, Any]) -> None:
        kind, channel = message["type"], message["channel"].decode(errors="replace")
        if kind == "message":
            self._deliver(channel, message["data"])
            return
        (self._confirmed.add if kind == "subscribe" else self._confirmed.discard)(channel)
        async with self._changed:
            self._changed.notify_all()

    def _deliver(self, channel: str, payload: bytes) -> None:
        if channel not in self._wanted:
            return
        try:
            self._hear(channel, payload)
        except Exception:  # noqa: BLE001 - whatever one message does, the next ones are heard
            logger.exception("a message on {} was not taken", channel)
