"""What one scrape is made of, all of the same moment."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .census import Tallies


class Itself(NamedTuple):
    """The master of itself, in seconds and bytes. `lost`: events the journal could not take; `took`: how long the
    scrape before was made, None when there was none."""

    epoch: int
    uptime: float
    cpu: float
    resident: int
    lost: int
    overslept: float
    took: float | None


class Picture(NamedTuple):
    """`status` is the document of `bkd status --json`, `counts` are those of `Counters`, `limits` the `max_memory` of
    groups that have one, `answers` how often each HTTP status was given to who scraped, `messages` is None where there
    are none, or nothing is known of them."""

    status: Mapping[str, Any]
    counts: Mapping[tuple[str, ...], int]
    limits: Mapping[str, int]
    answers: Mapping[int, int]
    itself: Itself
    messages: Tallies | None = None
