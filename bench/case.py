"""What a benchmark is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Figures = dict[str, list[float]]


@dataclass(frozen=True)
class Case:
    """`measure(peer, **options)` is one round of one peer and returns figures by metric, the unit in the name.

    Its keyword defaults can be set from the command line; `variants` are sets of them that are run one after another.
    `report` writes the table of all rounds by peer, where the usual one does not do.
    With `baseline` the rounds are pairs: each other peer is compared with that one round by round.
    """

    title: str
    measure: Callable[..., Figures]
    peers: tuple[str, ...]
    rounds: int = 5
    variants: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})
    baseline: str = ""
    report: Callable[[dict[str, list[Figures]]], str] | None = None
