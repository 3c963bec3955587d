"""What letters hold. Times are seconds of the bus's clock, durations are in seconds."""

from typing import Any

import msgspec

_NIL = msgspec.Raw(b"\xc0")


class FleetCommand(msgspec.Struct, frozen=True, omit_defaults=True):
    """A verb for these hosts, in the order of their names. `issuer` is who asked, for people. At most `batch` of them
    are at it at a time (0: all), and none begins once more than `max_fail` have failed."""

    verb: str
    arguments: dict[str, Any]
    targets: tuple[str, ...]
    issuer: str = ""
    batch: int = 0
    max_fail: int = 0


class Ack(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a host has come with a command; its acknowledgements of one command have growing numbers.

    `state`: accepted, refused, running, done, failed or expired; `reason` is a line for people, `step` what it is at;
    `took`: seconds since it was accepted. `code`, `out`, `err`: exit code and output as the command line would have
    shown them, once it has ended.
    """

    host: str
    number: int
    state: str
    reason: str = ""
    step: str = ""
    took: float = 0.0
    code: int = 0
    out: str = ""
    err: str = ""


class GroupRow(msgspec.Struct, frozen=True):
    """One group of a host: how many workers it is to have, and how many are ready."""

    name: str
    kind: str
    count: int
    ready: int
    release: int


class HostRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A host in the inventory: only good in the field of that host, and from that host as sender.

    `version` is that of its bkd, `instance` names its master; `seen` is when this was written, `cursor` the id of the
    last entry of the commands' stream it has read; `left`: it has stopped as planned.
    """

    host: str
    tag: str
    version: str
    instance: str = ""
    groups: tuple[GroupRow, ...] = ()
    cursor: str = ""
    seen: float = 0.0
    left: bool = False


class BusEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """An application event for the workers of a role, on all hosts or on those with the tag; `by` is who sent it.

    `answer`: the id to answer it by within `within` seconds, "" when no answer is wanted.
    """

    role: str
    tag: str
    op: str
    data: msgspec.Raw = _NIL
    by: str = ""
    answer: str = ""
    within: float = 0.0


class BusAnswer(msgspec.Struct, frozen=True):
    """What the workers of the sender answered to the event with this id: a map from their names, left encoded."""

    id: str
    answers: msgspec.Raw
