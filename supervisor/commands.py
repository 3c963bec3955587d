"""The table of commands: what may be said on the control socket, who may say it, and what it does."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from loguru import logger

from ..ipc.errors import BkdError, RefusedError
from ..ipc.message import Finished
from ..ipc.quantity import counted
from . import destination, dispatcher, endings, events, healthy, limits, messagesline, ops, port, postmaster, status
from .audit import audited, outcome
from .cluster import Cluster, Worker
from .deploys import Deploys
from .desk import USAGE, Desk, Request, UsageError
from .fact import Fact
from .facts import ClusterStopped, CommandGiven
from .forensics.witness import Witness
from .metrics.metrics import Metrics
from .postmaster import Postmaster
from .reconcile import exit_code
from .reloads import Reloads
from .roles import Role
from .shells import Shells
from .tasks import Tasks
from .upgrade import Upgrades

MOST_WORKERS = 10_000
SIGN_OF_LIFE = 5.0
BRIEFLY = 0.3  # seconds that the numbers of messages may cost somebody who asks how things are


Handler = Callable[[Request], Awaitable[Finished]]


class Entry(NamedTuple):
    """One row of the table. `audits`: the handler tells the journal itself, before it does what it is asked."""

    who: Role
    handler: Handler
    audits: bool = False

    def is_audited(self, who: Role) -> bool:
        """Whether its end is told to the journal; always when it was refused."""
        return self.who > Role.VIEWER and (not self.audits or who < self.who)


class Commands:
    """Looks verbs up in the table, checks the role, journals what changes anything."""

    def __init__(self, master: Desk, deploys: Deploys, reloads: Reloads) -> None:
        self.master, self.deploys = master, deploys
        self.exchange = master.exchange
        self.shells = Shells(master, self._slots, self._audit)
        self.witness = Witness(master)
        self.upgrades = Upgrades(master, deploys, self._audit)
        self.postmaster = Postmaster(master)
        self._tasks = Tasks()
        self.bus: Callable[[], dict[str, Any]] = dict
        self.metrics: Metrics
        self._stopping: list[Request] = []
        self._over: asyncio.Future[Finished] | None = None
        self.table: dict[str, Entry] = {
            "status": Entry(Role.VIEWER, self._status),
            "stop": Entry(Role.OPERATOR, self._stop),
            "restart": Entry(Role.OPERATOR, deploys.restart),
            "rollback": Entry(Role.OPERATOR, deploys.rollback),
            "await": Entry(Role.OPERATOR, self._resume),
            "reload": Entry(Role.OPERATOR, reloads.reload),
            "scale": Entry(Role.OPERATOR, self._scale),
            "signal": Entry(Role.OPERATOR, self._signal),
            "hold": Entry(Role.OPERATOR, self._hold),
            "unhold": Entry(Role.OPERATOR, self._unhold),
            "reset": Entry(Role.OPERATOR, self._reset),
            "send": Entry(Role.OPERATOR, self._send),
            "shell": Entry(Role.OWNER, self.shells.shell, audits=True),
            "why": Entry(Role.OPERATOR, self.witness.why, audits=True),
            "dump": Entry(Role.OPERATOR, self.witness.dump),
            "upgrade": Entry(Role.OWNER, self.upgrades.upgrade),
            postmaster.NUMBERS: Entry(Role.VIEWER, self.postmaster.relay),
            postmaster.PART: Entry(Role.OPERATOR, self.postmaster.relay, audits=True),
            **{verb: Entry(Role.OPERATOR, self.postmaster.relay, audits=True) for verb in postmaster.LOOKS},
            **{verb: Entry(Role.OPERATOR, self.postmaster.relay) for verb in postmaster.DEEDS},
        }

    def begin(self) -> None:
        """The cluster is there."""
        self.upgrades.begin()
        self.postmaster.begin()

    def give(self, request: Request, who: Role) -> None:
        """Begin a command; the answer goes to its audience, the audit into the journal."""
        self._tasks.run(self.run(request, who))

    async def run(self, request: Request, who: Role) -> None:
        """The same, to its end; raises nothing."""
        entry = self.table.get(request.command.verb)
        try:
            if entry is None:
                raise UsageError(f"this master knows no command {request.command.verb[:40]!r}")
            if who < entry.who:
                raise BkdError(
                    f"{request.command.verb} is for the role {entry.who.name.lower()}, yours is {who.name.lower()}"
                )
            finished = await entry.handler(request)
            if entry.who > Role.VIEWER:
                await asyncio.sleep(0)  # the turn that takes the command's events up comes first
                self.master.remember()
        except UsageError as error:
            finished = Finished(USAGE, err=f"bkd: {error}\n")
        except BkdError as error:
            finished = Finished(1, err=f"bkd: {error}\n")
        except Exception:  # noqa: BLE001 - whoever asked gets an answer
            logger.exception("{} failed", request.command.verb[:40])
            finished = Finished(1, err="bkd: this is a fault of bkd; the master's log has it\n")
        if who > Role.VIEWER and (entry is None or entry.is_audited(who)):
            self._audit(
                request, request.arguments, outcome(request.command.verb, finished.code, finished.out, finished.err)
            )
        request.finish(finished)

    def _audit(self, request: Request, given: dict[str, Any], outcome: str) -> None:
        verb, arguments = audited(request.command.verb, given)
        issuer = request.issuer
        self.master.tell(CommandGiven(verb, arguments, issuer.uid, issuer.pid, issuer.title, outcome))

    async def _resume(self, request: Request) -> Finished:
        """Whoever waited for the last master to finish something waits on."""
        resume = self.upgrades.resume if "upgrade" in request.arguments else self.deploys.resume
        return await resume(request)

    # -- looking

    def document(self) -> dict[str, Any]:
        """What `bkd status --json` shows."""
        return self.snapshot()()

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """What that document is made of now; any thread may make it, which reads /proc."""
        master, exchange = self.master, self.exchange
        cluster = master.turns.cluster
        dropped = {worker.id: exchange.dropped_of(worker.id) for _, _, worker in cluster.workers()}
        spoken = {process.worker: process.spoken for process in master.effects.registry.workers.values()}
        disk = status.disk(master.memory.fault, master.context.unlogged)
        beside = {"ipc": exchange.document(), "disk": disk or None, "bus": self.bus()}
        make = partial(
            status.document,
            cluster,
            master.config,
            began=master.began,
            keeper=master.keeper_pid,
            dropped=dropped.__getitem__,
            spoken=lambda worker: spoken.get(worker, ""),
        )
        return lambda: make() | beside

    async def _status(self, request: Request) -> Finished:
        if request.command.render == "openmetrics":
            return Finished(out=await self.metrics.text())
        facts = self.document()
        if request.arguments.get("healthy"):
            orphaned = os.getppid() != self.master.keeper_pid
            return healthy.answer(facts, request.arguments, request.command.render, orphaned=orphaned)
        if request.arguments.get("history"):
            self.witness.add_history(facts)
        if request.command.render == "json":
            return Finished(out=json.dumps(facts) + "\n")
        return Finished(out=status.table(facts, await self._messages() if facts["dispatcher"] else ""))

    async def _messages(self) -> str:
        """A line about them; a store that is slow or away does not hold it up for long."""
        return messagesline.describe(self.master.config.store.url, await self.metrics.census.latest(BRIEFLY))

    # -- stopping

    async def _stop(self, request: Request) -> Finished:
        """Ends when the last process is gone; the client then waits for the keeper itself."""
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
        self._stopping.append(request)
        self.master.turns.post(events.StopAsked("bkd stop"))
        while True:
            try:
                return await asyncio.wait_for(asyncio.shield(self._over), SIGN_OF_LIFE)
            except TimeoutError:
                request.sign_of_life()

    def told(self, fact: Fact) -> None:
        """Something happened: whoever waits for the stop sees it."""
        self.deploys.told(fact)
        self.postmaster.told(fact)
        if isinstance(fact, CommandGiven) or (isinstance(fact, ClusterStopped) and fact.why):
            return  # who has asked for the stop is told in the end, and why
        for request in self._stopping:
            request.progress(fact.describe())

    def over(self, code: int) -> None:
        """Everything has ended: whoever asked for it is told what had to be killed or could not be."""
        closing = self.master.turns.cluster.closing
        if self._over is None or closing is None or self._over.done():
            return
        err = "".join(f"bkd: {line}\n" for line in endings.remarks(closing))
        self._over.set_result(Finished(exit_code(closing), err=err))

    # -- changing

    async def _scale(self, request: Request) -> Finished:
        changes = [self._change(name, text) for name, text in request.arguments.items()]
        if not changes:
            raise UsageError("which group, and how many? For example: web=4, or jobs=+2")
        wanted = {name: new for name, _, new in changes}
        missing = limits.too_few(sum(wanted.get(g.name, g.count) for g in self._cluster.groups.values()))
        if missing:
            raise BkdError(missing)
        lines = []
        for name, old, new in changes:
            self.master.turns.post(events.Scaled(name, new))
            self.master.turns.now()
            lines.append(f"{name}: {old} -> {new}\n")
        return Finished(out="".join(lines))

    def _change(self, name: str, text: object) -> tuple[str, int, int]:
        group = self._cluster.groups.get(name)
        if group is None:
            raise UsageError(f"no group {name}; there are {', '.join(self._cluster.groups)}")
        if name == dispatcher.NAME:
            raise UsageError("there is one dispatcher for all messages; scale the groups that run them")
        number = str(text)
        if not re.fullmatch(r"[+-]?[0-9]{1,6}", number):
            raise UsageError(f"{name}={number}: expected a number such as 4, +2 or -1")
        new = group.count + int(number) if number[0] in "+-" else int(number)
        if not 0 <= new <= MOST_WORKERS:
            raise UsageError(f"{name}={number}: that would be {new} workers; it must be 0 to {MOST_WORKERS}")
        return name, group.count, new

    async def _signal(self, request: Request) -> Finished:
        number = signal_number(str(request.arguments.get("signal", "")))
        workers = [worker for worker in self._workers(request.name()) if worker.pid]
        if not workers:
            raise BkdError(f"{request.name()} has no process now")
        for worker in workers:
            self.master.turns.post(events.Signalled(worker.id, number))
            self.master.turns.now()
            self.master.effects.send_signal(worker.id, number, request.issuer.who)
        sent = ", ".join(f"{worker.slot} (pid {worker.pid})" for worker in workers)
        return Finished(out=f"{signal.Signals(number).name} sent to {sent}\n")

    async def _hold(self, request: Request) -> Finished:
        return self._set_held(request, held=True)

    async def _unhold(self, request: Request) -> Finished:
        return self._set_held(request, held=False)

    def _set_held(self, request: Request, *, held: bool) -> Finished:
        slots = self._slots(request.name())
        for slot in slots:
            self.master.turns.post(events.Held(slot, held))
        return Finished(out=f"{', '.join(slots)}: {'held' if held else 'supervised again'}\n")

    async def _reset(self, request: Request) -> Finished:
        slots = self._slots(request.name())
        self.master.turns.post(events.Cleared(request.name()))
        return Finished(out=f"{', '.join(slots)}: back-off, breaker and failures forgotten\n")

    # -- events of applications

    async def _send(self, request: Request) -> Finished:
        """An event for the workers of this host, or a seed, which is obeyed instead."""
        op, to = str(request.arguments.get("op")), str(request.arguments.get("to") or "all")
        if op in ops.SEEDS:
            verb, arguments = self.seed(op)
            return await self.table[verb].handler(request.instead(verb, arguments | {"no_wait": False}))
        try:
            role = destination.parse(f":{to}", self.master.config.app.name)
        except RefusedError as error:
            raise UsageError(str(error)) from error
        why = ops.refusal(op)
        if why:
            raise UsageError(why)
        data = port.raw(request.arguments.get("data"))
        workers = self.exchange.event(role.name, role.tag, op, data, request.issuer.title)
        if request.command.render == "json":
            return Finished(out=json.dumps({"hosts": 1, "workers": workers}) + "\n")
        return Finished(out=f"{op}: sent to {counted(workers, 'worker')} of this host\n")

    def seed(self, op: str) -> tuple[str, dict[str, Any]]:
        """The verb of an event that the masters obey, with its arguments; raises UsageError when nothing is meant."""
        groups = self._cluster.groups.values()
        seed = ops.SEEDS[op]
        arguments = seed.arguments({group.name: group.settings.kind for group in groups if not group.leaving})
        why = seed.lacks(arguments)
        if why:
            raise UsageError(f"{op}: {why}")
        return seed.verb, arguments

    # -- names

    @property
    def _cluster(self) -> Cluster:
        return self.master.turns.cluster

    def _slots(self, name: str) -> list[str]:
        """The slots a name means; raises UsageError when it means none."""
        found = [slot.name for group, slot in self._cluster.slots() if name in (group.name, slot.name)]
        if not found:
            raise UsageError(f"no group or slot {name}; groups are {', '.join(self._cluster.groups)}")
        return found

    def _workers(self, name: str) -> list[Worker]:
        slots = set(self._slots(name))
        return [worker for _, slot, worker in self._cluster.workers() if slot.name in slots]


def signal_number(text: str) -> int:
    """`TERM`, `SIGTERM` or `15`; raises UsageError."""
    name = text.upper()
    try:
        return int(signal.Signals(int(name)) if name.isdigit() else signal.Signals[f"SIG{name.removeprefix('SIG')}"])
    except (KeyError, ValueError) as error:
        raise UsageError(f"no signal {text!r}; for example TERM, HUP or USR1") from error
