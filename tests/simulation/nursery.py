"""The zygotes of the fake machine: they import, fork on order, and find the next master when one dies."""

from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Protocol

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Cluster
from bkd.supervisor.config.schema import GroupSection

from .processes import Dials, Process, Zygote
from .settings import flaw

FORK = 0.01


class Clock(Protocol):
    """What the machine needs of the world around it; `calm`: nothing new goes wrong; `life`: which master it is, since
    `adopted`; while it is `absent` nobody hears anything."""

    now: float
    random: Random
    cluster: Cluster
    calm: bool
    life: int
    absent: bool
    adopted: float

    def post(self, event: events.Event, zygote: Zygote | None = None) -> None:
        """Tell the master, unless it comes from a zygote that is dropped by then."""

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call later."""


class Nursery:
    """Those zygotes that the present master knows and that live (`zygotes`), those that it started last (`started`),
    and all that live. `processes`: workers by number, as this master knows them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.processes: dict[int, Process] = {}
        self.zygotes: dict[tuple[str, int], Zygote] = {}
        self.started: dict[tuple[str, int], Zygote] = {}
        self.living_zygotes: list[Zygote] = []
        self.dials: dict[str, Dials] = defaultdict(Dials)
        self.pids = 100

    def order(self, process: Process, zygote: Zygote | None) -> None:
        """A process is to be made, from this zygote or by exec."""
        raise NotImplementedError

    def failed(self, process: Process, why: str, *, blameless: bool = False) -> None:
        """It could not be made."""
        raise NotImplementedError

    def _chance(self) -> float:
        return self.clock.random.random()

    def flaw(self, settings: GroupSection) -> str:
        """What is wrong with a release of these settings; in calm times all is mended."""
        return "" if self.clock.calm else flaw(settings)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call later, if the same master is there then."""
        life = self.clock.life

        def turn() -> None:
            if life == self.clock.life:
                call()

        self.clock.after(seconds, turn)

    def _load(self, action: actions.LoadRelease) -> None:
        settings = self.clock.cluster.groups[action.group].releases[action.release].settings
        zygote = Zygote(action.group, action.release, settings)
        self.zygotes[zygote.key] = self.started[zygote.key] = zygote
        self.living_zygotes.append(zygote)
        self.later(FORK * self._chance(), lambda: self._zygote_born(zygote))
        self._import(zygote)

    def _zygote_born(self, zygote: Zygote) -> None:
        zygote.told = True
        self.pids += 1
        self.clock.post(events.LoaderSpawned(zygote.group, zygote.release, self.pids), zygote)

    def _import(self, zygote: Zygote) -> None:
        zygote.failed = False
        if self.flaw(zygote.settings) != "import hangs":
            seconds = self.clock.random.uniform(0.1, 2.0)
            self.clock.after(seconds, lambda: self._imported(zygote, seconds))

    def _imported(self, zygote: Zygote, seconds: float) -> None:
        if not zygote.alive or zygote.wedged:
            return
        dials, flaw = self.dials[zygote.group], self.flaw(zygote.settings)
        if dials.imports_fail or flaw == "import fails":
            zygote.failed = True
            if zygote.connected:
                self.lose_zygote(zygote, "ImportError")
            return
        zygote.loaded, zygote.prints = True, f"edition {dials.edition}"
        self._tell_loaded(zygote, seconds)
        if flaw == "zygote dies":
            self.clock.after(self.clock.random.uniform(0.0, 8.0), lambda: self.lose_zygote(zygote, "signal 11"))
        zygote.wedged = flaw == "zygote wedges"

    def _tell_loaded(self, zygote: Zygote, seconds: float) -> None:
        if not zygote.connected or zygote.heard:
            return
        zygote.heard = True
        threads = self.dials[zygote.group].threads and zygote.settings.preload == "auto"
        unsafe = ("2 threads",) if threads else ()
        ready = events.LoaderReady(zygote.group, zygote.release, seconds, unsafe, zygote.prints, "app.py was edited")
        self.clock.post(ready, zygote)

    def lose_zygote(self, zygote: Zygote, why: str) -> None:
        """It ends by itself, and the master hears of it, or the next one sees it."""
        if zygote.alive:
            self.end_zygote(zygote)
            if not self.clock.absent:
                self.clock.post(self.lost(zygote, why), zygote)

    def lost(self, zygote: Zygote, why: str) -> events.LoaderGone | events.LoaderFailed:
        """What the end of it is to the master."""
        kind = events.LoaderGone if zygote.heard else events.LoaderFailed
        return kind(zygote.group, zygote.release, why, chance=self._chance())

    def _drop(self, action: actions.DropLoader) -> None:
        zygote = self.started.get((action.group, action.release))
        if zygote is not None:
            self.end_zygote(zygote)
            zygote.dropped = True

    def end_zygote(self, zygote: Zygote) -> None:
        """It is gone, and what was ordered from it will not come."""
        zygote.alive = False
        if zygote in self.living_zygotes:
            self.living_zygotes.remove(zygote)
        if self.zygotes.get(zygote.key) is zygote:
            del self.zygotes[zygote.key]
        if not self.clock.absent:
            for worker in sorted(zygote.forks):
                self.failed(self.processes[worker], "the zygote is gone", blameless=True)
        zygote.forks.clear()

    def greet(self, zygote: Zygote) -> None:
        """A zygote has found this master: one that it does not know is ended."""
        if not zygote.alive or zygote.wedged:
            return
        if self.zygotes.get(zygote.key) is not zygote:
            self.end_zygote(zygote)
            return
        zygote.connected = True
        if zygote.failed:
            self._import(zygote)
        elif zygote.loaded:
            self._tell_loaded(zygote, 0.0)
        for process in zygote.waiting:
            self.order(process, zygote)
        zygote.waiting.clear()
