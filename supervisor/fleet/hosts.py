"""The inventory: every host says on the bus that it is there, and knows who else is."""

import asyncio
import contextlib
import random
from collections.abc import Callable

from msgspec.structs import replace

from ... import __version__
from ..bus.driver import BusError
from ..bus.letter import Letter, Refusal
from ..bus.orders import GroupRow, HostRow
from ..desk import Desk
from ..logfiles import clean
from .facts import HostClash
from .selection import FORGOTTEN, STALE, Seen
from .wire import Wire

PERIOD, BREATH = 5.0, 0.5
LONGEST_NAME = 60
LASTS = 1000 * FORGOTTEN  # a row has to be readable when it is to be deleted, however long nobody was there


class Hosts:
    """Announces this host, and keeps what the others said last in `known`; `strangers` have rows that no key here
    verifies."""

    def __init__(self, wire: Wire, desk: Desk, cursor: Callable[[], str]) -> None:
        self.wire, self.desk, self.cursor = wire, desk, cursor
        self.known: dict[str, Seen] = {}
        self.strangers: list[str] = []
        self._clash = ""
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self.wire.is_up:
                with contextlib.suppress(BusError):  # the session knows of it and reconnects
                    await self.look()  # first: what another cluster of our name has written is overwritten then
                    await self.announce()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), PERIOD * random.uniform(0.8, 1.2))
            await asyncio.sleep(BREATH if self._news.is_set() else 0.0)
            self._news.clear()

    def changed(self) -> None:
        """Others should not wait to hear what there is to say of this host."""
        self._news.set()

    async def announce(self) -> None:
        """This host is there; raises BusError."""
        names = self.wire.names
        letter = self.wire.sign(names.hosts, "fleet:host", self._row(), LASTS)
        await self.wire.driver.set_field(names.hosts, self.wire.host, letter)

    async def withdraw(self) -> None:
        """This host leaves as planned: nobody has to wait for it. Raises BusError."""
        names = self.wire.names
        letter = self.wire.sign(names.hosts, "fleet:host", replace(self._row(), left=True), LASTS)
        await self.wire.driver.set_field(names.hosts, self.wire.host, letter)

    async def look(self) -> dict[str, Seen]:
        """Everybody who was there in the last day; raises BusError.

        Who was there a moment ago and did not say that it leaves is still there, should the bus have been emptied.
        """
        told, now = await self._told(), self.wire.now()
        for host, seen in told.items():
            if now - seen.seen > (STALE if seen.row.left else FORGOTTEN):
                await self.wire.driver.set_field(self.wire.names.hosts, host, None)
        known = {host: seen for host, seen in told.items() if not seen.row.left and now - seen.seen <= FORGOTTEN}
        known |= {host: seen for host, seen in self.known.items() if host not in told and not seen.is_silent(now)}
        self._look_for_clash(known.get(self.wire.host), now)
        known[self.wire.host] = Seen(self._row(), now)
        self.known = known
        return known

    async def _told(self) -> dict[str, Seen]:
        """What the hosts said last of themselves."""
        key, told, strangers = self.wire.names.hosts, {}, []
        for host, raw in (await self.wire.driver.fields(key)).items():
            letter = self.wire.letter(raw, key)
            row = self.wire.body(letter, HostRow) if letter is not None else None
            if not isinstance(self.wire.judge.verify(raw, key), Letter):
                strangers.append(clean(host[:LONGEST_NAME]))
            if letter is None or row is None:
                continue
            if letter.sender == row.host == host:
                told[host] = Seen(row, letter.issued)
            else:
                self.wire.refuse(Refusal.FOREIGN, key)
        self.strangers = sorted(strangers)
        return told

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

    def _look_for_clash(self, ours: Seen | None, now: float) -> None:
        """Somebody else wrote our row a moment ago, and not for the first time: no earlier master of this host."""
        other = ours is not None and ours.row.instance != self.wire.instance and now - ours.seen < PERIOD
        instance = ours.row.instance if ours is not None and other else ""
        if instance and self._clash == instance:
            self.desk.tell(HostClash(self.wire.host))
        self._clash = instance

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
