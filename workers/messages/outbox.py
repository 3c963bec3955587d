"""What an executor has to say, until the dispatcher is known to have heard it. Used under the courier's lock."""

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from ...ipc.durable.model import Outcome
from ...ipc.durable.wire import (
    FRAME_GOAL,
    LockAnswered,
    LockAsked,
    Outcomes,
    PayloadAsked,
    PayloadPart,
    StageDone,
    StageKept,
    packed,
)
from .run import Key

ROOM = 200  # bytes that an outcome takes at most beside its body and texts
MOST_OUTCOMES = 1000
Question = StageDone | LockAsked | PayloadAsked
Answer = StageKept | LockAnswered | PayloadPart
Subject = tuple[str | int, ...]


def subject(said: Question | Answer) -> Subject:
    """What it is about: the same for a question and its answer."""
    match said:
        case StageDone() | StageKept():
            return "stage", said.id, said.fence, said.stage
        case LockAsked() | LockAnswered():
            return "lock", said.id, said.fence, said.key
        case PayloadAsked() | PayloadPart():
            return "payload", said.id, said.offset


class Outbox:
    """Outcomes that are not stored yet, and questions that are not answered."""

    def __init__(self) -> None:
        self._fresh: list[Outcome] = []
        self._kept: dict[int, list[Outcome]] = {}
        self._number = 0
        self._asked: dict[Subject, tuple[Question, Future[Any]]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether every outcome is stored."""
        return not self._fresh and not self._kept

    def add(self, outcome: Outcome) -> None:
        """To be said at the next `fresh`."""
        self._fresh.append(outcome)

    def fresh(self) -> bytes:
        """Frames of what was added since the last time."""
        outcomes, self._fresh = self._fresh, []
        return b"".join(self._frame(some) for some in pieces(outcomes))

    def again(self) -> bytes:
        """Frames of all that was said, or asked, in vain."""
        kept = (packed(Outcomes(number, outcomes)) for number, outcomes in self._kept.items())
        asked = (packed(question) for question, _ in list(self._asked.values()))
        return b"".join([*kept, self.fresh(), *asked])

    def stored(self, number: int) -> list[Key]:
        """The runs whose outcomes these were."""
        return [(outcome.id, outcome.fence) for outcome in self._kept.pop(number, [])]

    def forget(self, key: Key) -> None:
        """Nobody wants to know of this run any more."""
        self._fresh = [outcome for outcome in self._fresh if (outcome.id, outcome.fence) != key]
        for number, outcomes in list(self._kept.items()):
            rest = [outcome for outcome in outcomes if (outcome.id, outcome.fence) != key]
            self._kept[number] = rest
            if not rest:
                del self._kept[number]

    def ask(self, question: Question) -> "tuple[bytes, Future[Any]]":
        """Its frame, and where the answer will be. Raises RuntimeError while the same is being asked already."""
        about, future = subject(question), Future[Any]()
        if about in self._asked:
            raise RuntimeError(f"this run waits for its {about[0]} already")
        data = packed(question)
        self._asked[about] = question, future
        future.add_done_callback(lambda _: self._drop(about, future))
        return data, future

    def answered(self, answer: Answer) -> "Future[Any] | None":
        """Where the answer goes; None: nobody waits for it any more."""
        return self._asked.pop(subject(answer), (None, None))[1]

    def _drop(self, about: Subject, future: "Future[Any]") -> None:
        """Called when the run has given up waiting."""
        if self._asked.get(about, (None, None))[1] is future:
            self._asked.pop(about, None)

    def _frame(self, outcomes: list[Outcome]) -> bytes:
        self._number += 1
        self._kept[self._number] = outcomes
        return packed(Outcomes(self._number, outcomes))


def pieces(outcomes: list[Outcome]) -> Iterator[list[Outcome]]:
    """What fits into a frame each."""
    piece: list[Outcome] = []
    taken = 0
    for outcome in outcomes:
        size = ROOM + len(outcome.body) + 4 * (len(outcome.text) + len(outcome.stack))
        if piece and (taken + size > FRAME_GOAL or len(piece) >= MOST_OUTCOMES):
            yield piece
            piece, taken = [], 0
        piece.append(outcome)
        taken += size
    if piece:
        yield piece
