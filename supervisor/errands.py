"""What processes ask of the master: an echo, its status, limiters and locks, and verbs as far as `may` goes."""

from collections.abc import Callable
from typing import Any

import msgspec

from ..ipc.errors import BkdError, RefusedError
from ..ipc.message import UNREADABLE, Command, Envelope, Finished
from . import dispatcher, ops, reports
from .commands import Commands
from .desk import USAGE, Desk, Issuer, Request, UsageError
from .destination import Destination, Reach
from .exchange import Exchange
from .fleet.audience import Collected
from .neighbours import Alone
from .port import Port, error_of, raw
from .roles import Role
from .services import Answer, Services

FRESH = 0.1
MOST_ERRANDS = 4
CALLS = frozenset({"ipc:limiter", "ipc:lock", "ipc:renew", "ipc:unlock"})  # mean nothing to who hears no answer


class Errands:
    """The table of what `to = "server"` understands, and the seeds. A process has MOST_ERRANDS verbs under way at most,
    so that none of them can keep the master from its work."""

    def __init__(self, master: Desk, exchange: Exchange, commands: Commands) -> None:
        self.master, self.exchange, self.commands = master, exchange, commands
        services = Services(exchange)
        self._status, self._status_at = raw(None), -FRESH
        self._table: dict[str, Callable[[Port, Envelope], Answer | None]] = {
            "echo": lambda port, envelope: envelope.data,
            "stats": self._stats,
            "ipc:limiter": services.limiter,
            "ipc:lock": services.lock,
            "ipc:renew": services.renew,
            "ipc:unlock": services.unlock,
            ops.FORGET: self._forget,
            **dict.fromkeys(ops.VERBS, self._verb),
        }
        exchange.serve, exchange.obey = self.serve, self.obey
        app = master.config.app
        exchange.fleet = Alone(app.host, app.tag, app.name, self._give)

    def serve(self, port: Port, envelope: Envelope) -> None:
        """One message to the master; raises BkdError when it is refused."""
        if envelope.op in ops.SEEDS:
            self._seed(port, envelope)
            return
        handler = self._table.get(envelope.op)
        if handler is None:
            raise RefusedError(f"the master does not know {envelope.op[:40]!r}; it knows {', '.join(self._table)}")
        if envelope.op in CALLS and not envelope.id:
            raise RefusedError(f"{envelope.op} is a call: it needs an id")
        answer = handler(port, envelope)
        if isinstance(answer, msgspec.Raw):
            if envelope.id:
                port.answered(envelope.id, "reply", answer)
        elif answer is not None:
            number = self._begin(port, envelope)
            self.exchange.tasks.run(self._awaited(number, answer))

    def obey(self, port: Port, envelope: Envelope, to: Destination) -> None:
        """A seed on some channel: one of a role is for the whole fleet, every other for this host."""
        if to.reach is Reach.ROLE and not isinstance(self.exchange.fleet, Alone):
            verb, arguments = self._meant(port, envelope.op)
            number = self._begin(port, envelope)
            self.exchange.tasks.run(self._commanded(number, port, verb, arguments, to.tag))
        else:
            self._seed(port, envelope)

    def _begin(self, port: Port, envelope: Envelope) -> int:
        return self.exchange.begin(port, envelope, self.exchange.master) if envelope.id else 0

    async def _awaited(self, number: int, answer: Any) -> None:
        try:
            self.exchange.settle(number, "reply", await answer)
        except BkdError as fault:
            self.exchange.settle(number, "error", error_of(fault))

    # -- looking, forgetting

    def _stats(self, port: Port, envelope: Envelope) -> msgspec.Raw:
        """The status, made anew ten times a second at most: it asks /proc about every worker."""
        now = self.exchange.now()
        if now - self._status_at >= FRESH:
            self._status, self._status_at = raw(self.commands.document()), now
        return self._status

    def _forget(self, port: Port, envelope: Envelope) -> None:
        to = Destination(Reach.ROLE, "all")
        self.exchange.abroad(port, envelope, to, self.exchange.forget(envelope.data, port.who.name, sender=port))

    # -- verbs

    def _verb(self, port: Port, envelope: Envelope) -> None:
        try:
            arguments = msgspec.msgpack.decode(envelope.data, type=dict[str, Any] | None) or {}
        except UNREADABLE as error:
            raise RefusedError(f"{envelope.op}: {error}") from error
        self._refuse_unless_allowed(port, envelope.op, arguments)
        self._run(port, envelope, envelope.op, arguments)

    def _seed(self, port: Port, envelope: Envelope) -> None:
        self._run(port, envelope, *self._meant(port, envelope.op))

    def _meant(self, port: Port, op: str) -> tuple[str, dict[str, Any]]:
        """The verb of a seed; raises RefusedError when it means nothing here, or is not allowed."""
        try:
            verb, arguments = self.commands.seed(op)
        except UsageError as error:
            raise RefusedError(str(error)) from error
        self._refuse_unless_allowed(port, verb, arguments)
        return verb, arguments

    def _refuse_unless_allowed(self, port: Port, verb: str, arguments: dict[str, Any]) -> None:
        """A worker may do what its group may; a script what its user may, which the table of commands checks."""
        if not port.who.worker:
            return
        group = self.master.config.workers.get(port.who.group)
        rows = self.master.turns.cluster.groups.values()
        groups = [row.name for row in rows if not row.leaving and row.name != dispatcher.NAME]
        lacks = ops.missing(group.may if group else (), verb, ops.concerned(verb, arguments, groups))
        if lacks:
            wanted = ", ".join(f'"{name}"' for name in lacks)
            raise RefusedError(f"{port.who.group} may not {verb}: add {wanted} to may in [workers.{port.who.group}]")

    def _run(self, port: Port, envelope: Envelope, verb: str, arguments: dict[str, Any]) -> None:
        if port.errands >= MOST_ERRANDS:
            raise RefusedError(f"{MOST_ERRANDS} commands of this process are under way already")
        number = self._begin(port, envelope)
        port.errands += 1
        self.exchange.tasks.run(self._ran(number, port, verb, arguments))

    async def _ran(self, number: int, port: Port, verb: str, arguments: dict[str, Any]) -> None:
        issuer = Issuer(port.who.uid, port.who.pid, port.who.name)
        role = Role.OPERATOR if port.who.worker else port.who.role
        try:
            answer = await self._done(verb, arguments, issuer, role)
        except BkdError as fault:
            self.exchange.settle(number, "error", error_of(fault))
        else:
            self.exchange.settle(number, "reply", answer)
        finally:
            port.errands -= 1

    async def _done(self, verb: str, arguments: dict[str, Any], issuer: Issuer, role: Role) -> msgspec.Raw:
        """{"code", "out", "err"} when something was done; raises BkdError otherwise."""
        audience = Collected(on_progress=lambda: None, on_promise=lambda resume: None)
        await self.commands.run(Request(audience, 0, Command(verb, arguments), issuer), role)
        end = audience.finished()
        if end.code in (0, reports.PARTLY):
            return raw({"code": end.code, "out": end.out, "err": end.err})
        raise (RefusedError if end.code == USAGE else BkdError)(_line(end))

    async def _commanded(self, number: int, port: Port, verb: str, arguments: dict[str, Any], tag: str) -> None:
        try:
            id = await self.exchange.fleet.command(verb, arguments, tag=tag, issuer=port.who.name)
        except BkdError as fault:
            self.exchange.settle(number, "error", error_of(fault))
        else:
            self.exchange.settle(number, "reply", raw({"hosts": 0, "workers": 0, "id": id}))

    def _give(self, verb: str, arguments: dict[str, Any], issuer: str) -> None:
        """A command for the fleet where this host is all of it."""
        audience = Collected(on_progress=lambda: None, on_promise=lambda resume: None)
        self.commands.give(Request(audience, 0, Command(verb, arguments), Issuer(-1, 0, issuer)), Role.OPERATOR)


def _line(finished: Finished) -> str:
    """Why it was not done."""
    lines = finished.err.strip().splitlines() or [f"exit code {finished.code}"]
    return lines[-1].removeprefix("bkd: ")
