"""What the verbs of operators are asked with."""

from typing import Any

import msgspec

from ...ipc.durable.model import PRIORITY
from .selection import Selection

CANCEL_LIMIT = 10.0


class Bulk(msgspec.Struct, frozen=True):
    """What is done with many. `yes`: it is meant, however many they are. `timeout`: how long the running ones are
    waited for, in seconds."""

    selection: Selection = Selection()
    dry_run: bool = False
    yes: bool = False
    timeout: float = CANCEL_LIMIT


class Look(msgspec.Struct, frozen=True):
    """What is looked at. `most`: lines at most."""

    selection: Selection = Selection()
    most: int = 100
    after: int = 0


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of `enqueue` that can be said on a command line; durations in seconds."""

    delay: float = 0.0
    deadline: float | None = None
    priority: int = PRIORITY
    key: str = ""
    unique: str = ""
    notify: str = ""
    max_attempts: int = 0


class Add(msgspec.Struct, frozen=True):
    """Messages of one kind to be stored, `count` of each of the arguments."""

    kind: str
    items: list[Any] = []
    count: int = 1
    options: Given = Given()


class Switch(msgspec.Struct, frozen=True):
    """Kinds to be paused, resumed, or limited to `most` at once (0: no limit)."""

    kinds: list[str]
    reason: str = ""
    most: int = 0
