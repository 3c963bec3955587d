"""The forms a value may have: what to expect, in words, and how it is read. The schema names them."""

import re
import signal
import socket
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from ...ipc.units import parse_duration, parse_size
from ..places import clean_name
from .address import Inet, Inherited, parse_address
from .readiness import parse_readiness

VERBS = frozenset(
    {"restart", "rollback", "reload", "scale", "stop", "hold", "unhold", "reset", "dump", "signal", "send"}
)

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_UMASK = re.compile(r"0?[0-7]{3}")
_VERB = re.compile(r"([a-z]+)(:[a-z][a-z0-9_-]*|:\*)?")


class Form(NamedTuple):
    """`expected` completes "expected …"; `read` gives the value and raises ValueError when it is not of this form."""

    expected: str
    read: Callable[[Any], Any]


def form_of(kind: Any) -> Form:
    """The form of a value declared as `kind` in the schema (lists and tables are not values but hold them)."""
    bare = kind.__origin__ if get_origin(kind) is Annotated else kind
    meta = kind.__metadata__[0] if bare is not kind else None
    if meta is not None and meta.extra is not None:
        return FORMS[meta.extra["form"]]
    if get_origin(bare) is Literal:
        return _choice(get_args(bare))
    if meta is not None:
        return _number(meta.ge, meta.le)
    return SWITCH if bare is bool else TEXT


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string")
    return value


def _checked(check: Callable[[str], object], *, optional: bool = False) -> Callable[[Any], str]:
    """Reads a string that `check` does not object to; an optional one may be empty, which means not given."""

    def read(value: Any) -> str:
        if not optional or _text(value):
            check(_text(value))
        return str(value)

    return read


def _choice(allowed: tuple[str, ...]) -> Form:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError("not one of them")
        return value

    return Form("one of " + ", ".join(f'"{name}"' for name in allowed if name), read)


def _number(least: int, most: int) -> Form:
    def read(value: Any) -> int:
        number = int(value) if isinstance(value, str) and _digits(value) else value
        if type(number) is not int or not least <= number <= most:
            raise ValueError("not a number in the range")
        return number

    return Form(f"a whole number from {least} to {most}", read)


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool) and value not in ("true", "false"):
        raise ValueError("not a boolean")
    return value in (True, "true")


def _count(value: Any) -> int | str:
    return value if value == "auto" else _number(0, 10_000).read(value)  # type: ignore[no-any-return]


def _preload(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else _text(value)
    if text not in ("auto", "true", "false"):
        raise ValueError("not one of them")
    return text


def _positive_duration(value: Any) -> float:
    seconds = parse_duration(_text(value))
    if seconds <= 0:
        raise ValueError("not above 0s")
    return seconds


def _name(text: str) -> None:
    if clean_name(text) != text:
        raise ValueError("not a name")


def _module(text: str) -> None:
    if not all(part.isidentifier() for part in text.split(".")):
        raise ValueError("not a module")


def _reference(text: str) -> None:
    module, colon, name = text.partition(":")
    if not colon:
        raise ValueError("no colon")
    _module(module)
    _module(name)


def _signal(value: Any) -> str:
    name = _text(value).removeprefix("SIG")
    if f"SIG{name}" not in signal.Signals.__members__:
        raise ValueError("not a signal")
    return name


def _verb(text: str) -> None:
    match = _VERB.fullmatch(text)
    if match is None or match[1] not in VERBS:
        raise ValueError("not a verb")


def _matches(pattern: re.Pattern[str]) -> Callable[[str], None]:
    def check(text: str) -> None:
        if pattern.fullmatch(text) is None:
            raise ValueError("does not match")

    return check


def _bus(text: str) -> None:
    scheme, separator, rest = text.partition("://")
    if text != "local:" and (scheme not in ("redis", "rediss", "unix") or not separator or not rest):
        raise ValueError("not a bus")


def _metrics(text: str) -> None:
    """An address is written out: no name that could mean another one tomorrow, no port that nobody knows."""
    if text == "run_dir":
        return
    address = parse_address(text)
    if isinstance(address, Inherited) or (isinstance(address, Inet) and not (address.port and _is_ip(address.host))):
        raise ValueError("not an address to be scraped at")


def _is_ip(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        return False
    return True


def _store(text: str) -> None:
    if not text.removeprefix("sqlite:").removeprefix("postgresql://") or not text.startswith(
        ("sqlite:", "postgresql://")
    ):
        raise ValueError("not a store")


TEXT = Form("a string", _text)
SWITCH = Form("true or false", _boolean)

FORMS = {
    "kind": _choice(("web", "python", "command", "messages")),
    "duration": Form("a duration such as 10s", lambda value: parse_duration(_text(value))),
    "timeout": Form("a duration above 0s such as 10s", _positive_duration),
    "size": Form("a size such as 512MB", lambda value: parse_size(_text(value))),
    "count": Form('a whole number from 0 to 10000 or "auto"', _count),
    "preload": Form('"auto", true or false', _preload),
    "name": Form("a name of at most 64 letters, digits, -, _ and .", _checked(_name, optional=True)),
    "reference": Form("MODULE:NAME such as shop.web:app", _checked(_reference, optional=True)),
    "module": Form("a module such as shop.tasks", _checked(_module)),
    "address": Form("host:port, [::1]:8000, :8000, unix:PATH or fd:NAME", _checked(parse_address)),
    "readiness": Form(
        "tcp:HOST:PORT, notify, http:URL, log:REGEX or after:1s", _checked(parse_readiness, optional=True)
    ),
    "signal": Form("the name of a signal such as TERM", _signal),
    "clock": Form("a time of day such as 04:00", _checked(_matches(_CLOCK))),
    "umask": Form("an octal string such as 027", _checked(_matches(_UMASK), optional=True)),
    "verb": Form(f"VERB or VERB:GROUP such as restart:web (verbs: {', '.join(sorted(VERBS))})", _checked(_verb)),
    "bus": Form("local:, redis://…, rediss://… or unix://…", _checked(_bus)),
    "metrics": Form('"run_dir", 127.0.0.1:9400, [::1]:9400, unix:PATH or ""', _checked(_metrics, optional=True)),
    "store": Form("sqlite:PATH or postgresql://…", _checked(_store)),
}
