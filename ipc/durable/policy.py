"""What a kind of message promises: how it is retried, how long it may take, how long it is kept. Plain data.

Times are in seconds. Handlers say them as `30`, `"30s"` or `"5m"`; here they are numbers.
"""

import re
from typing import Literal

import msgspec

NAME = re.compile(r"[\w.:/@+-]{1,100}")  # of a kind
WHAT_NAMES_ARE = "a kind is 1 to 100 letters, digits and . : / @ + - _"

Unit = Literal["second", "minute", "hour", "day", "week", "month"]


class Exponential(msgspec.Struct, frozen=True, tag="exponential"):
    """The delay before the n-th retry is `first` × `factor`ⁿ⁻¹, at most `cap`, give or take the share `jitter`."""

    first: float = 2.0
    cap: float = 3600.0
    factor: float = 2.0
    jitter: float = 0.2


class Fixed(msgspec.Struct, frozen=True, tag="fixed"):
    """Always the same delay."""

    every: float = 60.0


class Calendar(msgspec.Struct, frozen=True, tag="calendar"):
    """`step` units of the calendar later (UTC). A month after 31 January is the last day of February."""

    step: int = 1
    unit: Unit = "day"


Schedule = Exponential | Fixed | Calendar


class KindPolicy(msgspec.Struct, frozen=True):
    """A kind of message and how it is run. `timeout`: soft deadline of one run, in seconds (0: none); `grace`: how much
    later it is a hard one. `max_crashes`: deaths of its process until it is quarantined. `max_locks`: runs that may
    find the lock taken. `keep` and `keep_dead`: for how long ends are kept, in seconds (negative: for ever). `alarm`:
    runs after which a loop is suspected. `max_running`: over the whole fleet (0: no limit), until an operator says
    otherwise."""

    name: str
    stages: tuple[str, ...] = ("run",)
    schedule: Schedule = Exponential()
    max_attempts: int = 5
    max_crashes: int = 3
    max_locks: int = 20
    timeout: float = 300.0
    grace: float = 5.0
    locks: bool = False
    notify: str = ""
    keep: float = 7 * 86400.0
    keep_dead: float = 90 * 86400.0
    alarm: int = 100
    max_running: int = 0
