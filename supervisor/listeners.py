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
from .config.address import Address, Inet, Unix, absolute_address, parse_address
from .keeperlink import KeeperError, KeeperLink

BACKLOG = 2048
CONTROL = "control"
CONTROL_BACKLOG = 512


class ListenError(BkdError):
    """An address cannot be listened on; the text says why and who has it."""


class Listeners:
    """Descriptors by name: the text of the bind, or `control`."""

    def __init__(self, keeper: KeeperLink, found: dict[str, int]) -> None:
        self.keeper = keeper
        self.found = found
        self._reserved = 0

    async def control(self, path: str) -> int:
        """The control socket, for the owner only."""
        if CONTROL not in self.found:
            await self._order(CONTROL, "unix", path, CONTROL_BACKLOG, 0o600)
        return self.found[CONTROL]

    async def web(self, text: str, base: str) -> None:
        """One `bind` of a group, relative to `base`. Raises ListenError."""
        if text in self.found:
            return
        address = parse_address(absolute_address(text, base))
        try:
            if isinstance(address, Unix):
                await self._order(text, "unix", address.path, BACKLOG, 0o666)
            elif isinstance(address, Inet):
                family, resolved = await _resolve(address)
                await self._order(text, family, resolved, BACKLOG)
            else:
                raise ListenError(f"{text}: socket activation is not supported yet; give an address")
        except KeeperError as error:
            raise ListenError(f"cannot listen on {text}: {error}{_holder(address, error.errno)}") from error

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
            self.close(set(self.found) - wanted - {CONTROL})

    def close(self, names: set[str]) -> None:
        """Close these, here and in the keeper."""
        for name in names:
            os.close(self.found.pop(name))
            self.keeper.tell("close", name=name)

    def unlink(self) -> None:
        """The keeper is gone and cannot remove the socket files any more."""
        for fd in self.found.values():
            with socket.socket(fileno=os.dup(fd)) as listener:
                if listener.family == socket.AF_UNIX:
                    Path(listener.getsockname()).unlink(missing_ok=True)

    async def _order(self, name: str, family: str, address: object, backlog: int, mode: int = 0) -> None:
        _, descriptors = await self.keeper.order(
            "bind", name=name, family=family, address=address, backlog=backlog, mode=mode
        )
        self.found[name] = descriptors[0]


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
