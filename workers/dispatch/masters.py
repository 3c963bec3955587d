"""The master, and tools in its place, as a peer of the dispatcher: deaths, verbs of operators, alarms."""

import logging
from collections.abc import Callable
from typing import Protocol

from ...ipc.durable.wire import Answered, AnyFrame, Ask, Died, Said
from ...ipc.errors import FrameError
from .alarms import Alarms
from .deaths import Deaths
from .peer import Peer
from .tasks import Tasks
from .timekeeper import Timekeeper

FAULT = 1

logger = logging.getLogger("bkd.dispatch")


class Verbs(Protocol):
    """Answers what operators ask. Runs in the dispatcher's loop, and asks the store in small steps."""

    async def answer(self, ask: Ask, say: Callable[[Said], None]) -> Answered:
        """The end of a verb; what comes before is given to `say`."""


class Hands(Protocol):
    """What masters need of the dispatcher."""

    alarms: Alarms
    deaths: Deaths
    times: Timekeeper
    tasks: Tasks
    verbs: Verbs


class MasterRole:
    """From `Greet` on."""

    def __init__(self, hands: Hands, peer: Peer) -> None:
        self._hands, self._peer = hands, peer
        hands.alarms.join(peer.send)
        hands.times.masters.append(peer.send)

    def heard(self, frame: AnyFrame) -> None:
        """One frame; raises FrameError when it has no sense."""
        match frame:
            case Died():
                self._hands.deaths.heard(frame)
            case Ask():
                self._hands.tasks.start(self._answer(frame), f"verb {frame.verb}")
            case _:
                raise FrameError(f"a master may not say {type(frame).__name__}")

    def gone(self) -> None:
        """The connection is closed; verbs under way go on."""
        self._hands.alarms.leave(self._peer.send)
        self._hands.times.masters.remove(self._peer.send)

    async def _answer(self, ask: Ask) -> None:
        try:
            answered = await self._hands.verbs.answer(ask, self._peer.send)
        except Exception:
            logger.exception("the verb %s failed", ask.verb[:40])
            answered = Answered(ask.number, FAULT, err="bkd: this is a fault of bkd; the dispatcher's log has it\n")
        self._peer.send(answered)
