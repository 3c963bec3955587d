"""The inventory: every host says on the bus that it is there, and knows who else is."""

import asyncio
import contextlib
import random
from collections.abc import Callable

from ... import __version__
from ..bus.driver import BusError
from ..bus.orders import GroupRow, HostRow
from ..desk import Desk
from .facts import HostClash
from .selection import FORGOTTEN, Seen
from .wire import Wire

PERIOD = 5.0
LASTS = 1000 * FORGOTTEN  # a row has to be readable when it is to be deleted, however long nobody was there


class Hosts:
    """Announces this host, and keeps what the others said last in `known`."""

    def __init__(self, wire: Wire, desk: Desk, cursor: Callable[[], str]) -> None:
        self.wire, self.desk, self.cursor = wire, desk, cursor
        self.known: dict[str, Seen] = {}
        self._clash = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self.wire.is_up:
                with contextlib.suppress(BusError):  # the session knows of it and reconnects
                    await self.look()  # first: what another cluster of our name has written is overwritten then
                    await self.announce()
            await asyncio.sleep(PERIOD * random.uniform(0.8, 1.2))

    async def announce(self) -> None:
        """This host is there; raises BusError."""
        names = self.wire.names
        letter = self.wire.sign(names.hosts, "fleet:host", self._row(), LASTS)
        await self.wire.driver.set_field(names.hosts, self.wire.host, letter)

    async def withdraw(self) -> None:
        """This host leaves as planned: nobody has to wait for it. Raises BusError."""
        await self.wire.driver.set_field(self.wire.names.hosts, self.wire.host, None)

    async def look(self) -> dict[str, Seen]:
        """Everybody who was there in the last day; raises BusError."""
        names, now = self.wire.names, self.wire.now()
        known = {}
        for host, raw in (await self.wire.driver.fields(names.hosts)).items():
            letter = self.wire.letter(raw, names.hosts)
            row = self.wire.body(letter, HostRow) if letter is not None else None
            if letter is None or row is None or not letter.sender == row.host == host:
                continue
            if now - letter.issued > FORGOTTEN:
                await self.wire.driver.set_field(names.hosts, host, None)
            elif host != self.wire.host:
                known[host] = Seen(row, letter.issued)
            elif row.instance != self.wire.instance:
                self._clashes(row.instance, fresh=now - letter.issued < PERIOD)
        known[self.wire.host] = Seen(self._row(), now)
        self.known = known
        return known

    def others(self, role: str, tag: str) -> set[str]:
        """The hosts, this one not among them, that should hear what is said to this role."""
        now = self.wire.now()
        return {
            host
            for host, seen in self.known.items()
            if host != self.wire.host
            and not seen.is_silent(now)
            and (not tag or seen.row.tag == tag)
            and (role in ("all", "server") or any(group.name == role for group in seen.row.groups))
        }

    def _clashes(self, instance: str, *, fresh: bool) -> None:
        """Somebody else wrote our row a moment ago, and not for the first time: no earlier master of this host."""
        if fresh and self._clash == instance:
            self.desk.tell(HostClash(self.wire.host))
        self._clash = instance if fresh else ""

    def _row(self) -> HostRow:
        config, cluster = self.desk.config, self.desk.turns.cluster
        groups = tuple(
            GroupRow(
                group.name,
                group.settings.kind,
                group.count,
                sum(1 for slot in group.slots.values() if slot.serves),
                group.current,
            )
            for group in cluster.groups.values()
            if not group.leaving
        )
        return HostRow(
            self.wire.host,
            config.app.tag,
            __version__,
            self.wire.instance,
            groups,
            cursor=self.cursor(),
            seen=self.wire.now(),
        )
