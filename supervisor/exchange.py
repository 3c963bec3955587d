"""The exchange: hands messages from one process of this host to another, and keeps account of who owes an answer.

Everything here happens in the turn in which a message arrives; data are relayed and never decoded. Supervision goes
first: an application has a connection of its own for this, 64 messages of it are taken a turn, and what a process does
not read is dropped and counted.
"""

import asyncio
import math
from collections.abc import Callable

import msgspec

from ..ipc.errors import AwayError, BkdError, FrameError, RefusedError
from ..ipc.message import Envelope
from . import ops
from .cluster import Cluster, Group, Phase, Slot
from .connection import Connection
from .destination import Destination, Reach, parse
from .identity import identify
from .neighbours import Alone, Fleet
from .pending import Party, Pending
from .port import TOO_LARGE, Port, error, error_of, framed, raw
from .registry import Registry
from .roles import Role
from .tasks import Tasks

PATIENCE, LONGEST = 5.0, 300.0
MARGIN = 0.1  # seconds that an answer needs to come in time to whoever asked
MOST_ASKED = MOST_ABROAD = 1000
MOST_PORTS = 16
MOST_OF_ONE = 256  # connections of all scripts, and of one worker with its children
KNOWN = 1000


class Gather(Party):
    """Asks several workers at once; `done` when all have answered or their time is over."""

    __slots__ = ("answers", "done", "names")

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = dict(enumerate(names))
        self.answers: dict[str, msgspec.Raw] = {}
        self.done = asyncio.get_running_loop().create_future()

    def answered(self, id: int, op: str, data: msgspec.Raw) -> None:
        """One of them."""
        self.answers[self.names.pop(id)] = raw({"value": data}) if op == "reply" else data
        if not self.names and not self.done.done():
            self.done.set_result(None)


