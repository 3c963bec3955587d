"""Where a bus is: a URL taken to pieces. What is shown of it never holds the password."""

from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from .driver import BusError

PORT = 6379
_WRITE_IT_AS = {
    "redis": "redis://USER:PASSWORD@HOST:PORT/DB",
    "rediss": "rediss://USER:PASSWORD@HOST:PORT/DB?ssl_ca_certs=FILE",
    "unix": "unix://USER:PASSWORD@/PATH?db=DB",
}
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


class Place(NamedTuple):
    """A server of the Redis protocol. `path` is that of a unix socket, `files` are the options of TLS that name one."""

    scheme: str
    host: str
    port: int
    path: str
    user: str
    password: str
    db: int
    files: dict[str, str]

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        if self.scheme == "unix":
            return f"unix://{user}{self.path}" + (f"?db={self.db}" if self.db else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{user}{host}:{self.port}" + (f"/{self.db}" if self.db else "")

    def __repr__(self) -> str:
        return f"Place({self})"


def parse(url: str) -> Place:
    """Raises BusError, without the URL in it, when it is none that can be used."""
    scheme = url.partition("://")[0]
    if scheme not in _WRITE_IT_AS:
        raise BusError("[bus] url has to begin with redis://, rediss:// or unix://")
    try:
        return _place(urlsplit(url))
    except ValueError as error:
        form = _WRITE_IT_AS[scheme]
        raise BusError(
            f"[bus] url cannot be read: write it as {form}, special characters of the password as %XX"
        ) from error


def _place(parts: SplitResult) -> Place:
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    local = parts.scheme == "unix"
    known = {"db", *(("username", "password") if local else FILES if parts.scheme == "rediss" else ())}
    db = options.get("db") or ("" if local else parts.path.strip("/")) or "0"
    if parts.fragment or options.keys() - known or not (parts.path if local else parts.hostname):
        raise ValueError("there is something in it that means nothing")
    return Place(
        scheme=parts.scheme,
        host=unquote(parts.hostname or ""),
        port=parts.port or PORT,
        path=unquote(parts.path) if local else "",
        user=unquote(parts.username or "") or options.get("username", ""),
        password=unquote(parts.password or "") or options.get("password", ""),
        db=int(db),
        files={name: options[name] for name in FILES if name in options},
    )
