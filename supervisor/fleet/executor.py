"""Obeys the commands of the fleet that are for this host: at once, or when its turn in a rollout has come."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from loguru import logger

from ...ipc.errors import BkdError
from ...ipc.message import Command, Finished
from .. import rolls
from ..bus import rollout as rules
from ..bus.driver import BusError
from ..bus.rollout import Changed, Claimed, Over, Permit, Rollout, Wait
from ..cluster import Group, Stage
from ..commands import Commands
from ..desk import USAGE, Desk, Issuer, Request
from ..roles import Role
from .audience import Collected
from .permits import RolloutGone
from .record import Record, Records, Taken
from .replies import Replies
from .rollouts import Rollouts
from .verbs import LOOKS, here

LOOK, BREATH = 1.0, 0.02
AGAIN = 0.5, 5.0
UNSAID = 1_000_000  # more acknowledgements than a master gives of one command after it was written down
PARTLY = 3
MAY_BE_PARTLY = frozenset({"stop"})
A = TypeVar("A", Changed, Claimed)


class Executor:
    """The tasks of the commands that are under way here. `last_to_stop` waits until nobody needs this host any more to
    be told how the others stopped."""

    def __init__(
        self, desk: Desk, commands: Commands, replies: Replies, rollouts: Rollouts, records: Records, record: Record
    ) -> None:
        self.desk, self.commands, self.replies, self.rollouts = desk, commands, replies, rollouts
        self.permits = rollouts.permits
        self.records, self.record = records, record
        self.last_to_stop: Callable[[str], Coroutine[Any, Any, None]] = _at_once
        self._bell = asyncio.Event()

    def ring(self) -> None:
        """A rollout may have moved."""
        self._bell.set()

    def look(self, taken: Taken) -> None:
        """A command that changes nothing: nothing of it has to be remembered."""
        self.desk.tasks.run(self._carry_out(taken))

    def begin(self, taken: Taken) -> None:
        """A command that was just accepted, or that the last master left unfinished."""
        self.desk.tasks.run(self._obey(taken))

    def refuse(self, taken: Taken, reason: str) -> None:
        """A command that will not be obeyed here. In a rollout the others have to know, or they would take this host
        for one that is cut off and go on without it."""
        self.replies.end(taken, "refused", Finished(1), reason=reason)
        if taken.rollout:
            self.desk.tasks.run(self._refuse_turn(taken, reason))

    async def _refuse_turn(self, taken: Taken, reason: str) -> None:
        with contextlib.suppress(RolloutGone):
            changed = await self._change(taken, lambda r: rules.refuse(r, self._host, self._now(), reason))
            await self._leave(changed.rollout)

    def go_on(self) -> None:
        """What the last master left unfinished. Nothing is begun a second time."""
        for taken in self.record.taken.values():
            if taken.is_over:
                self.replies.repeat(taken)
                continue
            taken.number += UNSAID
            if taken.state == "running" and not taken.resume:
                self.desk.tasks.run(self._to_its_end(taken, self._interrupted(taken)))
            else:
                self.begin(taken)
        self.save()

    async def _obey(self, taken: Taken) -> None:
        self.replies.say(taken, "accepted")
        await self._to_its_end(taken, self._take_turn(taken) if taken.rollout else self._carry_out(taken))

    async def _to_its_end(self, taken: Taken, work: Coroutine[Any, Any, None]) -> None:
        """Whatever becomes of the work, there is a last word."""
        try:
            await work
        except RolloutGone as error:
            self.replies.end(taken, "failed", Finished(1), reason=str(error))
        except Exception:  # noqa: BLE001 - whoever asked gets an answer
            logger.exception("{} of the fleet failed", taken.verb)
            self.replies.end(taken, "failed", Finished(1), reason="a fault of bkd; the master's log has it")
        taken.forget()
        self.save()

    async def _interrupted(self, taken: Taken) -> None:
        """The last master died in the middle of it; of a rollout the document knows whether that was after its end."""
        state, reason = "failed", "the master died in the middle of it; see bkd status"
        if taken.rollout:
            now, fence = self._now, taken.fence
            changed = await self._change(taken, lambda r: rules.finish(r, self._host, fence, False, reason, now()))
            turn = rules.find(changed.rollout, self._host)
            state = "done" if turn is not None and turn.state == rules.State.DONE else state
        self.replies.end(taken, state, Finished(0 if state == "done" else 1), reason="" if state == "done" else reason)

    async def stopped(self) -> None:
        """Wait until whoever had this host stopped was told."""
        while any(taken.verb == "stop" and not taken.is_over for taken in self.record.taken.values()):
            await asyncio.sleep(BREATH)

    def save(self) -> str:
        """Write down what the next master has to know; why that failed, if it did."""
        self.records.save(self.record)
        return self.records.fault

    async def _carry_out(self, taken: Taken) -> None:
        if taken.verb == "stop":
            await self.last_to_stop(taken.id)
        finished = await self._run(taken)
        state, reason = outcome(taken.verb, finished)
        self.replies.end(taken, state, finished, reason=reason)

    async def _run(self, taken: Taken) -> Finished:
        """As a client's command would run. From now on it has begun, whatever becomes of this master."""
        taken.taken = self._now()
        fault = "" if taken.verb in LOOKS else self._begun(taken)
        if fault and not taken.resume:
            return Finished(1, err=f"bkd: that it begins cannot be written down here: {fault}\n")
        audience = Collected(
            on_progress=lambda: self._progressed(taken), on_promise=lambda told: self._promised(taken, told)
        )
        verb, arguments = taken.verb, here(taken.verb, taken.arguments, self.desk.turns.cluster.groups)
        if taken.resume:
            verb, arguments = "await", taken.resume
        render = "json" if verb in ("status", "events") else "text"
        request = Request(audience, 0, Command(verb, arguments, render), Issuer(-1, 0, taken.issuer))
        await self.commands.run(request, Role.OPERATOR)
        return audience.finished()

    def _begun(self, taken: Taken) -> str:
        """Why it cannot be written down that it has begun, if so."""
        self.replies.say(taken, "running")
        return self.save()

    def _progressed(self, taken: Taken) -> None:
        step = self._step()
        if step and not taken.is_over and taken.verb not in LOOKS:
            self.replies.say(taken, "running", step=step)

    def _step(self) -> str:
        rolling = [group for group in self.desk.turns.cluster.groups.values() if group.roll is not None]
        return ", ".join(_stage(group) for group in rolling)

    def _promised(self, taken: Taken, resume: dict[str, object]) -> None:
        taken.resume = dict(resume)
        self.save()

    # -- in turn

    async def _take_turn(self, taken: Taken) -> None:
        permit = await self._turn(taken)
        if isinstance(permit, Over):
            code = 0 if permit.state == rules.State.DONE else 1  # done: the last master died between that and its word
            self.replies.end(taken, permit.state, Finished(code), reason=permit.reason)
            return
        taken.fence = permit.fence
        renewing = asyncio.create_task(self._renew(taken))
        try:
            finished = await self._run(taken)
        finally:
            renewing.cancel()
        state, reason = outcome(taken.verb, finished)
        late = await self._finish(taken, state == "done", reason)
        self.replies.end(taken, state, finished, reason="; ".join(filter(None, [reason, late])))

    async def _turn(self, taken: Taken) -> Permit | Over:
        """Wait until it has come, or will not come any more."""
        while True:
            answer = (await self._change(taken, lambda r: rules.claim(r, self._host, self._now()))).answer
            if isinstance(answer, Permit) and answer.until <= self._now():
                continue  # it took so long to be written that it is over already
            if not isinstance(answer, Wait):
                return answer
            self._bell.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._bell.wait(), LOOK * random.uniform(0.5, 1.0))

    async def _renew(self, taken: Taken) -> None:
        while True:
            await asyncio.sleep(rules.RENEWAL)
            with contextlib.suppress(BusError, RolloutGone):
                await self.permits.change(taken.id, lambda r: rules.renew(r, self._host, taken.fence, self._now()))

    async def _finish(self, taken: Taken, ok: bool, reason: str) -> str:
        """Why it does not count any more, "" if it does."""
        try:
            changed = await self._change(
                taken, lambda r: rules.finish(r, self._host, taken.fence, ok, reason, self._now())
            )
        except RolloutGone as error:
            return str(error)
        await self._leave(changed.rollout)
        return changed.refused

    async def _leave(self, rollout: Rollout) -> None:
        try:
            if rules.is_over(rollout):
                await self.rollouts.leave(rollout)
        except BkdError as error:
            logger.warning("the list of rollouts does not say that {} is over: {}", rollout.id, error)

    async def _change(self, taken: Taken, change: Callable[[Rollout], A]) -> A:
        """Over times without a bus; raises RolloutGone."""
        pause, most = AGAIN
        while True:
            try:
                return await self.permits.change(taken.id, change)
            except BusError:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(most, pause * 2)

    @property
    def _host(self) -> str:
        return self.replies.wire.host

    def _now(self) -> float:
        return self.replies.wire.now()


async def _at_once(_id: str) -> None:
    """Nobody has to be waited for."""


def _stage(group: Group) -> str:
    roll = group.roll
    if roll is None or roll.stage not in (Stage.ROLLING, Stage.SETTLING):
        return f"{group.name} {roll.stage}" if roll is not None else ""
    return f"{group.name} {rolls.moved(group)}/{len(group.eligible())}"


def outcome(verb: str, finished: Finished) -> tuple[str, str]:
    """State and reason of a host by how the command ended there."""
    lines = finished.err.strip().splitlines()
    reason = lines[-1].removeprefix("bkd: ")[:500] if lines else ""
    if finished.code == 0 or (finished.code == PARTLY and verb in MAY_BE_PARTLY):
        return "done", reason if finished.code else ""
    return ("refused" if finished.code == USAGE else "failed"), reason or f"exit code {finished.code}"
