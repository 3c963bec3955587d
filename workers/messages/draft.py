"""What `enqueue` is told, made into a message. Values only."""

import datetime
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypedDict, runtime_checkable

import msgspec
from msgspec.structs import replace

from ...ipc.durable.guid import new_guid, new_guids
from ...ipc.durable.model import MOST_ARGS, MOST_PAYLOAD, PRIORITY, Conflict, NewMessage, Routing
from ...ipc.durable.policy import NAME, WHAT_NAMES_ARE
from ...ipc.errors import RefusedError
from ...ipc.units import parse_duration

Duration = float | str | datetime.timedelta
MOST_OPTIONS = 16 * 1024  # bytes: everything but arguments and payload
SURE = 100  # characters of a kind
_encode = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(NewMessage).decode


@runtime_checkable
class Handled(Protocol):
    """A function that `handler` has decorated."""

    kind: str


Kind = str | Handled | Callable[..., Any]


class Options(TypedDict, total=False):
    """How a message is to be run; all optional.

    `delay` from now, or `due` (a moment with a time zone; the later of both); `priority`: lower first, 50 is usual.
    `key`: the same key never makes a second message. `unique` and `conflict`: no second living one, see `Conflict`.
    `deadline` (from now, or a moment): dead when it is not done by then; `on_deadline` "alert": only told.
    `payload`: up to 10 MiB beside the arguments. `notify`: who is told when it is dead. `guid`: made by whoever
    enqueues. `routing`: where it comes from and belongs to; `tracking_id` and `parent_id` are short for its fields.
    """

    delay: Duration
    due: datetime.datetime
    priority: int
    key: str
    unique: str
    conflict: Conflict | str
    max_attempts: int
    deadline: Duration | datetime.datetime
    on_deadline: str
    notify: str
    payload: bytes
    guid: str
    tracking_id: str
    parent_id: int
    routing: Routing


OPTIONS = frozenset(Options.__annotations__)
ON_DEADLINE = ("expire", "alert")


def drafts(kind: Kind, many: Iterable[Any], now: int, options: Options) -> list[NewMessage]:
    """A message for each of these arguments, as by `draft`; what is the same for all is looked at once."""
    pattern, bodies = draft(kind, None, now, options), [_body(args) for args in many]
    _check_size(pattern.kind, "arguments", max(map(len, bodies), default=0), MOST_ARGS)
    guids = [pattern.guid] * len(bodies) if options.get("guid") else new_guids(len(bodies))
    return [replace(pattern, args=body, guid=guid) for body, guid in zip(bodies, guids, strict=True)]


def draft(kind: Kind, args: Any, now: int, options: Options) -> NewMessage:
    """The message; `now` in ms of UTC. Raises RefusedError for what no store would take, TypeError for arguments that
    JSON does not know, and for an option that there is not."""
    if unknown := options.keys() - OPTIONS:
        raise TypeError(f"there is no option {min(unknown)!r}; there are: {', '.join(sorted(OPTIONS))}")
    name = kind if isinstance(kind, str) else getattr(kind, "kind", "")
    if not isinstance(name, str) or not name:
        raise RefusedError(f"{kind!r} is no kind of message: give its name, or a function decorated with @handler")
    if not NAME.fullmatch(name):
        raise RefusedError(f"{name[:SURE]!r} is no kind of message: {WHAT_NAMES_ARE}")
    body = _body(args)
    payload = options.get("payload", b"")
    _check_size(name, "arguments", len(body), MOST_ARGS)
    _check_size(name, "payload", len(payload), MOST_PAYLOAD)
    message = _drafted(name, body, payload, now, options)
    return _valid(message) if options or len(name) > SURE or not name.isascii() else message


def _body(args: Any) -> bytes:
    return b"{}" if args is None else _encode(args)


def _drafted(name: str, body: bytes, payload: bytes, now: int, options: Options) -> NewMessage:
    return NewMessage(
        kind=name,
        args=body,
        payload=payload,
        priority=options.get("priority", PRIORITY),
        delay=round(seconds(options.get("delay", 0)) * 1000),
        due=moment(options["due"]) if "due" in options else 0,
        guid=_guid(options.get("guid", "")),
        key=options.get("key", ""),
        unique=options.get("unique", ""),
        conflict=Conflict(_one_of("conflict", options.get("conflict", Conflict.RETURN), tuple(Conflict))),
        max_attempts=options.get("max_attempts", 0),
        deadline=_deadline(options["deadline"], now) if "deadline" in options else 0,
        on_deadline=_one_of("on_deadline", options.get("on_deadline", "expire"), ON_DEADLINE),
        notify=options.get("notify", ""),
        routing=_routing(options),
    )


def _one_of(option: str, given: str, words: tuple[str, ...]) -> str:
    if given not in words:
        raise RefusedError(f"{option} is one of {', '.join(words)}, not {given!r}")
    return given


def _valid(message: NewMessage) -> NewMessage:
    """The message, if all that was said of it is of the right type and can be sent: one that cannot would take others
    with it that are put at the same time. Raises RefusedError."""
    try:
        data = _pack(replace(message, args=b"", payload=message.payload[:1]))
        _unpack(data)
    except (msgspec.MsgspecError, UnicodeError, OverflowError, TypeError) as error:
        raise RefusedError(f"{message.kind[:SURE]!r} cannot be stored like this: {error}") from error
    _check_size(message.kind[:SURE], "options", len(data), MOST_OPTIONS)
    return message


def seconds(duration: Duration) -> float:
    """Of a duration in seconds, as text such as "5m", or a timedelta. Raises ValueError."""
    if isinstance(duration, str):
        return parse_duration(duration)
    if isinstance(duration, datetime.timedelta):
        return duration.total_seconds()
    return float(duration)


def moment(when: datetime.datetime) -> int:
    """In ms of UTC. Raises ValueError for a moment without a time zone, and for what is none."""
    if not isinstance(when, datetime.datetime):
        raise ValueError(f"{when!r} is no moment: give a datetime with a time zone, such as datetime.now(UTC)")
    if when.tzinfo is None:
        raise ValueError(f"{when} has no time zone: say which one is meant, such as datetime.now(UTC)")
    return round(when.timestamp() * 1000)


def _guid(given: str) -> str:
    """As it is written everywhere; what is no text is found later."""
    if not isinstance(given, str):
        return given
    try:
        return str(uuid.UUID(given)) if given else new_guid()
    except ValueError as error:
        raise RefusedError(f"{given!r} is no guid: give a UUID, such as {new_guid()}") from error


def _deadline(given: Duration | datetime.datetime, now: int) -> int:
    return moment(given) if isinstance(given, datetime.datetime) else now + round(seconds(given) * 1000)


def _routing(options: Options) -> Routing:
    given = {name: options[name] for name in ("tracking_id", "parent_id") if name in options}
    routing = options.get("routing", Routing())
    return replace(routing, **given) if given else routing


def _check_size(kind: str, what: str, size: int, most: int) -> None:
    if size > most:
        hint = "put what is large into payload=" if what == "arguments" else "store it elsewhere and send where it is"
        raise RefusedError(f"{kind}: {what} of {size:,} bytes are over the limit of {most:,}; {hint}")
