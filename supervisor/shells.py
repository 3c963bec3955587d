"""`bkd shell`: the master's side. Hands statements to a live worker and what they print back to whoever typed them.

A shell belongs to one connection of a client and to one process: it ends with either.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

from ..ipc.errors import BkdError
from ..ipc.message import Finished, Progress, ShellResult, ShellRun
from . import status
from .cluster import Cluster, Group, Phase, Slot, Worker
from .connection import Connection
from .desk import Desk, Request, UsageError
from .fact import span
from .rows import find

PATIENCE = 5.0
LOOK = 1.0
MOST_SOURCE = 512 << 10
MOST_TOLD = 200
OVER = 3

Audit = Callable[[Request, dict[str, str], str], None]


class Session:
    """One shell. `number`: its last statement; `results`: what the worker says of it, None once the worker is gone."""

    def __init__(self, client: Connection, worker: Worker, process: Connection) -> None:
        self.name = secrets.token_hex(8)
        self.worker, self.slot, self.pid = worker.id, worker.slot, worker.pid
        self.client, self.process = client, process
        self.number = 0
        self.runs = False
        self.results: asyncio.Queue[ShellResult | None] = asyncio.Queue()

    def send(self, source: str = "", *, number: int = 0, interrupt: bool = False) -> None:
        """To the worker."""
        self.process.send(ShellRun(self.name, number, source, interrupt))


class Shells:
    """The shells of all clients. `audit`: writes into the journal who did what."""

    def __init__(self, master: Desk, slots: Callable[[str], list[str]], audit: Audit) -> None:
        self.master, self._slots, self._audit = master, slots, audit
        self._sessions: dict[Connection, Session] = {}

    async def shell(self, request: Request) -> Finished:
        """`name` opens the shell of this connection, `source` is a statement, `interrupt` is for the one that runs,
        `leave` ends the shell."""
        client = request.audience
        if not isinstance(client, Connection):
            raise UsageError("a shell is opened on the host itself, with bkd shell NAME")
        session, given = self._sessions.get(client), request.arguments
        if given.get("leave") or given.get("interrupt"):
            self._cut_short(session, leave=bool(given.get("leave")))
            return Finished()
        if session is None:
            return await self._open(request, client)
        return await self._run(request, session, _source(given))

    def heard(self, connection: Connection, result: ShellResult) -> None:
        """A worker says something; whoever has left does not hear it."""
        for session in self._sessions.values():
            if (session.process, session.name, session.number) == (connection, result.session, result.number):
                session.results.put_nowait(result)

    def lost(self, connection: Connection) -> None:
        """A worker has gone, or it has broken with the master, which it takes for the end of all its shells."""
        for session in self._sessions.values():
            if session.process is connection:
                session.results.put_nowait(None)

    # -- one after the other

    async def _open(self, request: Request, client: Connection) -> Finished:
        worker = self._worker(request.name())
        process = self.master.effects.registry.workers.get(worker.id)
        if process is None or process.connection is None:
            raise BkdError(f"{worker.slot} has no process to talk to now; see `bkd status`")
        session = self._sessions[client] = Session(client, worker, process.connection)
        self.master.tasks.run(self._attend(session))
        self._audit(request, {"name": worker.slot}, f"opened in pid {worker.pid}")
        return await self._run(request, session, "")

    async def _attend(self, session: Session) -> None:
        """Until the client goes, even if it says nothing."""
        while session.client.is_open:
            await asyncio.sleep(LOOK)
        self._end(session)

    def _cut_short(self, session: Session | None, *, leave: bool) -> None:
        if session is not None and leave:
            self._end(session)
        elif session is not None:
            session.send(interrupt=True)

    def _end(self, session: Session) -> None:
        """What still runs in the worker is interrupted."""
        if self._sessions.pop(session.client, None) is not None:
            session.send()

    async def _run(self, request: Request, session: Session, source: str) -> Finished:
        if session.runs:
            raise UsageError("the statement before still runs")
        if source:
            first = source.strip().partition("\n")[0][:MOST_TOLD]
            self._audit(request, {"name": session.slot, "source": first}, f"run in pid {session.pid}")
        session.number, session.runs = session.number + 1, True
        try:
            session.send(source, number=session.number)
            return await self._answer(request, session)
        finally:
            session.runs = False

    async def _answer(self, request: Request, session: Session) -> Finished:
        """Ends with the statement, with the worker, or with the client."""
        taken, told = False, ""
        while session.client.is_open:
            try:
                result = await asyncio.wait_for(session.results.get(), PATIENCE)
            except TimeoutError:
                told = self._tell_silence(request, session, taken, told)
                continue
            if result is None:
                end = f"{session.slot} (pid {session.pid}) is gone, and this shell with it; see `bkd events`"
                return Finished(OVER, err=f"bkd: {end}\n")
            if result.out or result.err:
                session.client.send(Progress(result.out, result.err), re=request.number)
            if result.done:
                return Finished(int(result.failed))
            taken, told = True, ""
        return Finished(OVER)

    def _tell_silence(self, request: Request, session: Session, taken: bool, told: str) -> str:
        """Nothing has come for PATIENCE seconds: say what is known, once; gives the gist of what was said last."""
        place, now = find(self._cluster, session.worker), time.monotonic()
        gist, text = _trouble(place.slot, place.worker, now, taken=taken) if place is not None else ("", "")
        if gist and gist != told:
            request.progress(f"bkd: {session.slot} (pid {session.pid}) {text}")
        else:
            request.sign_of_life()
        return gist

    # -- names

    @property
    def _cluster(self) -> Cluster:
        return self.master.turns.cluster

    def _worker(self, name: str) -> Worker:
        """The process that serves under this name; raises UsageError, BkdError."""
        names = self._slots(name)
        group, slot = next((group, slot) for group, slot in self._cluster.slots() if slot.name == names[0])
        _check(name, names, group)
        serving = [worker for worker in slot.staying if worker.phase == Phase.READY and not worker.quiet]
        workers = serving or slot.staying or list(slot.workers)
        if not workers:
            raise BkdError(f"{slot.name} has no process now; see `bkd status`")
        return workers[-1]


def _check(name: str, names: list[str], group: Group) -> None:
    if group.settings.kind == "command":
        raise UsageError(f"{group.name} is a command, not Python of bkd's; a shell is for groups of kind web or python")
    if len(names) > 1:
        raise UsageError(f"{name} has {len(names)} workers; which one? {_choice(names)}")


def _choice(names: list[str]) -> str:
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")


def _source(arguments: dict[str, Any]) -> str:
    source = arguments.get("source")
    if not isinstance(source, str):
        raise UsageError("what is to be run? The shell needs a source")
    if len(source) > MOST_SOURCE:
        raise BkdError(f"{len(source)} characters are too much for the shell; at most {MOST_SOURCE}")
    return source


def _trouble(slot: Slot, worker: Worker, now: float, *, taken: bool) -> tuple[str, str]:
    """Gist and text of what is wrong with a worker, empty when it is well and has `taken` the statement."""
    verdict = f" ({worker.trouble.verdict})" if worker.trouble is not None else ""
    said = f"bkd status says {status.state(slot, now)}{verdict}"
    silent = now - (worker.pulse.at if worker.pulse is not None else worker.ordered)
    lag = (worker.pulse.lag or 0.0) if worker.pulse is not None else 0.0
    if not taken or silent > PATIENCE:
        return f"silent {said}", f"does not answer; {said}, last heartbeat {span(silent)} ago"
    if lag > PATIENCE:
        return f"behind {said}", f"runs it, but its main loop has not turned for {span(lag)}; {said}"
    return "", ""
