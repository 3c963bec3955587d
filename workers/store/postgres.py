"""Durable messages in PostgreSQL: the store of many hosts. See protocol.Store for what its methods promise.

Two connections, made when they are needed: one for turns and everything that is small and quick, with plans that never
scan a queue, and one for the questions and deeds of operators.
"""

from collections.abc import Sequence

from ...ipc.durable.model import NewMessage, Receipt
from ...ipc.durable.policy import KindPolicy
from ...ipc.durable.wire import Held
from .postgres_deeds import Deeds
from .postgres_enqueue import Enqueuing
from .postgres_kinds import Kinds
from .postgres_link import TURNS, VERBS, Link, address
from .postgres_listener import Listener
from .postgres_nodes import Nodes
from .postgres_queries import Queries
from .postgres_schema import ENGINE, Schema
from .postgres_turn import Turns
from .protocol import Control, Filter, Leased, Node, Renewal, Row, Store, Story, Swept, Tally, Turn, Turned
from .statements import statements


class PostgresStore(Store):
    """The store that an url names. Any number of hosts may use it at once."""

    def __init__(self, url: str, seen_from: str = "") -> None:
        """`seen_from`: see instance.py; by default that of this process."""
        where, sql = address(url), statements(ENGINE)
        self._url = url
        self._turning, self._asking = Link(where, TURNS), Link(where, VERBS)
        self._sql = sql
        self._schema = Schema(self._asking, sql)
        self._kinds = Kinds(self._turning, sql)
        self._nodes = Nodes(self._turning, sql, seen_from)
        self._turns = Turns(self._turning, sql, self._kinds)
        self._enqueuing = Enqueuing(self._turning, sql, self._kinds)
        self._queries = Queries(self._asking, sql)
        self._deeds = Deeds(self._asking, sql, self._kinds, self._enqueuing)

    def open(self) -> None:
        self._kinds.forget()
        try:
            self._schema.open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._turning.close()
        self._asking.close()

    def migrate(self) -> list[str]:
        return self._schema.migrate()

    def check(self) -> list[str]:
        return self._schema.check()

    def listener(self) -> Listener:
        """Hears of what other hosts enqueue; on a connection and for a thread of its own."""
        return Listener(self._url)

    def clock(self) -> int:
        with self._turning.session() as db:
            ((now,),) = db.execute(self._sql["clock"]).fetchall()
        return int(now)

    def register(self, name: str, now: int, until: int) -> Node:
        return self._nodes.register(name, until)

    def enlist(self, node: int, slot: str, pid: int, start: int, now: int) -> int:
        return self._nodes.enlist(node, slot, pid, start, now)

    def declare(self, node: int, kinds: Sequence[KindPolicy], now: int) -> None:
        self._kinds.declare(node, kinds)

    def policies(self) -> dict[str, KindPolicy]:
        return self._kinds.policies()

    def renew(self, node: int, now: int, until: int) -> Renewal:
        return self._nodes.renew(node, now, until)

    def leases(self, node: int) -> list[Leased]:
        found = self._nodes.leases(node)
        self._turns.held([Held(lease.id, lease.fence) for lease in found])
        return found

    def orphans(self, now: int, limit: int) -> list[Leased]:
        return self._nodes.orphans(now, limit)

    def leave(self, node: int, now: int) -> None:
        self._nodes.leave(node)

    def turn(self, turn: Turn) -> Turned:
        self._look_at(turn.new)
        new = self._enqueuing.plain(turn.new, turn.now, loud=not self._nodes.alone) if turn.new else None
        return self._turns.turn(turn, new)

    def enqueue(self, messages: Sequence[NewMessage], now: int) -> list[Receipt]:
        self._look_at(messages)
        return self._enqueuing.enqueue(messages, now, loud=not self._nodes.alone)

    def payload(self, id: int) -> bytes:
        return self._enqueuing.payload(id)

    def ended(self, ids: Sequence[int]) -> list[Row]:
        return self._queries.ended(ids)

    def sweep(self, now: int, limit: int) -> Swept:
        self._turns.look_again()
        return self._deeds.sweep(self._kinds.policies(), now, limit)

    def find(self, filter: Filter, limit: int, after: int = 0) -> list[Row]:
        return self._queries.find(filter, limit, after, self.clock())

    def count(self, filter: Filter) -> int:
        return self._queries.count(filter, self.clock())

    def story(self, id: int) -> Story | None:
        return self._queries.story(id)

    def stats(self, now: int) -> list[Tally]:
        return self._queries.stats(now)

    def retry(self, ids: Sequence[int], actor: str, now: int) -> list[int]:
        return self._deeds.retry(ids, actor, now)

    def cancel(self, ids: Sequence[int], actor: str, now: int) -> tuple[list[int], list[int]]:
        self._turns.look_again()
        return self._deeds.cancel(ids, actor, now)

    def clone(self, ids: Sequence[int], actor: str, now: int) -> list[Receipt]:
        return self._deeds.clone(ids, actor, now)

    def purge(self, ids: Sequence[int], actor: str, now: int) -> list[int]:
        return self._deeds.purge(ids)

    def control(self, control: Control) -> None:
        self._kinds.control(control)

    def controls(self) -> list[Control]:
        return self._kinds.controls()

    def _look_at(self, messages: Sequence[NewMessage]) -> None:
        if any(message.delay or message.due for message in messages):
            self._turns.look_again()
