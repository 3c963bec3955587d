"""One turn at the store, in the store's thread: enqueue what was put in, write what has ended, claim."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from ...ipc.durable.model import NewMessage, Receipt, Settlement
from ..store.protocol import Demand, Store, StoreAway, StoreError, Turn, Turned
from .ledger import Batch, Put
from .settle import unstorable

logger = logging.getLogger("bkd.dispatch")


class Answer(NamedTuple):
    """What became of one put: its receipts, or why none of it is stored."""

    put: Put
    receipts: list[Receipt]
    error: str = ""


class Stroke(NamedTuple):
    """What is done in one go. `answered` is called in the store's thread once the puts are stored."""

    now: int
    node: int
    puts: Sequence[Put]
    batch: Batch
    demands: Sequence[Demand]
    answered: Callable[[list[Answer]], None]

    def done(self, store: Store) -> Turned:
        """Do it. Raises StoreAway, after which puts that were not answered and all of the batch are to be repeated."""
        if self.puts:
            self.answered(_enqueued(store, self.puts, self.now))
        turn = self.turn()
        return _turned(store, turn) if _is_needed(turn) else Turned()

    def turn(self) -> Turn:
        """The transaction that settles and claims."""
        batch = self.batch
        return Turn(
            now=self.now,
            node=self.node,
            settled=batch.settlements,
            stages=[asked.stage for asked in batch.stages],
            locks=[asked.lock for asked in batch.locks],
            began=batch.began,
            progress=batch.progress,
            demands=self.demands,
        )


def _is_needed(turn: Turn) -> bool:
    return bool(turn.settled or turn.stages or turn.locks or turn.began or turn.progress or turn.demands)


def _enqueued(store: Store, puts: Sequence[Put], now: int) -> list[Answer]:
    """All in one transaction; when that is refused, each in its own, so that one does not harm the others."""
    messages: list[NewMessage] = [message for put in puts for message in put.messages]
    try:
        receipts = store.enqueue(messages, now)
    except StoreAway:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, its producer gets it, and the others are stored
        if len(puts) > 1:
            return [answer for put in puts for answer in _enqueued(store, [put], now)]
        _log(error)
        return [Answer(puts[0], [], str(error) or type(error).__name__)]
    answers, at = [], 0
    for put in puts:
        answers.append(Answer(put, receipts[at : at + len(put.messages)]))
        at += len(put.messages)
    return answers


def _turned(store: Store, turn: Turn) -> Turned:
    try:
        return store.turn(turn)
    except StoreAway:
        raise
    except Exception as error:  # noqa: BLE001 - one thing that cannot be written must not hold up all others
        _log(error)
        return _piece_by_piece(store, turn)


def _piece_by_piece(store: Store, turn: Turn) -> Turned:
    """Everything in a transaction of its own. What cannot be written alone is not; a settlement becomes a dead letter
    that says why. Raises StoreError when not even an empty turn can be done: then it is the store that is broken."""
    empty = replace(turn, settled=(), stages=(), locks=(), began=(), progress=(), demands=())
    _tried(store, empty)
    kept, granted, stale = [], [], []
    for stage in turn.stages:
        kept += _alone(store, replace(empty, stages=[stage]), f"a stage of message {stage.id}").kept
    for lock in turn.locks:
        granted += _alone(store, replace(empty, locks=[lock]), f"a lock of message {lock.id}").granted
    for held in turn.began:
        _alone(store, replace(empty, began=[held]), f"the begin of message {held.id}")
    for word in turn.progress:
        _alone(store, replace(empty, progress=[word]), f"progress of message {word[0].id}")
    for settlement in turn.settled:
        stale += _settled(store, empty, settlement).stale
    last = _tried(store, replace(empty, demands=turn.demands))
    return replace(last, stale=stale, granted=granted, kept=kept)


def _settled(store: Store, empty: Turn, settlement: Settlement) -> Turned:
    try:
        return _tried(store, replace(empty, settled=[settlement]))
    except StoreError as error:
        there = replace(empty, settled=[unstorable(settlement, str(error))])
        return _alone(store, there, f"the end of message {settlement.id}")


def _alone(store: Store, turn: Turn, what: str) -> Turned:
    try:
        return _tried(store, turn)
    except StoreError as error:
        logger.error("%s is not written: %s", what, error)
        return Turned()


def _tried(store: Store, turn: Turn) -> Turned:
    """Whatever goes wrong is a StoreError, if it is no StoreAway."""
    try:
        return store.turn(turn)
    except (StoreAway, StoreError):
        raise
    except Exception as error:
        raise StoreError(str(error) or type(error).__name__) from error


def _log(error: Exception) -> None:
    if isinstance(error, StoreError):
        logger.error("the store refuses: %s", error)
    else:
        logger.error("the store failed", exc_info=error)
