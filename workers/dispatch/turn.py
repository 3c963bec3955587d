"""One turn at the store, in the store's thread: enqueue what was put in, write what has ended, claim."""

import logging
from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from ...ipc.durable.model import NewMessage, Receipt, Settlement
from ...ipc.durable.wire import Held
from ..store.protocol import Demand, Store, StoreAway, StoreError, Turn, Turned
from .ledger import Batch, Put
from .settle import unstorable

HOPELESS = 20  # refused in a row, and nothing written: the rest of a turn is not tried

logger = logging.getLogger("bkd.dispatch")


class Answer(NamedTuple):
    """What became of one put: its receipts, or why none of it is stored."""

    put: Put
    receipts: list[Receipt]
    error: str = ""


class Done(NamedTuple):
    """What a stroke came to. `refused`: leases of which something that must not be lost, an end or a stage, could not
    be written; `why`: what the store has said of that, or of claims that failed; `answers`: to puts that were not
    answered before."""

    turned: Turned
    refused: Set[Held] = frozenset()
    why: str = ""
    answers: Sequence[Answer] = ()


class Stroke(NamedTuple):
    """What is done in one go. `answered` is called in the store's thread when puts are stored and something else is
    still to be done."""

    now: int
    node: int
    puts: Sequence[Put]
    batch: Batch
    demands: Sequence[Demand]
    answered: Callable[[list[Answer]], None]

    def done(self, store: Store) -> Done:
        """Do it. Raises StoreAway, after which puts that were not answered and all of the batch are to be repeated."""
        turn = self.turn()
        if not _is_needed(turn):
            return Done(Turned(), answers=_enqueued(store, self.puts, self.now) if self.puts else ())
        if self.puts:
            if (done := self._at_once(store, turn)) is not None:
                return done
            self.answered(_enqueued(store, self.puts, self.now))
        return _turned(store, turn)

    def _at_once(self, store: Store, turn: Turn) -> Done | None:
        """The puts in the transaction of everything else, which is one wait for the disk for all; None: one by one it
        may be possible. What has keys, for which others are looked at, has a transaction of its own."""
        new = [message for put in self.puts for message in put.messages]
        if any(message.key or message.unique for message in new):
            return None
        try:
            turned = store.turn(replace(turn, new=new))
        except StoreAway:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said again by the part that has it
            logger.info("a turn is taken to pieces: %s", error)
            return None
        return Done(turned, answers=_answers(self.puts, turned.receipts))

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
    return _answers(puts, receipts)


def _answers(puts: Sequence[Put], receipts: list[Receipt]) -> list[Answer]:
    answers, at = [], 0
    for put in puts:
        answers.append(Answer(put, receipts[at : at + len(put.messages)]))
        at += len(put.messages)
    return answers


def _turned(store: Store, turn: Turn) -> Done:
    try:
        return Done(store.turn(turn))
    except StoreAway:
        raise
    except Exception as error:  # noqa: BLE001 - one thing that cannot be written must not hold up all others
        _log(error)
        return _piece_by_piece(store, turn)


def _piece_by_piece(store: Store, turn: Turn) -> Done:
    """Everything in a transaction of its own. An end that cannot be written becomes a dead letter that says why; if not
    even that can, or a stage cannot, it is refused, and nothing else of its lease is written. Raises StoreError when
    not even an empty turn can be done."""
    empty = replace(turn, settled=(), stages=(), locks=(), began=(), progress=(), demands=())
    _tried(store, empty)
    pieces = _Pieces(store)
    kept, granted, stale = [], [], []
    for stage in turn.stages:
        kept += pieces.must(Held(stage.id, stage.fence), replace(empty, stages=[stage])).kept
    for lock in turn.locks:
        granted += pieces.may(replace(empty, locks=[lock]), f"a lock of message {lock.id}").granted
    for held in turn.began:
        pieces.may(replace(empty, began=[held]), f"the begin of message {held.id}")
    for word in turn.progress:
        pieces.may(replace(empty, progress=[word]), f"progress of message {word[0].id}")
    for one in turn.settled:
        remedy = partial(_unstorable, empty, one)
        stale += pieces.must(Held(one.id, one.fence), replace(empty, settled=[one]), remedy).stale
    last = pieces.may(replace(empty, demands=turn.demands), "a claim")
    return Done(replace(last, stale=stale, granted=granted, kept=kept), pieces.refused, pieces.why)


class _Pieces:
    """Parts of a turn, each in its own transaction. `why`: what the store has said last of what is not written."""

    def __init__(self, store: Store) -> None:
        self.refused: set[Held] = set()
        self.why = ""
        self._store = store
        self._in_a_row = 0

    def must(self, held: Held, turn: Turn, remedy: Callable[[str], Turn] | None = None) -> Turned:
        """What must not be lost, of this lease; or else the `remedy` for what the store has said."""
        if held in self.refused or self._in_a_row >= HOPELESS:
            self.refused.add(held)
            return Turned()
        try:
            turned = self._tried(turn, remedy)
        except StoreError as error:
            self.refused.add(held)
            self.why, self._in_a_row = str(error), self._in_a_row + 1
            logger.error("what became of message %d is not written yet: %s", held.id, error)
            return Turned()
        self._in_a_row = 0
        return turned

    def may(self, turn: Turn, what: str) -> Turned:
        """What can be asked for again."""
        try:
            return _tried(self._store, turn)
        except StoreError as error:
            self.why = str(error)
            logger.error("%s is not written: %s", what, error)
            return Turned()

    def _tried(self, turn: Turn, remedy: Callable[[str], Turn] | None) -> Turned:
        try:
            return _tried(self._store, turn)
        except StoreError as error:
            if remedy is None:
                raise
            return _tried(self._store, remedy(str(error)))


def _unstorable(empty: Turn, settlement: Settlement, why: str) -> Turn:
    return replace(empty, settled=[unstorable(settlement, why)])


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
