"""An executor as a peer of the dispatcher: what it may say, and who hears it."""

import logging
from typing import Protocol

from ...ipc.durable.model import MOST_OUTPUT
from ...ipc.durable.wire import (
    WIRE,
    AnyFrame,
    Began,
    Enlist,
    GivenBack,
    LockAsked,
    Outcomes,
    PayloadAsked,
    ProgressMade,
    Retiring,
    StageDone,
)
from ...ipc.errors import FrameError
from ...ipc.processes import start_time
from ..store.protocol import StoreAway, StoreError
from .delay import NEVER_LATER
from .engine import Engine
from .payloads import Payloads
from .peer import Peer
from .policies import fault
from .roster import Executor
from .tasks import Tasks

MOST_PROGRESS = 4096
MOST_KEY = 1024
MOST_STAGES = 1000
MOST_ID = 2**63 - 1
MODES = ("shared", "exclusive")

logger = logging.getLogger("bkd.dispatch")


class Hands(Protocol):
    """What executors need of the dispatcher."""

    engine: Engine
    payloads: Payloads
    tasks: Tasks


class ExecutorRole:
    """From `Enlist` on. What it says before it is `Enlisted` waits."""

    def __init__(self, hands: Hands, peer: Peer, said: Enlist) -> None:
        _check(peer, said)
        self._hands, self._peer, self._said = hands, peer, said
        self._executor: Executor | None = None
        peer.hold()
        hands.tasks.start(self._enlist(), f"enlist {said.slot}")

    def heard(self, frame: AnyFrame) -> None:
        """One frame; raises FrameError when it has no sense."""
        executor, engine = self._executor, self._hands.engine
        if executor is None:
            raise FrameError("it is not enlisted")
        match frame:
            case Outcomes():
                _check_outcomes(frame)
                engine.outcomes(executor, self._peer, frame)
            case Began():
                engine.began(executor, frame)
            case StageDone():
                _limit("output of a stage", frame.output, MOST_OUTPUT)
                _check_stage(frame.stage)
                engine.stage_done(executor, self._peer, frame)
            case LockAsked():
                _limit("key of a lock", frame.key.encode(), MOST_KEY)
                engine.lock_asked(executor, self._peer, frame)
            case ProgressMade():
                _limit("word about progress", frame.progress, MOST_PROGRESS)
                engine.progress(executor, frame)
            case Retiring():
                engine.retiring(executor, frame)
            case GivenBack():
                engine.given_back(executor, frame)
            case PayloadAsked():
                self._hands.tasks.start(self._payload(executor, frame), f"payload {frame.id}")
            case _:
                raise FrameError(f"an executor may not say {type(frame).__name__}")

    def gone(self) -> None:
        """The connection is closed."""
        if self._executor is not None:
            self._hands.engine.left(self._executor, self._peer)

    async def _enlist(self) -> None:
        try:
            self._executor = await self._hands.engine.enlist(self._said, self._peer, lambda: self._peer.is_open)
        except StoreError as error:
            self._peer.refuse(f"it cannot be enlisted: {error}")
            return
        if self._executor is None:
            self._peer.close()
        self._peer.go_on()

    async def _payload(self, executor: Executor, asked: PayloadAsked) -> None:
        """While the store is away it is asked again by the executor, which has reasons of its own to give up."""
        if executor.run_of(asked.id, asked.fence) is None:
            return
        try:
            self._peer.send(await self._hands.payloads.part(asked))
        except (StoreAway, StoreError) as error:
            logger.warning("the payload of message %d cannot be had: %s", asked.id, error)
            self._peer.close()


def _check(peer: Peer, said: Enlist) -> None:
    if said.wire != WIRE:
        raise FrameError(f"it speaks version {said.wire} of the frames of messages, this dispatcher version {WIRE}")
    if said.pid != peer.credentials.pid or said.start != start_time(said.pid):
        raise FrameError(f"it says that it is pid {said.pid}, and it is not")
    if said.mode not in MODES:
        raise FrameError(f"it knows no mode {said.mode[:40]!r}")
    if wrong := next(filter(None, map(fault, said.kinds)), ""):
        raise FrameError(wrong)


def _check_outcomes(said: Outcomes) -> None:
    for one in said.outcomes:
        if not (0 <= one.id <= MOST_ID and 0 <= one.fence <= MOST_ID):
            raise FrameError(f"there is no lease {one.id}, {one.fence}")
        if not (0 <= one.started <= NEVER_LATER and 0 <= one.ended <= NEVER_LATER):
            raise FrameError(f"message {one.id} cannot have run from {one.started} to {one.ended}")
        _check_stage(one.stage)


def _check_stage(stage: int) -> None:
    if not 0 <= stage < MOST_STAGES:
        raise FrameError(f"there is no stage {stage}")


def _limit(what: str, body: bytes, most: int) -> None:
    if len(body) > most:
        raise FrameError(f"a {what} of {len(body)} bytes is over the limit of {most}")
