"""Watch mode: source files that change on the disk roll the groups that are made of them, and no others.

What a group is made of its processes tell: zygotes when they have loaded, workers when they import more. The kernel
says which files change; all that is known is looked at now and then besides, since not every file system tells.
"""

import asyncio
import os
import stat
import time
from collections import deque
from collections.abc import Iterable, Set
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from ..ipc.errors import BkdError
from . import dispatcher
from .cluster import Group, Loader
from .deploys import Deploys
from .reloads import Owner, Reloads
from .rows import find

QUIET = 25  # milliseconds without another change after which an edit counts as complete
LONGEST_EDIT = 100  # milliseconds after which it counts as complete in any case
LOOK = 1000  # milliseconds between two looks at everything known
POLL = 200  # milliseconds between two looks where the kernel does not help
PAUSE = 0.1
GRAIN = 0.01  # seconds by which the time of a change may lie before the change
HEARD = 1.0  # seconds beyond a heartbeat after which an import has been told
MOST_FOLDERS = 10_000
NO_SOURCES = {"node_modules", "site-packages", "dist-packages", "__pycache__"}
DATA = {".db", ".log", ".pid", ".sock", ".sqlite", ".sqlite3"}  # what programs write themselves

Stamp = tuple[int, int, int]


# -- which groups it concerns: pure


@dataclass(frozen=True)
class Code:
    """What a group is made of: the real paths of its files. `sick`: it does not run as it is, or nobody knows what it
    is made of, so every source below `cwd` may be what it needs."""

    name: str
    cwd: str
    files: Set[str]
    sick: bool = False


def concerned(changed: Set[str], codes: Iterable[Code]) -> dict[str, list[str]]:
    """The groups that changed files concern, each with its files."""
    touched = {code.name: sorted(changed & code.files | _sources_below(changed, code)) for code in codes}
    return {name: files for name, files in touched.items() if files}


def _sources_below(changed: Set[str], code: Code) -> set[str]:
    below = os.path.join(code.cwd, "")
    return {file for file in changed if code.sick and file.startswith(below) and file.endswith(".py")}


def why(files: list[str], cwd: str) -> str:
    """What is said of a roll that these files are the reason for."""
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    below = files[0].startswith(os.path.join(cwd, ""))
    return f"{os.path.relpath(files[0], cwd) if below else files[0]}{more} changed"


def is_sick(group: Group, files: Set[str]) -> bool:
    """Whether its newest code has been found bad and nothing better is on its way, or is not known to be `files`: what
    workers that import the application themselves have told a master before, they do not tell the next one."""
    if group.roll is not None:
        return bool(group.roll.fault)
    if group.release.loader == Loader.LOADING:
        return False
    failed = group.outcome is not None and not group.outcome.done
    return failed or group.release.loader == Loader.FAILED or not group.proven or not files


class Imports:
    """Which files each group is made of, by the releases that imported them."""

    def __init__(self) -> None:
        self._files: dict[str, dict[int, set[str]]] = {}

    def add(self, group: str, release: int, files: Iterable[str]) -> set[str]:
        """These are known from now on; gives those that were not."""
        new = set(files) - self.of(group)
        self._files.setdefault(group, {}).setdefault(release, set()).update(files)
        return new

    def of(self, group: str) -> set[str]:
        """The files of one group."""
        return set[str]().union(*self._files.get(group, {}).values())

    def forget(self, groups: dict[str, Group]) -> None:
        """What only groups and releases imported that are over. A roll may still go back to the release before."""
        self._files = {name: found for name, found in self._files.items() if name in groups}
        for name, found in self._files.items():
            group = groups[name]
            oldest = min(group.current, group.roll.old) if group.roll else group.current
            newer = {release: files for release, files in found.items() if release >= oldest}
            self._files[name] = newer or found


# -- what is on the disk


@dataclass(frozen=True)
class Survey:
    """The folders below some roots in which sources may lie, and the sources there."""

    roots: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()


