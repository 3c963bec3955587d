"""Calls that wait for their answers: who asked, who owes the answer, until when. The clock is an argument."""

import heapq
from typing import NamedTuple

import msgspec

SPARE = 1000


class Party:
    """Whoever asks or owes answers; `asked` and `owed` are the numbers of its open calls."""

    __slots__ = ("asked", "owed")

    def __init__(self) -> None:
        self.asked: set[int] = set()
        self.owed: set[int] = set()

    def answered(self, id: int, op: str, data: msgspec.Raw) -> None:
        """The answer to its call `id`: op `reply` or `error`."""
        raise NotImplementedError


class Call(NamedTuple):
    """`id` is the number that the asker gave it, `deadline` a time of the clock that all calls here share."""

    asker: Party
    id: int
    owner: Party
    deadline: float


class Pending:
    """All open calls. One heap has their deadlines; answered ones leave it later, never more than half of it."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._ends: list[tuple[float, int]] = []
        self._last = 0

    def __len__(self) -> int:
        return len(self._calls)

    def begin(self, asker: Party, id: int, owner: Party, deadline: float) -> int:
        """A call is handed to `owner`; the number under which the answer has to come."""
        number = self._last = self._last + 1
        self._calls[number] = Call(asker, id, owner, deadline)
        asker.asked.add(number)
        owner.owed.add(number)
        heapq.heappush(self._ends, (deadline, number))
        if len(self._ends) > 2 * len(self._calls) + SPARE:
            self._ends = [(call.deadline, number) for number, call in self._calls.items()]
            heapq.heapify(self._ends)
        return number

    def settle(self, number: int, owner: Party) -> Call | None:
        """The call that this answers; None when nobody waits for it, or the answer is not this one's to give."""
        if number not in owner.owed:
            return None
        return self._end(number)

    def expired(self, now: float) -> list[Call]:
        """The calls whose time is over; they are pending no more."""
        found = []
        while self._ends and self._ends[0][0] <= now:
            number = heapq.heappop(self._ends)[1]
            if number in self._calls:
                found.append(self._end(number))
        return found

    def gone(self, party: Party) -> list[Call]:
        """Nobody waits for what this one asked any more; gives the calls that it owed."""
        for number in list(party.asked):
            self._end(number)
        return [self._end(number) for number in list(party.owed)]

    @property
    def next_end(self) -> float | None:
        """When to look for expired ones; nothing expires before."""
        return self._ends[0][0] if self._ends else None

    def _end(self, number: int) -> Call:
        call = self._calls.pop(number)
        call.asker.asked.discard(number)
        call.owner.owed.discard(number)
        return call
