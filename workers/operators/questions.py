"""What the verbs of operators are asked with."""

from datetime import datetime
from typing import Any, cast

import msgspec

from ...ipc.durable.model import PRIORITY, Conflict, Routing
from ..messages.draft import Options
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


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `enqueue` that can be said on a command line; durations in seconds."""

    delay: float = 0.0
    due: datetime | None = None
    deadline: float | datetime | None = None
    on_deadline: str = "expire"
    priority: int = PRIORITY
    key: str = ""
    unique: str = ""
    conflict: Conflict = Conflict.RETURN
    notify: str = ""
    max_attempts: int = 0
    guid: str = ""
    tracking_id: str = ""
    parent_id: int = 0
    routing: Routing = Routing()

    def options(self) -> Options:
        """Those that were given."""
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        return cast(Options, {name: value for name, value in given.items() if value != getattr(_NOTHING, name)})


_NOTHING = Given()


class Add(msgspec.Struct, frozen=True):
    """Messages of one kind to be stored, `count` of each of the arguments; `upload`: the name of a payload that was
    sent before."""

    kind: str
    items: list[Any] = []
    count: int = 1
    options: Given = Given()
    payload: bytes = b""
    upload: str = ""


class Part(msgspec.Struct, frozen=True):
    """The next part of a payload for messages to come."""

    upload: str
    data: bytes


class Switch(msgspec.Struct, frozen=True):
    """Kinds to be paused, resumed, or limited to `most` at once (0: no limit)."""

    kinds: list[str]
    reason: str = ""
    most: int = 0
