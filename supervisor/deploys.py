"""`bkd restart` and `bkd rollback`: asks for rolls, tells whoever asked how they go, and answers with the verdict."""

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..ipc.errors import BkdError
from ..ipc.message import Finished
from . import events, rolls
from .cluster import Cluster, Group, Origin, Outcome
from .desk import Desk, Request, UsageError
from .fact import Fact
from .facts import ReleaseFailed, ReleaseLoaded, ReleaseLoading, RollAborted, RollDone, RollMoved, WorkerReady
from .listeners import Listeners
from .origins import origin
from .reconcile import hopeless

SIGN_OF_LIFE = 5.0
PARTLY = 3
BEYOND = 30.0
UNKNOWN = dict.fromkeys(("stage", "release", "from", "reason", "trace", "took"))
_SHOWN = (ReleaseLoading, ReleaseLoaded, RollMoved, WorkerReady)
_LAST = (RollDone, RollAborted, ReleaseFailed)


@dataclass(eq=False)
class Waiting:
    """Whoever waits for rolls: the tickets of groups, the workers that are to be gone from single slots, and the
    groups that come or go."""

    tickets: dict[str, int] = field(default_factory=dict)
    slots: dict[str, set[int]] = field(default_factory=dict)
    changing: set[str] = field(default_factory=set)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda text: None
    something: asyncio.Event = field(default_factory=asyncio.Event)

    def concerns(self, fact: Fact) -> bool:
        """Whether it is about one of the groups or slots that are waited for."""
        return any(fact.about(name) for name in (*self.tickets, *self.slots, *self.changing))

    def left(self, cluster: Cluster) -> bool:
        """Whether there is still something to wait for; takes the outcomes that are there."""
        for name, ticket in self.tickets.items():
            outcome = cluster.groups[name].outcome if name in cluster.groups else None
            if outcome is not None and outcome.ticket >= ticket:
                self.outcomes.setdefault(name, outcome)
        groups = [name for name in self.tickets if name not in self.outcomes and name in cluster.groups]
        slots = [name for name, old in self.slots.items() if not _is_fresh(cluster, name, old)]
        changing = [name for name in self.changing if _is_changing(cluster.groups.get(name))]
        return bool(groups or slots or changing) and cluster.closing is None


def _is_changing(group: Group | None) -> bool:
    """Whether a group that comes is not up yet, or one that goes is still there."""
    if group is None:
        return False
    return group.leaving or not (hopeless(group) or all(slot.is_up for slot in group.slots.values()))


def _is_fresh(cluster: Cluster, name: str, old: set[int]) -> bool:
    group = cluster.groups.get(name.rpartition(".")[0])
    slot = group.slots.get(name) if group else None
    return slot is None or (slot.serves and not any(worker.id in old for worker in slot.workers))


