"""When a program counts as ready: `tcp:HOST:PORT`, `notify`, `http:URL`, `log:REGEX`, `after:1s`."""

import re
from typing import NamedTuple

from ...ipc.units import parse_duration
from .address import Inet, parse_address


class TcpReady(NamedTuple):
    """Ready when this address takes connections."""

    host: str
    port: int


class NotifyReady(NamedTuple):
    """Ready when it says so."""


class HttpReady(NamedTuple):
    """Ready when this URL answers with success."""

    url: str


class LogReady(NamedTuple):
    """Ready when a line it prints matches."""

    pattern: re.Pattern[str]


class AfterReady(NamedTuple):
    """Ready when it has lived for so many seconds."""

    seconds: float


Readiness = TcpReady | NotifyReady | HttpReady | LogReady | AfterReady


def parse_readiness(text: str) -> Readiness:
    """Raises ValueError when it is none of the forms."""
    if text == "notify":
        return NotifyReady()
    how, _colon, what = text.partition(":")
    match how:
        case "tcp":
            return _tcp(what)
        case "http" | "https":
            return _http(text, what)
        case "log":
            return _log(what)
        case "after":
            return AfterReady(parse_duration(what))
    raise ValueError(f"not a form of readiness: {how!r}")


def _tcp(what: str) -> TcpReady:
    address = parse_address(what)
    if not isinstance(address, Inet) or not address.port:
        raise ValueError("not a TCP address")
    return TcpReady(address.host or "127.0.0.1", address.port)


def _http(text: str, what: str) -> HttpReady:
    """Both `http:http://host/path` and the plain URL say it."""
    url = text if what.startswith("//") else what
    scheme, _separator, rest = url.partition("://")
    if scheme not in ("http", "https") or not rest.partition("/")[0] or not url.isprintable() or " " in url:
        raise ValueError("not a URL")
    return HttpReady(url)


def _log(what: str) -> LogReady:
    if not what:
        raise ValueError("no expression")
    try:
        return LogReady(re.compile(what))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
