"""`bkd restart` and `bkd rollback`: asks for rolls, tells whoever asked how they go, and answers with the verdict."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from ..ipc.errors import BkdError
from ..ipc.message import Finished
from ..ipc.units import format_duration
from . import dispatcher, events, reports, rolls
from .cluster import Group, Origin, Outcome, Stage
from .config.schema import GroupSection
from .desk import Desk, Request, UsageError
from .fact import Fact
from .facts import ReleaseFailed, ReleaseLoaded, ReleaseLoading, RollAborted, RollDone, RollMoved, WorkerReady
from .listeners import Listeners
from .origins import origin
from .waiting import Waiting

SIGN_OF_LIFE = 5.0
LOOK = 0.5
_SHOWN = (ReleaseLoading, ReleaseLoaded, RollMoved, WorkerReady)
_LAST = (RollDone, RollAborted, ReleaseFailed)


class Deploys:
    """Everybody who waits for a roll."""

    def __init__(self, master: Desk, listeners: Listeners) -> None:
        self.master, self.listeners = master, listeners
        self._waiting: dict[Waiting, asyncio.Event] = {}
        self.traces: reports.Traces = {}

    def told(self, fact: Fact) -> None:
        """Something happened: whoever waits for it sees it."""
        if isinstance(fact, RollAborted):
            self.traces[fact.group] = fact.release, fact.trace
        for waiting, something in self._waiting.items():
            something.set()
            if waiting.concerns(fact) and _is_progress(fact):
                waiting.progress(fact.describe())

    # -- commands

    async def restart(self, request: Request) -> Finished:
        """Roll groups onto the code that is on disk now, or give single slots a fresh worker."""
        groups, slots = self._meant(request.arguments.get("names") or [])
        hard = bool(request.arguments.get("hard"))
        why = "bkd restart --hard" if hard else "bkd restart"
        waiting = Waiting(slots={name: self._old(name) for name in slots}, progress=request.progress)
        waiting.tickets = await self.begin(groups, why, hard=hard)
        for name in waiting.tickets:
            self._tell_first(name, request)
        for name in slots:
            self.master.turns.post(events.Replaced(name, hard))
        self.master.turns.now()
        return await self._answer(request, waiting)

    def _tell_first(self, name: str, request: Request) -> None:
        """What was done before anybody could wait for it."""
        group = self.master.turns.cluster.groups[name]
        if group.queued is not None and group.roll is not None:
            request.progress(f"{name}: waits for the roll to release {group.roll.new}, which is {group.roll.stage}")
        elif group.roll is not None and group.roll.stage == Stage.LOADING:
            request.progress(f"{name}: loading release {group.roll.new}")

    async def rollback(self, request: Request) -> Finished:
        """Back to the release before, out of its zygote; in the middle of a roll, back to where it began."""
        self.refuse_if_unfit()
        group = self._group(request.name())
        if group.roll is not None:
            return await self._call_off(request, group)
        why = rolls.no_way_back(group)
        if why:
            raise BkdError(f"{group.name} cannot be rolled back: {why}")
        number = rolls.kept(group)[0]
        if group.releases[number].settings.cwd == group.release.settings.cwd:
            request.progress(
                f"{group.name}: releases {number} and {group.current} share {group.release.settings.cwd}; what release "
                f"{number} has not imported yet would come from the files as they are now"
            )
        waiting = Waiting(progress=request.progress)
        waiting.tickets[group.name] = self.ask(group.name, "bkd rollback", release=number)
        return await self._answer(request, waiting)

    async def _call_off(self, request: Request, group: Group) -> Finished:
        roll, waiting = group.roll, Waiting({group.name: group.asked}, progress=request.progress)
        assert roll is not None
        self.master.turns.post(events.RollCalledOff(group.name, "a rollback was asked for"))
        self.master.turns.now()
        await self.see_through(request, waiting)
        outcome = waiting.outcomes.get(group.name)
        if outcome is None or outcome.done:
            raise BkdError(f"{group.name}: the roll could not be taken back; see bkd status")
        row, line = reports.document(group.name, outcome), f"{group.name}: {_back(outcome)}\n"
        return reports.finished(request, [row], 0, line, "")

    async def _answer(self, request: Request, waiting: Waiting) -> Finished:
        if request.arguments.get("no_wait"):
            names = [*waiting.tickets, *waiting.slots]
            documents = [self.begun(name) for name in names]
            return reports.finished(request, documents, 0, f"{', '.join(names)}: asked for; see bkd status\n", "")
        await self.see_through(request, waiting)
        return reports.verdict(request, waiting, self.master.turns.cluster, self.traces)

    async def see_through(self, request: Request, waiting: Waiting) -> None:
        """Wait, over the death of this master if need be."""
        self.master.remember()
        request.promise(waiting.resume())
        await self.wait(waiting, alive=request.sign_of_life)

    async def resume(self, request: Request) -> Finished:
        """Whoever asked the last master waits on."""
        try:
            waiting = Waiting.resumed(request.arguments)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise UsageError("what is to be waited for?") from error
        waiting.progress = request.progress
        await self.see_through(request, waiting)
        return reports.verdict(request, waiting, self.master.turns.cluster, self.traces)

    def begun(self, name: str) -> dict[str, Any]:
        """The row of a roll, or a fresh worker, that nobody waits for."""
        group = self.master.turns.cluster.groups.get(name)
        roll = group.roll if group is not None else None
        known = {"stage": str(roll.stage), "release": roll.new, "from": roll.old} if roll is not None else {}
        return {"name": name, "state": "started", **reports.UNKNOWN, **known}

    # -- for reloads and timers as well

    def ask(self, name: str, why: str, *, release: int = 0, hard: bool = False, quick: bool = False) -> int:
        """Ask for a roll of this group; the ticket to wait for."""
        config, settings = self.master.config, self._settings(name)
        made_of = Origin(settings) if release else origin(config, settings)
        self.master.turns.post(events.RollAsked(name, made_of, why, release, hard, quick))
        self.master.turns.now()
        return self.master.turns.cluster.groups[name].asked

    async def begin(self, names: Iterable[str], why: str, *, hard: bool = False, quick: bool = False) -> dict[str, int]:
        """Ask for a roll of each of these groups that is still there; the tickets to wait for.

        What the configuration says now is listened on first. Raises BkdError; then no roll has begun.
        """
        self.refuse_if_unfit()
        with self.listeners.reserving():
            present = self._present(names)
            for name in present:
                made_of = origin(self.master.config, self._settings(name))
                await self.listeners.all(made_of.settings.bind, self.master.config.base)
            return {name: self.ask(name, why, hard=hard, quick=quick) for name in self._present(present)}

    async def wait(self, waiting: Waiting, *, alive: Callable[[], None] = lambda: None) -> None:
        """Until every roll has its outcome and every slot its fresh worker; each of their steps has its deadline.
        Whoever waits gets a sign of life every few seconds, whatever others do meanwhile."""
        loop = asyncio.get_running_loop()
        signs = loop.time()
        something = self._waiting[waiting] = asyncio.Event()
        try:
            while waiting.left(self.master.turns.cluster, loop.time()):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(something.wait(), LOOK)
                something.clear()
                if loop.time() - signs >= SIGN_OF_LIFE:
                    signs = loop.time()
                    alive()
                    self._tell_draining(waiting)
        finally:
            del self._waiting[waiting]

    def _tell_draining(self, waiting: Waiting) -> None:
        """Why it takes so long: old workers finish what they have begun."""
        for name in waiting.tickets:
            group = self.master.turns.cluster.groups.get(name)
            if group is None or group.roll is None:
                continue
            ending = [w for slot in group.slots.values() for w in slot.workers if w.ending is not None]
            open_there = sum(worker.pulse.in_flight for worker in ending if worker.pulse is not None)
            if ending:
                limit = format_duration(group.settings.drain)
                still = (
                    "messages still running" if group.settings.kind == "messages" else "requests still to be answered"
                )
                waiting.progress(f"{name}: ending: {len(ending)} old, {open_there} {still} (drain = {limit})")

    # -- names

    def _present(self, names: Iterable[str]) -> list[str]:
        groups = self.master.turns.cluster.groups
        return [name for name in names if name in groups and not groups[name].leaving]

    def _settings(self, name: str) -> GroupSection:
        """What the configuration says of a group; of one that is to make way, what it has."""
        return self.master.config.workers.get(name) or self.master.turns.cluster.groups[name].settings

    def _meant(self, names: list[Any]) -> tuple[list[str], list[str]]:
        cluster = self.master.turns.cluster
        present = self._present(cluster.groups)
        groups = [name for name in present if name in names or (not names and name != dispatcher.NAME)]
        slots = {slot.name: group.name for group, slot in cluster.slots() if not slot.retired}
        for name in names:
            if name not in present and name not in slots:
                raise UsageError(f"no group or slot {name}; groups are {', '.join(present)}")
        return groups, [name for name in slots if name in names and slots[name] not in names]

    def _group(self, name: str) -> Group:
        group = self.master.turns.cluster.groups.get(name)
        if group is None:
            raise UsageError(f"no group {name}; groups are {', '.join(self.master.turns.cluster.groups)}")
        return group

    def _old(self, name: str) -> set[int]:
        """The workers that are to be gone from this slot; raises BkdError when it can have no fresh one."""
        slot = self.master.turns.cluster.groups[name.rpartition(".")[0]].slots[name]
        if slot.held:
            raise BkdError(f"{name} is held; `bkd unhold {name}` first")
        if slot.failed and not slot.staying:
            raise BkdError(f"{name} has failed: {slot.failed}; `bkd reset {name}` tries it again")
        return {worker.id for worker in slot.workers}

    def refuse_if_unfit(self) -> None:
        """Nothing is begun that this master could not end, or that the next one would know nothing of."""
        if self.master.turns.cluster.closing is not None:
            raise BkdError("the cluster is stopping")
        self.master.remember()
        memory = self.master.memory
        if memory.forgets:
            raise BkdError(
                f"{memory.path} cannot be written, so nothing is begun: {memory.forgets}; make room there first"
            )


def _is_progress(fact: Fact) -> bool:
    """Whether it is worth a line to whoever waits: steps of the roll, and all that is not as planned."""
    return isinstance(fact, _SHOWN) or (fact.level() != "info" and not isinstance(fact, _LAST))


def _back(outcome: Outcome) -> str:
    return f"release {outcome.release} was taken back, release {outcome.old} serves"
