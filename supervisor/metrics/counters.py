"""Counts what happens. Begins at zero with each master, which is what those who scrape expect."""

from collections import Counter

from .. import facts
from ..fact import Fact

Counts = Counter[tuple[str, ...]]


class Counters:
    """Facts by kind and by what they are about: `counts["exits", "web", "crash"]`."""

    def __init__(self) -> None:
        self.counts: Counts = Counter()
        self.overslept = 0.0

    def told(self, fact: Fact) -> None:
        """It happened once more."""
        key = _key(fact)
        if key:
            self.counts[key] += 1
        if isinstance(fact, facts.Overslept):
            self.overslept += fact.seconds


def _key(fact: Fact) -> tuple[str, ...]:
    """What is counted of it, () for nothing."""
    match fact:
        case facts.WorkerExited():
            return "exits", _group(fact.slot), fact.cause
        case facts.WorkerLate():
            return "verdicts", _group(fact.slot), fact.verdict, "reported"
        case facts.WorkerHung():
            return "verdicts", _group(fact.slot), fact.verdict, "replaced"
        case facts.RollDone():
            return "rolls", fact.group, "done"
        case facts.RollAborted():
            return "rolls", fact.group, "aborted"
        case facts.WorkerWorn() | facts.WorkerKilled() | facts.Survivor() | facts.CrashLoop():
            return type(fact).__name__, _group(fact.slot)
        case facts.BreakerOpened() | facts.ReleaseFailed():
            return type(fact).__name__, fact.group
        case facts.Overslept() | facts.BusLost():
            return (type(fact).__name__,)
    return ()


def _group(slot: str) -> str:
    return slot.rpartition(".")[0]
