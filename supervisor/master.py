"""The master: the only place where decisions are made. One asyncio loop, no application code, no children.

Everything runs in the loop's thread; a second one only waits for the disk and for name servers.

It composes the parts: events come from the keeper, the control socket and its own effects; turns decide; effects do.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvloop
from loguru import logger
from setproctitle import setproctitle

from ..ipc.errors import BkdError
from ..ipc.processes import start_time
from . import banner, duties, limits, ownlog
from .adoption import Adoption
from .announcement import Announcement
from .bus.fitness import keyring_of
from .bus.keyring import KeyringError
from .cluster import Cluster
from .commands import Commands
from .config.faults import ConfigError
from .config.schema import Config
from .context import Context
from .deploys import Deploys
from .doors import Doors
from .effects import Effects
from .endings import remarks
from .errands import Errands
from .exchange import Exchange
from .fact import Fact
from .facts import ClusterStarted, ClusterStopped, MasterStarted, RollDone, RolledBack
from .fleet.plane import Plane
from .forensics.autopsy import Autopsy
from .forensics.casebook import Casebook
from .forensics.gathering import Gathering
from .forensics.vitals import Vitals
from .forgotten import Forgotten
from .founding import founded
from .hall import Hall
from .housekeeping import Housekeeping
from .journal import Journal
from .keeperlink import KeeperError, KeeperLink
from .keeperwatch import KeeperWatch
from .lastwords import trace, with_last_words
from .leftoverfacts import WorkersForgotten
from .listeners import Listeners
from .memory import Memory, State, records, restore, slate_of, stamp
from .metrics.metrics import Metrics
from .origins import origins
from .outer import Outer
from .places import NoRunDir
from .probation import Probation
from .registry import Registry
from .reloads import Reloads
from .roles import admit_groups
from .rolls import pace
from .rows import addresses, find, has_siblings
from .rundir import RunDir, admit, claim
from .server import Server
from .setup import Options, configuration, exit_when_failed, run_dir_of
from .tasks import Tasks
from .timers import Timers
from .turns import Turns
from .watching import Watching

BACKLOG = 2048
CONTROL_BACKLOG = 512
SAVE_DELAY = 0.05


class StartError(BkdError):
    """The cluster cannot be started; the text says what to do."""


def main() -> None:
    """Entry point of the process that the keeper spawns."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the keeper's word counts
        signal.signal(number, signal.SIG_IGN)
    options = Options(**json.loads(sys.argv[1]))
    setproctitle("bkd: master")
    try:
        limits.raise_files()
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        with Probation(options.terminal) as probation, runner:
            code = runner.run(Master(options, probation).run())
    except ConfigError as error:
        code = _failed(options, str(error), 2)
    except (NoRunDir, KeyringError) as error:
        code = _failed(options, f"bkd: {error}", 2)
    except BkdError as error:
        code = _failed(options, f"bkd: {error}", 1)
    sys.stdout.flush()
    os._exit(code)


def _failed(options: Options, text: str, code: int) -> int:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the terminal is where it belongs
    if options.daemon:
        os.write(2, b"\0%d\n" % code)
    return code


