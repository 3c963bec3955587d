"""Where a group listens: `host:port`, `[::1]:8000`, `:8000`, `unix:PATH`, `fd:NAME`."""

import os
import socket
from typing import NamedTuple

LEAST_DESCRIPTOR = 3


class Inet(NamedTuple):
    """A TCP address; an empty host is every interface, port 0 any free port."""

    host: str
    port: int


class Unix(NamedTuple):
    """A socket in the file system."""

    path: str


class Inherited(NamedTuple):
    """A socket handed over by whoever started bkd, under this name or as this descriptor."""

    name: str


Address = Inet | Unix | Inherited


def parse_address(text: str) -> Address:
    """Raises ValueError when it is none."""
    if text.startswith("unix:"):
        return Unix(_not_empty(text[5:]))
    if text.startswith("fd:"):
        return Inherited(_parse_name(_not_empty(text[3:])))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("no port")
    return Inet(parse_host(host), parse_port(port))


def parse_port(text: str) -> int:
    """A port number; raises ValueError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ValueError("not a port")
    return int(text)


def parse_host(text: str) -> str:
    """A name or an address, IPv6 in brackets (which are taken off); raises ValueError."""
    if text.startswith("["):
        if not text.endswith("]"):
            raise ValueError("a bracket is not closed")
        return _ipv6(text[1:-1])
    if not all(c.isalnum() or c in "-._" for c in text):
        raise ValueError("not a host")
    return text


def absolute_address(text: str, base: str) -> str:
    """The same address with the path of a unix socket made absolute."""
    address = parse_address(text)
    return f"unix:{os.path.join(base, address.path)}" if isinstance(address, Unix) else text


def clash(address: Address) -> Address | None:
    """What two listeners must not share; None when they may (any free port)."""
    if isinstance(address, Unix):
        return Unix(os.path.normpath(address.path))
    if isinstance(address, Inet):
        return Inet("" if address.host in ("0.0.0.0", "::") else address.host, address.port) if address.port else None
    return address


def _ipv6(text: str) -> str:
    try:
        return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, text))
    except OSError as error:
        raise ValueError(f"not an IPv6 address: {text!r}") from error


def _parse_name(text: str) -> str:
    if ":" in text or not text.isprintable():
        raise ValueError("not the name of a socket")
    if text.isdigit() and int(text) < LEAST_DESCRIPTOR:
        raise ValueError(f"sockets that are handed over begin at fd:{LEAST_DESCRIPTOR}")
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("nothing behind the colon")
    return text
