"""Dispatchers and their executors in PostgreSQL, and what they hold."""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...ipc.durable.model import Counters
from ...ipc.durable.wire import Held
from .instance import instance
from .postgres_link import Link
from .protocol import Control, Leased, Node, Renewal

BARREN, BARREN_MOST = 15.0, 300.0  # seconds; a claim that was under way when its node died has ended by then
NAMESAKE = (
    "another dispatcher calls itself %s, or did 30 s ago: if this goes on, give each host a name of its own, "
    '[app] host = "…"'
)

_log = logging.getLogger("bkd.store")


class Nodes:
    """The nodes. `alone`: no other one lived when this one was renewed last."""

    def __init__(self, link: Link, sql: Mapping[str, str], seen_from: str) -> None:
        self._link = link
        self._sql = sql
        self._seen_from = seen_from
        self._barren = _Barren()
        self.alone = False

    def register(self, name: str, until: int) -> Node:
        """A dispatcher of this name begins; its number stays, its generation grows. One of the same name whose
        processes cannot be seen from here is another node: what it runs is not taken over as long as it lives."""
        rows = self._rows("register", name=name, instance=self._seen_from or instance(), until=until)
        ((number, generation, has_namesake),) = rows
        if has_namesake:
            _log.warning(NAMESAKE, name)
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
        """What nodes hold that were not renewed in time; they are dead from now on. Those that are known to hold
        nothing are looked at again after a while, for a claim may have been under way when they died."""
        with self._link.batch() as db:
            db.execute(self._sql["lose_nodes"], {"now": now})
            dead = db.execute(self._sql["lost_nodes"])
        lost = tuple(dead.fetchall())
        moment = time.monotonic()
        if not lost or self._barren.still_holds(lost, moment):
            return []
        found = _leased(self._rows("orphans", limit=limit))
        self._barren = _Barren() if found else self._barren.again(lost, moment)
        return found

    def leave(self, node: int) -> None:
        """The node ends in order: what it may have left is an orphan from now on."""
        with self._link.session() as db:
            db.execute(self._sql["leave"], {"node": node})

    def _rows(self, name: str, /, **values: Any) -> list[tuple[Any, ...]]:
        with self._link.session() as db:
            return db.execute(self._sql[name], values).fetchall()


class _Barren(NamedTuple):
    """Dead nodes that were found to hold nothing, and until when this is believed."""

    nodes: tuple[tuple[Any, ...], ...] = ()
    until: float = 0.0
    pause: float = 0.0

    def still_holds(self, lost: tuple[tuple[Any, ...], ...], moment: float) -> bool:
        return lost == self.nodes and moment < self.until

    def again(self, lost: tuple[tuple[Any, ...], ...], moment: float) -> "_Barren":
        """It was found now, perhaps once more."""
        pause = min(2 * self.pause, BARREN_MOST) if lost == self.nodes else BARREN
        return _Barren(lost, moment + pause, pause)


def _leased(rows: Iterable[tuple[Any, ...]]) -> list[Leased]:
    return [_lease(*row[:8], Counters(*row[8:14]), *row[14:]) for row in rows]


def _lease(*row: Any) -> Leased:
    return Leased(*row)