def survey(roots: frozenset[str], excluded: str) -> Survey:
    """Look at the disk, the nearest folders first; runs in a thread of its own."""
    waiting, folders, sources = deque(sorted(roots)), set[str](), set[str]()
    while waiting and len(folders) < MOST_FOLDERS:
        folder = waiting.popleft()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            logger.debug("{} is not watched: {}", folder, error.strerror)
            continue
        folders.add(folder)
        sources |= {entry.path for entry in entries if entry.name.endswith(".py")}
        inside = [e.path for e in entries if e.is_dir(follow_symlinks=False) and is_place(e.path)]
        waiting.extend(path for path in inside if path != excluded and path not in roots)
    return Survey(roots, frozenset(folders), frozenset(sources))


def is_place(folder: str) -> bool:
    """Whether somebody's sources may lie in this folder: nothing hidden, nothing installed."""
    name = os.path.basename(folder)
    return not (name.startswith(".") or name in NO_SOURCES or os.path.exists(os.path.join(folder, "pyvenv.cfg")))


def stamp(path: str) -> Stamp | None:
    """What is different after every change, None while there is no such file."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


def is_younger(path: str, moment: float) -> bool:
    """Whether the file was changed after this monotonic moment. Nobody can set the time that is asked for here."""
    try:
        return os.stat(path).st_ctime > time.time() - time.monotonic() + moment - GRAIN
    except OSError:
        return False


def program_files(command: list[str], cwd: str) -> set[str]:
    """The files that a command line may name: what is no file yet may become one."""
    found = {os.path.realpath(os.path.join(cwd, argument)) for argument in command if argument}
    return {path for path in found if Path(path).suffix not in DATA and _may_be_file(path)}


def _may_be_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return os.path.isdir(os.path.dirname(path))


# -- the task


class Watching:
    """One per master. Hears what is imported and what changes; asks for rolls and for reloads."""

    def __init__(self, master: Owner, deploys: Deploys, reloads: Reloads) -> None:
        self.master, self.deploys, self.reloads = master, deploys, reloads
        folder, name = os.path.split(master.config.path)
        self._config = os.path.join(os.path.realpath(folder), name)
        self._run_dir = os.path.realpath(master.context.run_dir)
        self._imports = Imports()
        self._stamps: dict[str, Stamp | None] = {}
        self._survey = Survey()
        self._polls = False

    def begin(self) -> None:
        """Listen from now on."""
        self._know()
        self.master.tasks.run(self._run())

    def imported(self, group: str, release: int, files: list[str], worker: int = 0, *, failed: bool = False) -> None:
        """A zygote, or this worker, has imported files. One that nobody knew may have changed since it was read; when
        loading has failed, that may be the one that was missing."""
        new = self._imports.add(group, release, files)
        self._stamps |= {file: stamp(file) for file in new - self._stamps.keys()}
        found = self.master.turns.cluster.groups.get(group)
        if found is None:
            return
        read = self._read_at(found, release, worker)
        if failed:
            code = Code(group, found.release.settings.cwd, frozenset(), sick=True)
            new |= _sources_below(self._survey.sources, code)
        late = sorted(file for file in new if is_younger(file, read))
        if late:
            self.master.tasks.run(self._roll({group: late}))

    def _read_at(self, group: Group, release: int, worker: int) -> float:
        """The earliest moment at which what was imported just now was read."""
        if not worker:
            return group.releases[release].since if release in group.releases else time.monotonic()
        place = find(self.master.turns.cluster, worker)
        if place is None:
            return time.monotonic()
        told = time.monotonic() - self.master.context.ping_period - HEARD
        return max(place.worker.ordered, told) if place.worker.ready_at else place.worker.ordered

    async def _run(self) -> None:
        """Listens anew whenever there are other folders to listen to."""
        logger.info("watching: what is saved goes live")
        while self.master.turns.cluster.closing is None:
            try:
                await self._listen()
            except FileNotFoundError as error:
                logger.debug("a folder is gone that was there a moment ago: {}", error)
            except (OSError, RuntimeError) as error:
                if self._polls:
                    raise
                self._polls = True
                reason = str(error).partition(" (")[0]
                logger.warning("watching by polling: {}; raise the limits fs.inotify.max_user_*", reason)
            await asyncio.sleep(PAUSE)

    async def _listen(self) -> None:
        """Until there are other folders to listen to. What has happened before it began is found by a second look."""
        from watchfiles import Change, DefaultFilter, awatch

        changed = await self._look_around()
        folders, listening = self._folders(), False
        batches = awatch(
            *folders,
            watch_filter=DefaultFilter(ignore_dirs=()),
            debounce=LONGEST_EDIT,
            step=QUIET,
            rust_timeout=LOOK,
            yield_on_timeout=True,
            force_polling=self._polls or None,
            poll_delay_ms=POLL,
            recursive=False,
        )
        async with aclosing(batches):
            async for batch in batches:
                paths = {path for _change, path in batch}
                moved = any(change != Change.modified and _is_folder(path, folders) for change, path in batch)
                self._know()
                changed |= self._changed(paths if paths and not moved else paths | self._stamps.keys())
                if moved or not listening:
                    changed |= await self._look_around()
                self._tell(changed)
                changed, listening = set(), True
                if moved or folders != self._folders() or self._roots() != self._survey.roots:
                    return

    async def _look_around(self) -> set[str]:
        """Survey the disk again; gives the sources that have come or gone."""
        before, roots = self._survey, self._roots()
        self._survey = await asyncio.to_thread(survey, roots, self._run_dir)
        if len(self._survey.folders) >= MOST_FOLDERS > len(before.folders):
            logger.warning("there are more than {} folders; only the nearest are watched for new files", MOST_FOLDERS)
        return set(before.sources ^ self._survey.sources) if before.roots == roots else set()

    def _changed(self, paths: Iterable[str]) -> set[str]:
        """Those of the paths that are not as they were."""
        found = set()
        for path in paths:
            now = stamp(path)
            if path not in self._stamps or self._stamps[path] != now:
                found.add(path)
            if path in self._stamps:
                self._stamps[path] = now
        return found

    def _tell(self, changed: set[str]) -> None:
        if self._config in changed:
            self.master.tasks.run(self.reloads.by_signal())
        touched = concerned(changed, self._codes())
        if touched:
            self.master.tasks.run(self._roll(touched))

    async def _roll(self, touched: dict[str, list[str]]) -> None:
        """Nobody waits for `min_ready`, nor for old workers to end: the new code serves at once."""
        for name, files in touched.items():
            group = self._groups().get(name)
            if group is None:
                continue
            try:
                await self.deploys.begin([name], why(files, group.release.settings.cwd), quick=True)
            except BkdError as error:
                logger.error("{}: {}; the change is not live", name, error)

    # -- what is known

    def _groups(self) -> dict[str, Group]:
        groups = self.master.turns.cluster.groups
        return {name: row for name, row in groups.items() if not row.leaving and name != dispatcher.NAME}

    def _codes(self) -> list[Code]:
        return [self._code(group) for group in self._groups().values()]

    def _code(self, group: Group) -> Code:
        settings = group.release.settings
        if settings.kind == "command":
            return Code(group.name, settings.cwd, program_files(settings.command, settings.cwd))
        files = self._imports.of(group.name)
        return Code(group.name, settings.cwd, files, is_sick(group, files))

    def _know(self) -> None:
        """Have a stamp of every file that concerns anybody, and of no other."""
        self._imports.forget(self._groups())
        known = {self._config}.union(*(code.files for code in self._codes()))
        self._stamps = {path: self._stamps[path] if path in self._stamps else stamp(path) for path in known}

    def _roots(self) -> frozenset[str]:
        return frozenset(os.path.realpath(group.release.settings.cwd) for group in self._groups().values())

    def _folders(self) -> set[str]:
        """Each by its one real name: the kernel tells the changes of a folder under one name only."""
        outside = {os.path.dirname(path) for path in self._stamps} - self._survey.folders
        readable = {folder for folder in outside if os.path.isdir(folder) and os.access(folder, os.R_OK)}
        return {*self._survey.folders, *readable}


def _is_folder(path: str, folders: Set[str]) -> bool:
    """Whether it is, or was, a folder in which sources may lie."""
    return path in folders or (os.path.isdir(path) and is_place(path))
