"""Dispatchers and their executors in PostgreSQL, and what they hold."""

from collections.abc import Iterable, Mapping
from typing import Any

from ...ipc.durable.model import Counters
from ...ipc.durable.wire import Held
from .postgres_link import Link
from .protocol import Control, Leased, Node, Renewal


class Nodes:
    """The nodes. `alone`: no other one lived when this one was renewed last."""

    def __init__(self, link: Link, sql: Mapping[str, str]) -> None:
        self._link = link
        self._sql = sql
        self.alone = False

    def register(self, name: str, until: int) -> Node:
        """A dispatcher of this name begins; its number stays, its generation grows."""
        ((number, generation),) = self._rows("register", name=name, until=until)
        return Node(number, name, generation)

    def enlist(self, node: int, slot: str, pid: int, start: int, now: int) -> int:
        """The number of this executor."""
        ((number,),) = self._rows("enlist", node=node, slot=slot, pid=pid, start=start, now=now)
        return int(number)

    def renew(self, node: int, now: int, until: int) -> Renewal:
        """The node lives on, if it was not declared dead."""
        with self._link.batch() as db:
            renewed = db.execute(self._sql["renew_node"], {"node": node, "now": now, "until": until})
            cancels = db.execute(self._sql["cancels"], {"node": node})
            controls = db.execute(self._sql["controls"])
        ((known, others),) = renewed.fetchall()
        self.alone = not others
        said = [Control(*row) for row in controls.fetchall()]
        return Renewal(bool(known), [Held(*row) for row in cancels.fetchall()], said)

    def leases(self, node: int) -> list[Leased]:
        """What a node holds."""
        return _leased(self._rows("leases", node=node))

    def orphans(self, now: int, limit: int) -> list[Leased]:
        """What nodes hold that were not renewed in time; they are dead from now on."""
        with self._link.batch() as db:
            db.execute(self._sql["lose_nodes"], {"now": now})
            rows = db.execute(self._sql["orphans"], {"limit": limit})
        return _leased(rows.fetchall())

    def leave(self, node: int) -> None:
        """The node ends in order: what it may have left is an orphan from now on."""
        with self._link.session() as db:
            db.execute(self._sql["leave"], {"node": node})

    def _rows(self, name: str, /, **values: Any) -> list[tuple[Any, ...]]:
        with self._link.session() as db:
            return db.execute(self._sql[name], values).fetchall()


def _leased(rows: Iterable[tuple[Any, ...]]) -> list[Leased]:
    return [_lease(*row[:8], Counters(*row[8:14]), *row[14:]) for row in rows]


def _lease(*row: Any) -> Leased:
    return Leased(*row)