class Exchange:
    """All application connections. `serve` answers what is meant for the master, `obey` begins a seed for the whole
    fleet or this host, `fleet` are the other hosts: all three are set before the first connection is taken."""

    serve: Callable[[Port, Envelope], None]
    obey: Callable[[Port, Envelope, Destination], None]
    fleet: Fleet

    def __init__(self, app: str, registry: Registry, cluster: Callable[[], Cluster]) -> None:
        self.app, self.registry, self._cluster = app, registry, cluster
        self.master = Party()
        self.pending = Pending()
        self.tasks = Tasks()
        self.touched: list[Port] = []
        self.dropped = self.refused = self._abroad = 0
        self._ports: dict[Port, None] = {}
        self._of: dict[int, list[Port]] = {}
        self._turns: dict[str, int] = {}
        self._destinations: dict[str, Destination] = {}
        self._known: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._wakes = math.inf

    # -- connections

    def admit(self, connection: Connection, role: Role) -> str:
        """A process wants to take part; "" or the reason why not."""
        who = identify(connection.peer, role, self.registry)
        if who is None:
            return "ipc is for workers, and for scripts of users who may operate this cluster"
        if sum(port.who.pid == who.pid for port in self._ports) >= MOST_PORTS:
            return f"this process has {MOST_PORTS} connections already"
        if len(self._of.get(who.worker, ())) >= MOST_OF_ONE:
            return f"{who.name if who.worker else 'scripts'}: {MOST_OF_ONE} processes are connected already"
        port = Port(self, connection, who)
        self._ports[port] = None
        self._of.setdefault(who.worker, []).append(port)
        return ""

    def closed(self, connection: Connection) -> None:
        """Whoever waits for an answer of that process has none to expect."""
        port = connection.listener
        if not isinstance(port, Port) or port not in self._ports:
            return
        del self._ports[port]
        self._of[port.who.worker].remove(port)
        if not self._of[port.who.worker]:
            del self._of[port.who.worker]
        for call in self.pending.gone(port):
            call.asker.answered(call.id, "error", error("closed", f"{port.who.name} has gone"))
        self.flush()

    def ended(self, pid: int) -> None:
        """A worker's process is gone; copies that it has made of itself may hold its connections open."""
        for port in [port for port in self._ports if port.who.pid == pid]:
            port.drop()

    def document(self) -> dict[str, int]:
        """For the status."""
        return {
            "connections": len(self._ports),
            "pending": len(self.pending),
            "dropped": self.dropped,
            "refused": self.refused,
        }

    def dropped_of(self, worker: int) -> int:
        """Events that this worker's open connections had no room for."""
        return sum(port.dropped for port in self._of.get(worker, ()))

    # -- messages of processes

    def received(self, port: Port, envelope: Envelope) -> None:
        """One message; what has no sense is refused, and answered if it asks."""
        try:
            if envelope.re:
                self._answer(port, envelope)
            elif envelope.to == "server":
                self.serve(port, envelope)
            else:
                self._relay(port, envelope)
        except BkdError as fault:
            self.refuse(port, envelope, fault)

    def refuse(self, port: Port, envelope: Envelope, fault: BkdError) -> None:
        """It is not done; whoever called hears why."""
        self.refused += 1
        if envelope.id:
            port.answered(envelope.id, "error", error_of(fault))

    def flush(self) -> None:
        """Send what was put into the ports since the last time."""
        while self.touched:
            touched, self.touched = self.touched, []
            for port in touched:
                port.flush()

    def _answer(self, port: Port, envelope: Envelope) -> None:
        """An answer that nobody waits for any more is late, not wrong."""
        if envelope.op not in ("reply", "error"):
            raise RefusedError("an answer is a reply or an error")
        call = self.pending.settle(envelope.re, port)
        if call is not None:
            call.asker.answered(call.id, envelope.op, envelope.data)

    def _relay(self, port: Port, envelope: Envelope) -> None:
        destination = self._destinations.get(envelope.to) or self._parsed(envelope.to)
        if envelope.op not in self._known:
            if envelope.op in ops.SEEDS:
                self.obey(port, envelope, destination)
                return
            self._learn(envelope.op)
        if destination.reach is Reach.ROLE:
            self._broadcast(port, envelope, destination)
            return
        target = self._target(destination)
        if envelope.id:
            self._call(port, envelope, target)
        else:
            target.event(_relayed(envelope, 0, port.who.name))

    def _call(self, port: Port, envelope: Envelope, target: Port) -> None:
        if target.full:
            raise RefusedError(f"{target.who.name} does not read what it is sent: its queue is full")
        number = self.begin(port, envelope, target)
        try:
            target.put(_relayed(envelope, number, port.who.name))
        except RefusedError:
            self.pending.settle(number, target)
            raise

    def begin(self, port: Port, envelope: Envelope, owner: Party) -> int:
        """`owner` has to answer this call; the number under which. Raises RefusedError when too many are open."""
        if len(port.asked) >= MOST_ASKED:
            raise RefusedError(f"{MOST_ASKED} calls of this process wait for an answer already")
        within = envelope.within or PATIENCE
        if not 0.0 < within <= LONGEST:
            raise RefusedError(f"an answer can be waited for up to {LONGEST:g} s, not {within:g}")
        return self._begin(port, envelope.id, owner, within)

    def _begin(self, asker: Party, id: int, owner: Party, within: float) -> int:
        deadline = self.now() + within
        number = self.pending.begin(asker, id, owner, deadline)
        if deadline < self._wakes:
            self._wake_at(deadline)
        return number

    def _learn(self, op: str) -> None:
        why = ops.refusal(op)
        if why:
            raise RefusedError(why)
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known.add(op)

    def _parsed(self, to: str) -> Destination:
        destination = parse(to, self.app)
        if len(self._destinations) >= KNOWN:
            self._destinations.clear()
        self._destinations[to] = destination
        return destination

    # -- time

    def now(self) -> float:
        """The clock of all deadlines here, monotonic."""
        return asyncio.get_running_loop().time()

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wakes = when
        self._timer = asyncio.get_running_loop().call_at(when, self._expire)

    def _expire(self) -> None:
        for call in self.pending.expired(self.now()):
            call.asker.answered(call.id, "error", error("timeout", "no answer came in time"))
        self._timer, self._wakes = None, math.inf
        if self.pending.next_end is not None:
            self._wake_at(self.pending.next_end)
        self.flush()

    # -- who is meant

    def _target(self, destination: Destination) -> Port:
        """Raises RefusedError when there is no such group or slot, AwayError when nobody there can hear it."""
        group = self._cluster().groups.get(destination.group)
        if group is None:
            raise RefusedError(f"there is no group {destination.group}")
        if destination.reach is Reach.SLOT:
            slot = group.slots.get(destination.name)
            if slot is None:
                raise RefusedError(f"there is no slot {destination.name}")
            found = self._serving(slot)
        else:
            found = self._next_of(group)
        if found is None:
            raise AwayError(f"{destination.name} is not ready, or does not use ipc")
        return found

    def _serving(self, slot: Slot) -> Port | None:
        """The connection of the one that takes work here."""
        for worker in slot.workers:
            if worker.phase is Phase.READY and worker.ending is None and not worker.quiet:
                port = self._port_of(worker.id, worker.pid)
                if port is not None:
                    return port
        return None

    def _port_of(self, worker: int, pid: int) -> Port | None:
        """The worker's own newest connection, before those of its descendants."""
        ports = self._of.get(worker)
        if not ports:
            return None
        return next((port for port in reversed(ports) if port.who.pid == pid), ports[-1])

    def _next_of(self, group: Group) -> Port | None:
        """Each in its turn; one that does not read only when there is no other."""
        slots = list(group.slots.values())
        begin, full = self._turns.get(group.name, 0), None
        for number in range(begin, begin + len(slots)):
            port = self._serving(slots[number % len(slots)])
            if port is not None and not port.full:
                self._turns[group.name] = number + 1
                return port
            full = full or port
        return full

    def _processes(self, role: str, tag: str) -> list[Port]:
        """The newest connection of each process of a role on this host."""
        if tag and tag != self.fleet.tag:
            return []
        newest = {port.who.pid: port for port in self._ports if _plays(port, role)}
        return list(newest.values())

    # -- everybody

    def event(self, role: str, tag: str, op: str, data: msgspec.Raw, by: str) -> int:
        """Deliver an event to this host's processes of a role (`all`: every worker); the number of workers reached.

        Raises RefusedError when it is too large.
        """
        ports = self._processes(role, tag)
        reached = self.forget(data, by) if op == ops.FORGET else self._deliver(ports, op, data, by)
        self.flush()
        return reached

    def forget(self, data: msgspec.Raw, by: str, *, sender: Port | None = None) -> int:
        """A deletion in a cache, for every process but the sender: scripts have caches as well."""
        newest = {port.who.pid: port for port in self._ports}
        pid = sender.who.pid if sender is not None else 0
        return self._deliver([port for port in newest.values() if port.who.pid != pid], ops.FORGET, data, by)

    def _deliver(self, ports: list[Port], op: str, data: msgspec.Raw, by: str) -> int:
        try:
            frame = framed(op, 0, 0, data, by)
        except FrameError as fault:
            raise RefusedError(TOO_LARGE) from fault
        return len({port.who.worker for port in ports if port.event(frame) and port.who.worker})

    async def gather_here(
        self, role: str, tag: str, op: str, data: msgspec.Raw, by: str, within: float
    ) -> dict[str, msgspec.Raw]:
        """Call every worker of a role here, or its child: `web.1@h1` -> {"value": …} or {"error": …, "reason": …}."""
        ports = sorted(self._processes(role, tag), key=lambda port: self.registry.by_pid(port.who.pid) is not None)
        ports = list({port.who.worker: port for port in ports}.values())
        if not ports:
            return {}
        gather = Gather([f"{port.who.name}@{self.fleet.host}" for port in ports])
        for id, port in enumerate(ports):
            self._ask(gather, id, port, Envelope(op, data=data, by=by, within=within))
        self.flush()
        await gather.done
        return gather.answers

    def _ask(self, gather: Gather, id: int, port: Port, envelope: Envelope) -> None:
        if port.full:
            gather.answered(id, "error", error("refused", "its queue is full"))
            return
        number = self._begin(gather, id, port, envelope.within)
        try:
            port.put(_relayed(envelope, number, envelope.by))
        except RefusedError as fault:
            self.pending.settle(number, port)
            gather.answered(id, "error", error_of(fault))

    def _broadcast(self, port: Port, envelope: Envelope, to: Destination) -> None:
        if to.name == "server":
            raise RefusedError(f"the masters obey {', '.join(ops.SEEDS)} and nothing else")
        if envelope.id and envelope.within:
            number = self.begin(port, envelope, self.master)
            self.tasks.run(self._gathered(number, envelope, to, port.who.name))
            return
        workers = self._deliver(self._processes(to.name, to.tag), envelope.op, envelope.data, port.who.name)
        self.abroad(port, envelope, to, workers)

    async def _gathered(self, number: int, envelope: Envelope, to: Destination, by: str) -> None:
        within = envelope.within - min(MARGIN, envelope.within / 5)
        asked = (to.name, to.tag, envelope.op, envelope.data, by, within)
        try:
            here, elsewhere = await asyncio.gather(self.gather_here(*asked), self.fleet.gather(*asked))
        except BkdError as fault:
            self.settle(number, "error", error_of(fault))
        else:
            self.settle(number, "reply", raw(here | elsewhere))

    def abroad(self, port: Port, envelope: Envelope, to: Destination, workers: int) -> None:
        """To the other hosts as well; whoever called hears how many hosts and, here, workers."""
        if isinstance(self.fleet, Alone):
            if envelope.id:
                port.answered(envelope.id, "reply", raw({"hosts": 1, "workers": workers}))
            return
        if self._abroad >= MOST_ABROAD:
            raise RefusedError(f"{MOST_ABROAD} events wait for the bus already")
        number = self.begin(port, envelope, self.master) if envelope.id else 0
        self._abroad += 1
        self.tasks.run(self._sent_abroad(number, envelope, to, workers, port.who.name))

    async def _sent_abroad(self, number: int, envelope: Envelope, to: Destination, workers: int, by: str) -> None:
        try:
            hosts = await self.fleet.broadcast(to.name, to.tag, envelope.op, envelope.data, by)
        except BkdError as fault:
            self.refused += 1
            self.settle(number, "error", error_of(fault))
        else:
            self.settle(number, "reply", raw({"hosts": hosts + 1, "workers": workers}))
        finally:
            self._abroad -= 1

    def settle(self, number: int, op: str, data: msgspec.Raw) -> None:
        """The master's answer to a call that it owed; nothing when its time is over."""
        call = self.pending.settle(number, self.master)
        if call is not None:
            call.asker.answered(call.id, op, data)
            self.flush()


def _relayed(envelope: Envelope, number: int, by: str) -> bytes:
    try:
        return framed(envelope.op, number, 0, envelope.data, by)
    except FrameError as fault:
        raise RefusedError(TOO_LARGE) from fault


def _plays(port: Port, role: str) -> bool:
    return bool(port.who.worker) and role in ("all", port.who.group)