class Deploys:
    """Everybody who waits for a roll."""

    def __init__(self, master: Desk, listeners: Listeners) -> None:
        self.master, self.listeners = master, listeners
        self._waiting: set[Waiting] = set()
        self._traces: dict[tuple[str, int], str] = {}

    def told(self, fact: Fact) -> None:
        """Something happened: whoever waits for it sees it."""
        if isinstance(fact, RollAborted):
            self._traces[fact.group, fact.release] = fact.trace
        for waiting in self._waiting:
            waiting.something.set()
            if waiting.concerns(fact) and _is_progress(fact):
                waiting.progress(fact.describe())

    # -- commands

    async def restart(self, request: Request) -> Finished:
        """Roll groups onto the code that is on disk now, or give single slots a fresh worker."""
        self._refuse_while_stopping()
        groups, slots = self._meant(request.arguments.get("names") or [])
        hard = bool(request.arguments.get("hard"))
        why = "bkd restart --hard" if hard else "bkd restart"
        await self.bind(groups)
        waiting = Waiting(progress=request.progress)
        for group in groups:
            waiting.tickets[group.name] = self.ask(group.name, why, hard=hard)
            self._tell_queued(group.name, request)
        for name in slots:
            waiting.slots[name] = self._replace(name, hard=hard)
        return await self._answer(request, waiting)

    def _tell_queued(self, name: str, request: Request) -> None:
        group = self.master.turns.cluster.groups[name]
        if group.queued is not None and group.roll is not None:
            request.progress(f"{name}: waits for the roll to release {group.roll.new}, which is {group.roll.stage}")

    async def rollback(self, request: Request) -> Finished:
        """Back to the release before, out of its zygote; in the middle of a roll, back to where it began."""
        self._refuse_while_stopping()
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
        await self.wait(waiting)
        outcome = waiting.outcomes.get(group.name)
        if outcome is None or outcome.done:
            raise BkdError(f"{group.name}: the roll could not be taken back; see bkd status")
        return _finished(request, [_document(group.name, outcome, "")], 0, f"{group.name}: {_back(outcome)}\n", "")

    async def _answer(self, request: Request, waiting: Waiting) -> Finished:
        if request.arguments.get("no_wait"):
            names = [*waiting.tickets, *waiting.slots]
            documents = [self._begun(name) for name in names]
            return _finished(request, documents, 0, f"{', '.join(names)}: asked for; see bkd status\n", "")
        self.master.remember()
        request.promise({"tickets": waiting.tickets, "slots": {name: list(old) for name, old in waiting.slots.items()}})
        await self.wait(waiting, alive=request.sign_of_life)
        return self.verdict(request, waiting)

    async def resume(self, request: Request) -> Finished:
        """Whoever asked the last master waits on."""
        tickets, slots = request.arguments.get("tickets"), request.arguments.get("slots")
        if not isinstance(tickets, dict) or not isinstance(slots, dict):
            raise UsageError("what is to be waited for?")
        waiting = Waiting(
            {str(name): int(ticket) for name, ticket in tickets.items()},
            {str(name): {int(worker) for worker in old} for name, old in slots.items()},
            progress=request.progress,
        )
        await self.wait(waiting, alive=request.sign_of_life)
        return self.verdict(request, waiting)

    def _begun(self, name: str) -> dict[str, Any]:
        group = self.master.turns.cluster.groups.get(name)
        roll = group.roll if group is not None else None
        known = {"stage": str(roll.stage), "release": roll.new, "from": roll.old} if roll is not None else {}
        return {"name": name, "state": "started", **UNKNOWN, **known}

    # -- for reloads and timers as well

    def ask(self, name: str, why: str, *, release: int = 0, hard: bool = False, quick: bool = False) -> int:
        """Ask for a roll of this group; the ticket to wait for."""
        cluster, config = self.master.turns.cluster, self.master.config
        settings = config.workers.get(name, cluster.groups[name].settings)
        made_of = Origin(settings) if release else origin(config, settings)
        self.master.turns.post(events.RollAsked(name, made_of, why, release, hard, quick))
        self.master.turns.now()
        return self.master.turns.cluster.groups[name].asked

    async def bind(self, groups: Iterable[Group]) -> None:
        """What the configuration says now is listened on before anything changes."""
        for group in groups:
            settings = self.master.config.workers.get(group.name, group.settings)
            for text in settings.bind:
                await self.listeners.web(text, self.master.config.base)

    async def wait(self, waiting: Waiting, *, alive: Callable[[], None] = lambda: None) -> None:
        """Until every roll has its outcome and every slot its fresh worker; each of their steps has its deadline."""
        self._waiting.add(waiting)
        limit = asyncio.get_running_loop().time() + self._patience(waiting)
        try:
            while waiting.left(self.master.turns.cluster):
                if waiting.slots and asyncio.get_running_loop().time() > limit:
                    return
                await self._something(waiting, alive)
        finally:
            self._waiting.discard(waiting)

    async def _something(self, waiting: Waiting, alive: Callable[[], None]) -> None:
        try:
            await asyncio.wait_for(waiting.something.wait(), SIGN_OF_LIFE)
        except TimeoutError:
            alive()
        waiting.something.clear()

    def _patience(self, waiting: Waiting) -> float:
        groups = self.master.turns.cluster.groups
        found = [groups[name.rpartition(".")[0]].settings for name in waiting.slots]
        return max((s.start_timeout + s.drain + s.term + BEYOND for s in found), default=0.0)

    def verdict(self, request: Request, waiting: Waiting) -> Finished:
        """What is said of how it ended, and the exit code."""
        cluster = self.master.turns.cluster
        done: list[str] = []
        failed: list[str] = []
        documents, partly = [], False
        for name in waiting.tickets:
            outcome = waiting.outcomes.get(name)
            trace = self._traces.get((name, outcome.release), "") if outcome else ""
            documents.append(_document(name, outcome, trace))
            partly = partly or bool(outcome and outcome.left)
            (done if outcome and outcome.done else failed).append(_line(cluster, name, outcome, trace))
        for name, old in waiting.slots.items():
            fresh = _is_fresh(cluster, name, old)
            documents.append({"name": name, "state": "done" if fresh else "aborted", **UNKNOWN})
            (done if fresh else failed).append(
                f"{name}: {'has a fresh worker' if fresh else 'has no fresh worker; see bkd events'}\n"
            )
        code = (PARTLY if partly else 0) if not failed else PARTLY if done else 1
        return _finished(request, documents, code, "".join(done), "".join(failed))

    # -- names

    def _meant(self, names: list[Any]) -> tuple[list[Group], list[str]]:
        cluster = self.master.turns.cluster
        present = {name: group for name, group in cluster.groups.items() if not group.leaving}
        groups = [present[name] for name in present if not names or name in names]
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

    def _replace(self, name: str, *, hard: bool) -> set[int]:
        slot = self.master.turns.cluster.groups[name.rpartition(".")[0]].slots[name]
        if slot.held:
            raise BkdError(f"{name} is held; `bkd unhold {name}` first")
        self.master.turns.post(events.Replaced(name, hard))
        return {worker.id for worker in slot.workers}

    def _refuse_while_stopping(self) -> None:
        if self.master.turns.cluster.closing is not None:
            raise BkdError("the cluster is stopping")


