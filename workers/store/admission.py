"""What may be stored, and when it is due: rules that are the same in every store."""

from hashlib import blake2b

import msgspec

from ...ipc.durable.model import MOST_ARGS, MOST_PAYLOAD, PRIORITY, NewMessage

MOST_KEY = 255
MOST_MOMENT = 1 << 53  # ms of UTC
MOST_PRIORITY = MOST_ATTEMPTS = (1 << 31) - 2


def refusal(message: NewMessage) -> str:
    """Why a message cannot be stored, in words; "" when it can."""
    if _is_usual(message):
        return ""
    if not message.kind:
        return "a message needs a kind"
    if len(message.args) > MOST_ARGS:
        return (
            f"the arguments of {message.kind} have {len(message.args)} bytes, more than {MOST_ARGS}: "
            "put what is large into the payload"
        )
    if len(message.payload) > MOST_PAYLOAD:
        return (
            f"the payload of {message.kind} has {len(message.payload)} bytes, more than {MOST_PAYLOAD}: "
            "store it elsewhere and pass a reference"
        )
    if len(message.key) > MOST_KEY or len(message.unique) > MOST_KEY:
        return f"a key of {message.kind} has more than {MOST_KEY} characters: use a hash of it"
    return _out_of_range(message)


def _is_usual(message: NewMessage) -> bool:
    """What nearly all messages are: kind and arguments and nothing else that could be wrong."""
    return bool(
        message.kind
        and len(message.args) <= MOST_ARGS
        and message.priority == PRIORITY
        and not (message.payload or message.key or message.unique)
        and not (message.delay or message.due or message.deadline or message.max_attempts or message.routing.parent_id)
    )


def _out_of_range(message: NewMessage) -> str:
    for name, value, least, most in (
        ("priority", message.priority, -MOST_PRIORITY, MOST_PRIORITY),
        ("delay", message.delay, 0, MOST_MOMENT),
        ("due", message.due, 0, MOST_MOMENT),
        ("deadline", message.deadline, 0, MOST_MOMENT),
        ("max_attempts", message.max_attempts, 0, MOST_ATTEMPTS),
        ("parent_id", message.routing.parent_id, 0, MOST_MOMENT),
    ):
        if not least <= value <= most:
            return f"{name} {value} of {message.kind} is not between {least} and {most}"
    return ""


def digest(message: NewMessage) -> bytes:
    """What tells messages of the same idempotency key apart: 16 bytes over kind, arguments and payload."""
    found = blake2b(digest_size=16)
    for part in (message.kind.encode(), _canonical(message.args), message.payload):
        found.update(len(part).to_bytes(8) + part)
    return found.digest()


def _canonical(args: bytes) -> bytes:
    """The same for the same document, in whatever order its members are."""
    try:
        return msgspec.json.encode(msgspec.json.decode(args), order="sorted")
    except msgspec.MsgspecError:
        return args


def due_at(message: NewMessage, now: int) -> int:
    """When it may run first, in ms of UTC; never before now."""
    return max(now + message.delay, message.due, now)