class Master:
    """One incarnation; another one follows when this one dies."""

    config: Config
    run_dir: str
    housekeeping: Housekeeping
    doors: Doors

    def __init__(self, options: Options, probation: Probation) -> None:
        self.options, self.probation = options, probation
        self.registry = Registry()
        self.keeper = KeeperLink(options.fd)
        self.began = time.monotonic()
        self.keeper_pid = 0
        self.epoch = 1
        self.over: asyncio.Future[int]
        self.announcement = Announcement(self.keeper, wanted=options.daemon)
        self.adopting = self._closing_kept = False
        self.forgotten: Forgotten | None = None
        self.tasks = Tasks()
        self._saving: asyncio.TimerHandle | None = None

    async def run(self) -> int:
        """Start everything, then live until the cluster is over; returns the exit code."""
        loop = asyncio.get_running_loop()
        self.over = loop.create_future()
        loop.set_default_executor(ThreadPoolExecutor(1, "bkd-disk"))
        self.keeper.listen(loop)
        self._found(*await self.keeper.first())
        await self._claim()
        self._begin()
        return await self.over

    # -- the start

    def _found(self, born: dict[str, Any], descriptors: list[int]) -> None:
        """Make the parts, new or as the last master left them; nothing is started yet."""
        self.keeper_pid, self.alone_since = born["keeper"], born.get("alone") or 0.0
        self.children = [(pid, start) for pid, start in born["children"]]
        self.keeper_start = start_time(self.keeper_pid)
        cluster = self._configured(born["locks"], slate_of(born, descriptors))
        self.files = self.options.logs_to_files(self.config)
        log = self.config.log
        self.journal = Journal(Path(self.run_dir), limit=log.rotate, keep=max(1, log.keep))
        self.turns = Turns(cluster, lambda action: self.effects.perform(action), self.tell)
        self.listeners = Listeners(self.keeper, dict(zip(born["listeners"], descriptors, strict=False)))
        self.context = Context(
            config=self.config,
            run_dir=self.run_dir,
            keeper=self.keeper,
            keeper_pid=self.keeper_pid,
            files=self.files,
            post=self.turns.post,
            release=lambda group, number: self.turns.cluster.groups[group].releases[number],
            paced=lambda group, period: pace(self.turns.cluster.groups[group], period),
            is_last=self._is_last,
            listeners=self.listeners.found,
            blank=born["blank"],
            adopting=self.adopting or self.forgotten is not None,
            watch=self.options.watch,
            remember=self.remember,
            note=self._note,
            letterbox=lambda: self.doors.letterboxes(),
            admitted=lambda: duties.admitted(self.turns.cluster, self.context.accounts),
        )
        self.outer = Outer(self, born.get("above", {}))
        self._compose()

    def _configured(self, locks: list[str], slate: int) -> Cluster:
        """What the last master left. The file, which may be half edited by now, is only read where there is none."""
        for lock in locks:
            self.run_dir = os.path.dirname(lock)
            self.memory = Memory(self.run_dir, slate)
            state = self.memory.recall(self.keeper_pid, self.keeper_start)
            if state is not None:
                return self._remembered(state)
        self.config = configuration(self.options)
        self.run_dir = run_dir_of(self.options, self.config)
        self.memory = Memory(self.run_dir, slate)
        if locks:
            self._begin_anew()
        return self._fresh()

    def _begin_anew(self) -> None:
        """The state is lost, not the cluster. What it obeys is a later epoch than any that there can have been."""
        self.forgotten = Forgotten(self.children)
        self.epoch, self.announcement.made = int(10 * time.monotonic()), True

    def _fresh(self) -> Cluster:
        config, failed = self.config, exit_when_failed(self.config, self.keeper_pid)
        return founded(config.workers, config.ping, origins=origins(config), exit_when_failed=failed)

    def _remembered(self, state: State) -> Cluster:
        self.config, self.epoch, self.began = state.config, state.epoch + 1, state.began
        self.adopting, self.announcement.made, self.alone_since = True, state.announced, self.alone_since or state.saved
        restore(self.registry, state)
        return state.cluster

    def _compose(self) -> None:
        self.effects = Effects(self.context, self.registry)
        self.effects.seat()
        self.effects.leaving = self._leave
        gathering = Gathering(Vitals())
        casebook = Casebook(Path(self.run_dir, "why"))
        self.effects.autopsy = autopsy = Autopsy(
            casebook, gathering, self.registry, lambda: self.turns.cluster, self.tell, self.config.app.name
        )
        self.effects.loaders.examine = autopsy.examine_import
        self.exchange = Exchange(self.config.app.name, self.registry, lambda: self.turns.cluster)
        self.deploys = Deploys(self, self.listeners)
        self.reloads = Reloads(self, self.deploys)
        self.reloads.reloading = self.outer.reloading
        self.commands = Commands(self, self.deploys, self.reloads)
        stats = self.commands.postmaster.stats
        self.metrics = Metrics(
            self.config, self.run_dir, self.commands.snapshot, stats, epoch=self.epoch, lost=lambda: self.journal.lost
        )
        self.commands.metrics = self.metrics
        self.errands = Errands(self, self.exchange, self.commands)
        self.plane = Plane(self, self.commands, self.exchange, self.run_dir, adopting=self.adopting)
        self.watching = Watching(self, self.deploys, self.reloads) if self.options.watch else None
        self.effects.loaders.watching = self.watching
        self.hall = Hall(
            self.registry,
            self.effects.loaders,
            self.commands,
            self.turns.post,
            self.keeper_pid,
            self.effects.welcome,
            self.exchange,
            self.effects.autopsy,
        )
        self.hall.forgotten = self.forgotten
        self.turns.changed, self.memory.tell = self._changed, self.tell
        self.keeper_watch = KeeperWatch(self, self.keeper, self.options, self.reloads)
        self.keeper_watch.is_over = lambda: self.over.done()
        self.keeper_watch.alone = lambda: self.housekeeping.look_for_the_dead()
        setproctitle(f"bkd: {self.config.app.name} master")

    async def _claim(self) -> None:
        """The run directory and every address are ours before anything is started."""
        missing = limits.too_few(sum(group.count for group in self.config.workers.values()))
        if missing:
            raise StartError(missing)
        self.ended = await claim(self)
        self.server = Server(self.config.control, self.journal, self.hall, self.epoch)
        control = await self.listeners.control(self.context.socket)
        admit(self)
        await self.server.listen(socket.socket(fileno=os.dup(control)))
        self.doors = Doors(self.listeners, self.server, self.run_dir, self.config, self.context.admitted)
        await self.doors.again()
        self.context.door = self.doors.path
        for release in (release for group in self.turns.cluster.groups.values() for release in group.releases.values()):
            for text in release.settings.bind:
                await self.listeners.web(text, self.config.base)

    def _begin(self) -> None:
        ownlog.begin(self.options, self.config, self.run_dir)
        if not self.adopting:
            self.tell(ClusterStarted(app=self.config.app.name, config=self.config.path))
        self.tell(MasterStarted(epoch=self.epoch, pid=os.getpid(), adopted=len(self.registry.workers)))
        if self.ended is not None:
            self.tell(self.ended)
        shows = not self.options.daemon and not self.context.adopting
        if shows:
            banner.show(self.config, self.run_dir, self.keeper_pid, self.files)
        self.housekeeping = Housekeeping(self.context, self.registry, self.effects, self.tell, shows=shows)
        if self.adopting:
            adoption = Adoption(self.turns, self.context, self.registry, self.effects, self.children)
            adoption.begin(self.alone_since)
            self.tasks.run(adoption.run())
        elif self.forgotten is not None:
            self.tell(WorkersForgotten(len(self.forgotten.workers)))
            self.tasks.run(self.forgotten.relieve(self.turns))
        self.turns.begin()
        self.keeper_watch.begin()
        self.context.dismiss_blank()
        self.remember()
        self.housekeeping.begin()
        self.tasks.run(Timers(self, self.deploys).run())
        self.tasks.run(RunDir(self).run())
        self.plane.begin()
        self.metrics.begin()
        if self.watching is not None:
            self.watching.begin()
        self.keeper.tell("up")
        self.outer.begin()
        self.probation.passed()
        self.commands.begin()

    # -- turns

    def tell(self, fact: Fact) -> None:
        """Into the journal and onto the terminal."""
        fact = with_last_words(fact, self.registry)
        self.journal.write(fact)
        logger.log({"info": "INFO", "warning": "WARNING", "error": "ERROR"}[fact.level()], "{}", fact.describe())
        self.commands.told(fact)
        self.effects.autopsy.told(fact)
        self.metrics.told(fact)
        self.plane.told(fact)
        if isinstance(fact, RollDone | RolledBack):
            self.effects.repace(fact.group)
        below = trace(fact, self.turns.cluster)
        if below:
            logger.error("{}", below.rstrip())

    def _changed(self) -> None:
        """Called after every turn."""
        self.effects.give_orders()
        if self.turns.cluster.closing is not None and not self._closing_kept:
            self._closing_kept = True
            self.remember()
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_DELAY, self.remember)
        self.listeners.keep(addresses(self.turns.cluster))
        self.outer.changed()
        if self.announcement.due:
            self.announcement.conclude(self)

    def remember(self) -> None:
        """Write down, on the disk as well, what a next master has to know; called soon after every turn, and before a
        promise."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        self.memory.keep(self._state())

    def _note(self) -> None:
        """The same, where it survives everything but the keeper's end."""
        self.memory.note(self._state())

    def _state(self) -> State:
        first = (*stamp(self.keeper_pid, self.keeper_start), self.epoch, self.began, time.monotonic())
        rest = (self.announcement.made, self.config, self.turns.cluster, *records(self.registry))
        return State(*first, *rest)

    def configure(self, config: Config) -> None:
        """This configuration is in force from now on; raises BkdError when it cannot be, and nothing has changed."""
        admit_groups(self.run_dir, self.context.socket, config.control)
        before = self.context.tempo
        self.config = self.context.config = config
        self.context.repaced = self.context.repaced or self.context.tempo != before
        self.server.control = config.control
        self.journal.bound(limit=config.log.rotate, keep=max(1, config.log.keep))
        self.metrics.configure(config)
        self.rekey()

    def rekey(self) -> None:
        """The file with the keys of the bus may be another now; raises KeyringError, but not for one just checked."""
        self.plane.configure(keyring_of(self.config.bus))

    def _is_last(self, worker: int) -> bool:
        """Whether nobody else that listens where it does will take what is queued."""
        place = find(self.turns.cluster, worker)
        return place is None or self.turns.cluster.closing is not None or not has_siblings(place)

    # -- the end

    def _leave(self, code: int) -> None:
        closing = self.turns.cluster.closing
        self.tell(ClusterStopped(code=code, why="; ".join(remarks(closing)) if closing is not None else ""))
        self.commands.over(code)
        self.tasks.run(self._last(code))

    async def _last(self, code: int) -> None:
        await self.effects.autopsy.finished()
        self.metrics.end()
        await self.plane.end()
        asyncio.get_running_loop().call_later(0.02, self._left, code)

    def _left(self, code: int) -> None:
        """The last step: whatever goes wrong on the way, the master ends."""
        try:
            if self.announcement.due:
                text = f"{self.context.last_trace}bkd: stopped before everything was ready\n"
                self.announcement.make(text, 1, self.run_dir)
            if self._saving is not None:
                self._saving.cancel()
            self.memory.forget()
            self.keeper.tell("exit", code=code)
        except KeeperError:
            self.listeners.unlink()
        finally:
            self.over.set_result(code)