def _is_progress(fact: Fact) -> bool:
    """Whether it is worth a line to whoever waits: steps of the roll, and all that is not as planned."""
    return isinstance(fact, _SHOWN) or (fact.level() != "info" and not isinstance(fact, _LAST))


def _finished(request: Request, documents: list[dict[str, Any]], code: int, out: str, err: str) -> Finished:
    if request.command.render == "json":
        return Finished(code, json.dumps({"groups": documents}) + "\n", err)
    return Finished(code, out, err)


def _document(name: str, outcome: Outcome | None, trace: str) -> dict[str, Any]:
    if outcome is None:
        return {"name": name, "state": "aborted", **UNKNOWN, "reason": "the cluster stops"}
    return {
        "name": name,
        "state": "done" if outcome.done else "aborted",
        "stage": str(outcome.stage),
        "release": outcome.release,
        "from": outcome.old,
        "reason": outcome.reason or None,
        "trace": trace or None,
        "took": round(outcome.took, 3),
    }


def _line(cluster: Cluster, name: str, outcome: Outcome | None, trace: str) -> str:
    if outcome is None:
        return f"bkd: {name}: the cluster stops\n"
    release, old = outcome.release, outcome.old
    if not outcome.done:
        said = RollAborted(group=name, release=release, old=old, stage=str(outcome.stage), reason=outcome.reason)
        return f"{trace}{said.describe()}\n"
    group = cluster.groups.get(name)
    workers = sum(1 for slot in group.eligible() if slot.serves) if group else 0
    took, left = outcome.took, list(outcome.left)
    live = RollDone(group=name, release=release, old=old, workers=workers, seconds=took, left=left)
    return f"{live.describe()}\n"


def _back(outcome: Outcome) -> str:
    return f"release {outcome.release} was taken back, release {outcome.old} serves"
