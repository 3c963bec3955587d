"""`restart_every` and `restart_at`: asks for rolls when their time has come. Runs in the master's loop."""

import asyncio
from datetime import UTC, datetime

from loguru import logger

from ..ipc.errors import BkdError
from . import timetable
from .cluster import Group
from .deploys import Deploys
from .desk import Desk

LOOK = 30.0  # seconds: the wall clock may be set meanwhile
AGAIN = 1.0
LATE = 600.0  # seconds after which a time of day counts as missed


class Timers:
    """The clocks of all groups; what they ask for is a roll like any other."""

    def __init__(self, master: Desk, deploys: Deploys) -> None:
        self.master, self.deploys = master, deploys
        self._since: dict[str, tuple[float, float]] = {}
        self._looked = datetime.now(UTC)

    async def run(self) -> None:
        """Until the cluster stops."""
        while self.master.turns.cluster.closing is None:
            await asyncio.sleep(self._pause())
            before, self._looked = self._looked, datetime.now(UTC)
            for group in self._groups():
                why = self._due(group, before)
                if why:
                    await self._restart(group, why)

    def _pause(self) -> float:
        """Seconds until something may be due."""
        now, today = asyncio.get_running_loop().time(), datetime.now(UTC)
        every = [self._every(group) for group in self._groups()]
        at = [timetable.next_at(group.settings.restart_at, today) for group in self._groups()]
        times = [moment - now for moment in every if moment is not None]
        times += [(moment - today).total_seconds() for moment in at if moment is not None]
        rolling = any(group.roll is not None for group in self.master.turns.cluster.groups.values())
        return min(AGAIN if rolling else LOOK, max(0.05, min(times, default=LOOK)))

    def _groups(self) -> list[Group]:
        """Those that may be asked to roll now."""
        groups = self.master.turns.cluster.groups.values()
        return [group for group in groups if group.roll is None and not group.leaving]

    def _due(self, group: Group, before: datetime) -> str:
        """The setting whose time has come, "" for none."""
        every = self._every(group)
        if every is not None and every <= asyncio.get_running_loop().time():
            return "restart_every"
        at = timetable.next_at(group.settings.restart_at, before)
        if at is None or at > self._looked:
            return ""
        if (self._looked - at).total_seconds() > LATE:
            logger.warning("{}: its restart of {:%H:%M} was missed: this machine or bkd was asleep", group.name, at)
            return ""
        return "restart_at"

    def _every(self, group: Group) -> float | None:
        """The next moment of `restart_every`, counted from the last roll, try or change of the setting."""
        now, every = asyncio.get_running_loop().time(), group.settings.restart_every
        known, since = self._since.get(group.name, (every, max(group.rolled_at, self.master.began)))
        if known != every:
            since = now
        since = max(since, group.rolled_at)
        self._since[group.name] = every, since
        return timetable.due(group.settings, since, now, f"{group.name} {group.newest}")

    async def _restart(self, group: Group, why: str) -> None:
        self._since[group.name] = group.settings.restart_every, asyncio.get_running_loop().time()
        try:
            await self.deploys.begin([group.name], why)
        except BkdError as error:
            logger.error("{}: {} could not restart it: {}", group.name, why, error)
