"""The listening sockets of a cluster: bound by the keeper on order, and kept by it over the death of a master."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..ipc.errors import BkdError
from .activation import is_inherited, label, meant
from .config.address import Address, Inet, Inherited, Unix, absolute_address, parse_address
from .dispatcher import LISTENER as MESSAGES
from .dispatcher import is_listener, listener
from .keeperlink import KeeperError, KeeperLink

BACKLOG = 2048
CONTROL = "control"
DOOR = "worker:"
CONTROL_BACKLOG = 512


class ListenError(BkdError):
    """An address cannot be listened on; the text says why and who has it."""


class Listeners:
    """Descriptors by name: the text of the bind, `control`, `worker:UID`, `messages` or `messages:UID`.

    `inherited` are the sockets that the keeper was started with, as `activation` calls them. They are never
    closed: what one configuration does not use the next one may.
    """

    def __init__(self, keeper: KeeperLink, found: dict[str, int]) -> None:
        self.keeper = keeper
        self.inherited = {name: found.pop(name) for name in [*found] if is_inherited(name)}
        self.found = found
        self._reserved = 0

    async def control(self, path: str) -> int:
        """The control socket, for the owner only."""
        if CONTROL not in self.found:
            await self._order(CONTROL, "unix", path, CONTROL_BACKLOG, 0o600)
        return self.found[CONTROL]

    async def door(self, uid: int, path: str) -> None:
        """The socket of another user's processes, and of nobody else. Raises KeeperError."""
        name = f"{DOOR}{uid}"
        if name not in self.found:
            await self._order(name, "unix", path, CONTROL_BACKLOG, 0o600, uid)

    async def messages(self, path: str, uid: int = -1) -> None:
        """The dispatcher's socket for that user only (-1: the owner), bound anew when somebody has removed its file.
        Raises KeeperError and OSError."""
        name = listener(uid)
        if name in self.found and not os.path.lexists(path):
            self.close({name})
        if name not in self.found:
            await self._order(name, "unix", path, BACKLOG, 0o600, uid)

    @contextlib.contextmanager
    def renewing(self, name: str) -> Iterator[None]:
        """What is bound meanwhile takes the place of the socket of this name, whose file was removed. If nothing is,
        that one stays."""
        old = self.found.pop(name)
        try:
            yield
        finally:
            if name in self.found:
                os.close(old)
            else:
                self.found[name] = old

    async def web(self, text: str, base: str) -> None:
        """One `bind` of a group, relative to `base`. Raises ListenError."""
        if text in self.found:
            return
        address = parse_address(absolute_address(text, base))
        if isinstance(address, Inherited):
            self._take_over(text)
            return
        try:
            if isinstance(address, Unix):
                await self._order(text, "unix", address.path, BACKLOG, 0o666)
            else:
                family, resolved = await _resolve(address)
                await self._order(text, family, resolved, BACKLOG)
        except KeeperError as error:
            raise ListenError(f"cannot listen on {text}: {error}{_holder(address, error.errno)}") from error
        os.set_blocking(self.found[text], True)  # as programs expect it; web workers change that before they accept

    def _take_over(self, text: str) -> None:
        """Raises ListenError when it is not clear which socket is meant, or another address means the same."""
        names = meant(self.inherited, text)
        if not names:
            raise ListenError(_missing(text, self.inherited))
        if len(names) > 1:
            numbers = " or ".join(_number(name) for name in names)
            raise ListenError(f"{text}: {len(names)} sockets have this name: write {numbers}")
        others = [other for other in self.found if is_inherited(other) and meant(names, other)]
        if others:
            raise ListenError(f"{text} and {others[0]} are the same socket: write one of them, in one group")
        self.found[text] = os.dup(self.inherited[names[0]])

    async def all(self, texts: Iterable[str], base: str) -> None:
        """Each of these; raises ListenError."""
        for text in texts:
            await self.web(text, base)

    @contextlib.contextmanager
    def reserving(self) -> Iterator[None]:
        """What is bound meanwhile is for somebody who is not there yet."""
        self._reserved += 1
        try:
            yield
        finally:
            self._reserved -= 1

    def keep(self, wanted: set[str]) -> None:
        """Close every web listener but these, unless some are being reserved."""
        if not self._reserved:
            inner = {name for name in self.found if name.startswith(DOOR) or (MESSAGES in wanted and is_listener(name))}
            self.close(set(self.found) - wanted - inner - {CONTROL})

    def close(self, names: set[str]) -> None:
        """Close these, here and in the keeper."""
        for name in names:
            os.close(self.found.pop(name))
            if not is_inherited(name):
                self.keeper.tell("close", name=name)

    def unlink(self) -> None:
        """The keeper is gone and cannot remove the socket files any more."""
        for fd in [fd for name, fd in self.found.items() if not is_inherited(name)]:
            with socket.socket(fileno=os.dup(fd)) as listener:
                if listener.family == socket.AF_UNIX:
                    Path(listener.getsockname()).unlink(missing_ok=True)

    async def _order(self, name: str, family: str, address: object, backlog: int, mode: int = 0, uid: int = -1) -> None:
        """One order for all of it: a master may die at any moment, and the next one takes what there is."""
        _, descriptors = await self.keeper.order(
            "bind", name=name, family=family, address=address, backlog=backlog, mode=mode, uid=uid
        )
        self.found[name] = descriptors[0]


def _missing(text: str, inherited: Iterable[str]) -> str:
    there = ", ".join(f"fd:{label(name)} ({_number(name)})" for name in inherited)
    what = f"it was started with {there}" if there else "it was started with none"
    advice = f"FileDescriptorName={text.removeprefix('fd:')} in a systemd .socket unit passes one"
    return f"{text}: bkd was not given such a listening socket, {what}: {advice}"


def _number(name: str) -> str:
    return name.rpartition(":")[0]


async def _resolve(address: Inet) -> tuple[str, list[Any]]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ListenError(f"cannot listen on {address.host}: no such host") from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, *_rest, where = found[0]
    return ("inet6" if family == socket.AF_INET6 else "inet"), list(where[:2])


def _holder(address: Address, number: int | None) -> str:
    """Who has the port, as a clause for an error message; "" when that cannot be known."""
    if number != errno.EADDRINUSE or not isinstance(address, Inet):
        return ""
    import psutil

    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return ""
    for connection in connections:
        local: tuple[Any, ...] = connection.laddr
        if connection.status == psutil.CONN_LISTEN and local and local[1] == address.port and connection.pid:
            return f": pid {connection.pid} ({_name(connection.pid)}) listens there"
    return ""


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"
