"""`bkd reload` and SIGHUP: the configuration on disk comes into force, as far as that is possible while things run."""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from typing import Any, Protocol

from loguru import logger

from ..ipc.errors import BkdError
from ..ipc.message import ConfigChanged, Finished
from ..ipc.units import format_size
from . import dispatcher, events, limits, recycling
from .changes import Change, applicable, changes, imports, in_force, other_interpreter, rolled, table
from .cluster import Cluster
from .config.faults import ConfigError, Faults
from .config.groups import check_listeners
from .config.schema import Config
from .context import Context
from .deploys import Deploys
from .desk import USAGE, Desk, Request
from .facts import ConfigReloaded
from .listeners import Listeners
from .origins import origins
from .port import raw
from .registry import Registry
from .reports import PARTLY, verdict
from .setup import Options, configuration, exit_when_failed
from .waiting import Waiting, failing


class Owner(Desk, Protocol):
    """What a reload needs of the master beside what commands need."""

    options: Options
    context: Context
    registry: Registry
    listeners: Listeners

    def rekey(self) -> None:
        """The file with the keys of the bus may be another now; raises KeyringError."""

    def configure(self, config: Config) -> None:
        """This configuration is in force from now on; raises BkdError when it cannot be, and nothing has changed."""


class Reloads:
    """One after the other; the rolls of one may still be under way when the next begins, and are superseded by its."""

    def __init__(self, master: Owner, deploys: Deploys) -> None:
        self.master, self.deploys = master, deploys
        self.reloading: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self._turn = asyncio.Lock()

    async def reload(self, request: Request) -> Finished:
        """The command. With `tell`, applications hear of it even when nothing has changed."""
        tell = bool(request.arguments.get("tell"))
        try:
            if request.arguments.get("dry_run"):
                return _answer(request, self._changes(self._read()), [], 0, "")
            with contextlib.ExitStack() as lasting:
                lasting.enter_context(self.reloading())
                found, waiting = await self._begin(request.progress if _is_json(request) else request.say)
                if request.arguments.get("no_wait"):
                    self.master.tasks.run(self._rest(found, waiting, lasting.pop_all(), tell=tell))
                    return self._begun(request, found, waiting)
                waiting.progress = request.progress
                await self._over(found, waiting, request, tell=tell)
        except ConfigError as error:
            return Finished(USAGE, err=f"{error}\nbkd: nothing was changed\n")
        return self._verdict(request, found, waiting)

    async def _rest(self, found: list[Change], waiting: Waiting, lasting: contextlib.ExitStack, *, tell: bool) -> None:
        """What nobody waits for."""
        with lasting:
            await self._over(found, waiting, tell=tell)

    def _begun(self, request: Request, found: list[Change], waiting: Waiting) -> Finished:
        left = _left(found)
        rows = [self.deploys.begun(name) for name in waiting.tickets]
        return _answer(request, found, rows, PARTLY if left else 0, "", left)

    async def by_signal(self) -> None:
        """SIGHUP: the same, told to the log."""
        with self.reloading():
            try:
                found, waiting = await self._begin(lambda text: logger.info("reload: {}", text))
            except BkdError as error:
                logger.error("reload: {}; nothing was changed", error)
                return
            await self._over(found, waiting)

    async def _begin(self, progress: Callable[[str], None]) -> tuple[list[Change], Waiting]:
        """Raises ConfigError with every fault and BkdError when it cannot be applied; then nothing has changed."""
        async with self._turn:
            new = self._read()
            found = self._changes(new)
            progress(table(found) or "nothing has changed")
            waiting = await self._apply(found, new)
        return found, waiting

    def _read(self) -> Config:
        """Raises ConfigError with every fault, those too that only a running cluster knows of, and BkdError when there
        is no file."""
        if self.master.options.target:
            raise BkdError("this cluster was started by `bkd run` and has no configuration file")
        config = configuration(self.master.options)
        faults = Faults()
        _check_memory(self.master.turns.cluster, config, faults)
        if faults.found:
            raise ConfigError(os.path.basename(config.path), faults.found)
        return config

    def _changes(self, new: Config) -> list[Change]:
        cluster = self.master.turns.cluster
        releases = {name: group.release for name, group in cluster.groups.items() if group.roll is None}
        made_of = {name: release.written or release.settings for name, release in releases.items()}
        found = changes(in_force(self.master.config, made_of), new, _counts(cluster))
        python, told = new.app.python, rolled(found)
        others = [name for name, r in releases.items() if r.interpreter != python and imports(r.settings)]
        return found + [
            other_interpreter(name, releases[name].interpreter, python)
            for name in others
            if name in new.workers and name not in told
        ]

    async def _apply(self, found: list[Change], new: Config) -> Waiting:
        """Everything that can fail comes first, and the old state stays until then."""
        master, waiting = self.master, Waiting()
        self.deploys.refuse_if_unfit()
        config = applicable(master.config, new)
        self._check(config)
        if not found and config == master.config:
            master.rekey()
            return waiting
        with master.listeners.reserving():
            before = master.context.ping_period
            await self._listen(config)
            known, admitted = set(master.turns.cluster.groups), self._admitted()
            self._tell_policy(_in_the_way(master.turns.cluster, config))
            for name in sorted(rolled(found) & known & set(config.workers)):
                waiting.tickets[name] = self.deploys.ask(name, "bkd reload")
            waiting.changing = set(master.turns.cluster.groups) - (known & set(config.workers))
            if self._admitted() - admitted:
                master.turns.post(events.Replaced(dispatcher.SLOT))
        if master.context.ping_period != before:
            for name in master.turns.cluster.groups:
                master.effects.repace(name)
        applied = [change for change in found if change.takes != "restart"]
        if applied:
            master.tell(ConfigReloaded(changes=len(applied)))
        master.remember()
        return waiting

    def _admitted(self) -> set[tuple[int, bool]]:
        """What the dispatcher has to know of other users; it is told at its start."""
        return {(uid, user.runs) for uid, user in self.master.context.admitted().items()}

    def _tell_policy(self, makes_way: dict[str, tuple[str, ...]]) -> None:
        master, config = self.master, self.master.config
        failed = exit_when_failed(config, master.keeper_pid)
        event = events.Reconfigured(config.workers, config.ping, origins(config), failed, makes_way)
        master.turns.post(event)
        master.turns.now()

    def _check(self, config: Config) -> None:
        leaving = [group.name for group in self.master.turns.cluster.groups.values() if group.leaving]
        again = [name for name in leaving if name in config.workers]
        if again:
            raise BkdError(f"{', '.join(again)} is still being drained since the last reload; try again in a moment")
        missing = limits.too_few(sum(group.count for group in config.workers.values()))
        if missing:
            raise BkdError(missing)
        moved = _moved(self.master.turns.cluster, config)
        if moved:
            raise BkdError(moved)
        faults = Faults()
        check_listeners(list(config.workers.values()), faults)
        if faults.found:
            raise ConfigError(config.path, faults.found)

    async def _listen(self, config: Config) -> None:
        """New addresses are bound before anything else; if one cannot be, or the configuration cannot be in force for
        another reason, none is."""
        listeners, before = self.master.listeners, set(self.master.listeners.found)
        try:
            for made_of in origins(config).values():
                await listeners.all(made_of.settings.bind, config.base)
            self.master.configure(config)
        except BkdError:
            listeners.close(set(listeners.found) - before)
            raise

    async def _over(
        self, found: list[Change], waiting: Waiting, request: Request | None = None, *, tell: bool = False
    ) -> None:
        """When all of it has come to its end, applications hear of it."""
        applied = [change.key for change in found if change.takes != "restart"]
        if not applied and not tell:
            return
        await self._wait(waiting, request)
        self._send(ConfigChanged(applied))

    async def _wait(self, waiting: Waiting, request: Request | None) -> None:
        if request is not None:
            await self.deploys.see_through(request, waiting)
        else:
            await self.deploys.wait(waiting)

    def _send(self, message: ConfigChanged) -> None:
        self.master.exchange.event("all", "", message.op, raw(message), "server")

    def _verdict(self, request: Request, found: list[Change], waiting: Waiting) -> Finished:
        said = verdict(request, waiting, self.master.turns.cluster, self.deploys.traces)
        failed = [name for name in sorted(waiting.changing) if self._why_not(name)]
        err = said.err + "".join(f"bkd: {name}: {self._why_not(name)}\n" for name in failed)
        waits = [group.name for group in self.master.turns.cluster.groups.values() if group.makes_way]
        err += "".join(f"bkd: {name} stays until another group serves where it does\n" for name in waits)
        left = _left(found)
        err += left
        code = said.code if not failed else PARTLY if said.code != 1 else 1
        code = PARTLY if code == 0 and left else code
        return _answer(request, found, json.loads(said.out)["groups"] if _is_json(request) else [], code, said.out, err)

    def _why_not(self, name: str) -> str:
        group = self.master.turns.cluster.groups.get(name)
        return failing(group) if group is not None and not group.leaving else ""


