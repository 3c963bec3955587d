"""The fake keeper: it reaps, tells the master how each process ended, and tells the next one again."""

from collections import deque
from random import Random
from typing import NamedTuple

from .processes import Process

REMEMBERED = 200


class Reaped(NamedTuple):
    """How a process ended."""

    process: Process
    code: int | None
    oom: bool = False


class Keeper:
    """`told`: the last deaths that a master was told of; `untold`: those since there is none."""

    def __init__(self) -> None:
        self.told: deque[Reaped] = deque(maxlen=REMEMBERED)
        self.untold: list[Reaped] = []

    def announced(self, random: Random) -> list[Reaped]:
        """What a new master hears: deaths of different processes in any order, some of them twice. What ran out of
        memory meanwhile nobody can tell from a kill."""
        heard = [reaped._replace(oom=False) for reaped in (*self.told, *self.untold)]
        self.told.extend(self.untold)
        self.untold.clear()
        heard += [reaped for reaped in heard if random.random() < 0.1]
        random.shuffle(heard)
        return heard