def _left(found: list[Change]) -> str:
    """A line about what is not in force yet, "" when all is."""
    left = [change.key for change in found if change.takes == "restart"]
    return f"bkd: not applied before `bkd stop` and `bkd start`: {', '.join(left)}\n" if left else ""


def _in_the_way(cluster: Cluster, config: Config) -> dict[str, tuple[str, ...]]:
    """Groups that are to go and have addresses that others are to have: they go when those have come."""
    wanted = {name: set(made_of.settings.bind) for name, made_of in origins(config).items()}
    going = [group for name, group in cluster.groups.items() if name not in config.workers and not group.leaving]
    others = {
        group.name: tuple(name for name, bind in wanted.items() if bind.intersection(group.release.settings.bind))
        for group in going
    }
    return {name: takers for name, takers in others.items() if takers}


def _moved(cluster: Cluster, config: Config) -> str:
    """An address that goes from one group to another while both stay would be answered by both for a while."""
    had = {text: group.name for group in cluster.groups.values() for text in group.release.settings.bind}
    for name, made_of in origins(config).items():
        for text in made_of.settings.bind:
            other = had.get(text, name)
            if other != name and other in config.workers:
                return f"{text} is to go from {other} to {name}: take it from {other} first, reload, then give it"
    return ""


def _check_memory(cluster: Cluster, config: Config, faults: Faults) -> None:
    """A `max_memory` that is set anew has room for more than a fresh worker of the release that is there."""
    for name, settings in config.workers.items():
        group, limit = cluster.groups.get(name), settings.max_memory
        if group is None or limit == group.settings.max_memory or not recycling.too_small(limit, group.release):
            continue
        least = format_size(recycling.least(group.release), rough=True)
        expected = f"at least {least}, as a fresh worker has {format_size(group.release.fresh, rough=True)}"
        faults.add(("workers", name, "max_memory"), expected, format_size(limit))


def _counts(cluster: Cluster) -> dict[str, int]:
    return {name: group.count for name, group in cluster.groups.items() if not group.leaving}


def _is_json(request: Request) -> bool:
    return request.command.render == "json"


def _answer(
    request: Request, found: list[Change], groups: list[dict[str, Any]], code: int, out: str, err: str = ""
) -> Finished:
    if _is_json(request):
        rows = [{"key": c.key, "old": c.old, "new": c.new, "takes": c.takes} for c in found]
        return Finished(code, json.dumps({"changes": rows, "groups": groups}) + "\n", err)
    text = out if out or not request.arguments.get("dry_run") else (table(found) or "nothing has changed") + "\n"
    return Finished(code, text, err)
