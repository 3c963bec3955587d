"""`bkd upgrade`, the master's part: has the next bkd rehearse, hands over to it, and tells how that ended.

The way is that of a crash: the state is written, this master ends at once, and the keeper starts another one. Whoever
waits asks that one.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import asdict

from .. import __version__
from ..ipc.errors import BkdError
from ..ipc.message import Finished
from ..ipc.message_names import VERSION
from .deploys import Deploys
from .desk import Desk, Request, UsageError
from .fact import Fact, clean_lines
from .facts import KeeperKept, KeeperReplaced, MasterUpgraded, UpgradeFailed
from .keeperlink import KeeperError
from .keepsake import Keepsake
from .registry import Process
from .reports import PARTLY
from .statefile import StateFile
from .tree import Handle

REHEARSAL = "from bkd.supervisor.rehearsal import main; main()"
LIMIT, LONGEST = 10.0, 600.0
KEEP_AFTER = 2.0  # seconds after which the start is over, and a copy of bkd disturbs nobody
HELLO_LIMIT = 2.5
LOOK, SIGN_OF_LIFE = 0.02, 5.0
LEAVE = 0.02  # what has been sent to clients is on its way by then
NEVER = 10.0
WORDS = 30

Audit = Callable[[Request, dict[str, Any], str], None]


class Rehearsed(NamedTuple):
    """What the other bkd said of itself; `reason`: why it cannot take over, `words`: what else it printed."""

    version: str
    reason: str
    words: str


class Upgrades:
    """At most one is under way: `begin` tells how the last one ended, `upgrade` and `resume` are commands."""

    def __init__(self, master: Desk, deploys: Deploys, audit: Audit) -> None:
        self.master, self.deploys, self._audit = master, deploys, audit
        self._busy = False
        self._told: asyncio.Event = asyncio.Event()
        self._fact: Fact | None = None

    @cached_property
    def _keepsake(self) -> Keepsake:
        return Keepsake(self.master.context.run_dir)

    def begin(self) -> None:
        """This master is up."""
        self.master.tasks.run(self._tell())
        self.master.tasks.run(self._keep())

    async def _keep(self) -> None:
        await asyncio.sleep(KEEP_AFTER)
        await asyncio.to_thread(self._keepsake.keep)

    # -- the old master

    async def upgrade(self, request: Request) -> Finished:
        """Hand over to the bkd that an interpreter has now; returns only if that fails, or if nobody waits."""
        limit = _limit(request.arguments.get("timeout"))
        self._refuse()
        if self._busy:
            raise BkdError("another upgrade is under way; wait for its end")
        self._busy = True
        try:
            return await self._hand_over(request, limit)
        finally:
            self._busy = False

    def _refuse(self) -> None:
        """Raises BkdError when this is no moment for it."""
        self.deploys.refuse_if_unfit()
        for group in self.master.turns.cluster.groups.values():
            if group.roll is not None or group.queued is not None:
                name, stage = group.name, f" ({group.roll.stage})" if group.roll is not None else ""
                raise BkdError(f"{name}: a roll is under way{stage}; wait for its end, or `bkd rollback {name}`")

    async def _hand_over(self, request: Request, limit: float) -> Finished:
        known = await self._known()
        python = str(request.arguments.get("python") or known["python"])
        found = await self._rehearse(request, python, known, limit)
        if found.reason:
            fact = UpgradeFailed(old=__version__, new=found.version, reason=found.reason)
            self.master.tell(fact)
            return _finished(request, 1, fact, err=f"bkd: nothing was changed: {found.reason}\n{found.words}")
        back = await asyncio.to_thread(self._keepsake.way_back)
        self._refuse()
        number = await self._order(request, python, found.version, back, limit)
        if request.arguments.get("no_wait"):
            self._leave_soon()
            begun = {"state": "started", "old": __version__, "new": found.version}
            line = f"bkd {found.version} takes over; see bkd status and bkd events"
            return Finished(out=f"{json.dumps(begun) if request.command.render == 'json' else line}\n")
        request.promise({"upgrade": number})
        self._audit(request, request.arguments, f"bkd {found.version} takes over")
        self._leave_soon()
        await asyncio.sleep(NEVER)
        raise BkdError("this master could not leave; see its log")

    async def _order(self, request: Request, python: str, target: str, back: str, limit: float) -> int:
        """From the answer on, the keeper starts the other bkd whenever this master ends; the number of the upgrade."""
        said = self._file("words")
        said.unlink(missing_ok=True)
        details = {"version": __version__, "target": target, "said": str(said), "back": back, "limit": limit}
        keeper = bool(request.arguments.get("keeper"))
        answer, _ = await self.master.context.keeper.order("upgrade", python=python, keeper=keeper, **details)
        return int(answer["number"])

    def _leave_soon(self) -> None:
        asyncio.get_running_loop().call_later(LEAVE, self._leave)

    def _leave(self) -> None:
        """As abruptly as a crash, on purpose: there is one way for the next master to take over."""
        self.master.remember()
        sys.stdout.flush()
        os._exit(0)

    # -- the rehearsal

    async def _rehearse(self, request: Request, python: str, known: dict[str, Any], limit: float) -> Rehearsed:
        copy, said = StateFile(str(self._file("state"))), self._file("rehearsal")
        said.unlink(missing_ok=True)
        self.master.remember()
        copy.replace(self.master.memory.read() or b"")
        if copy.fault:
            raise BkdError(f"{copy.path} cannot be written, so nothing is begun: {copy.fault}; make room there first")
        asked = {"state": str(copy.path), "protocol": VERSION, "link": known["link"]}
        argv = [python, "-P", "-c", REHEARSAL, json.dumps(asked)]
        try:
            ended = await self._run(request, argv, known["given"], said, limit)
        except KeeperError as error:
            raise BkdError(f"nothing was changed: {error}; name an interpreter that has bkd") from error
        finally:
            copy.forget()
        found = report(said, python, limit if not ended else None)
        said.unlink(missing_ok=True)
        if not found.reason:
            request.progress(f"{python} has bkd {found.version}, which can go on from here")
        return found

    async def _run(self, request: Request, argv: list[str], python_path: str | None, said: Path, limit: float) -> bool:
        """Let the keeper run it; False when it had to be killed after `limit` seconds."""
        env = {"PYTHONPATH": python_path}
        answer, _ = await self.master.context.keeper.order("spawn", argv=argv, env=env, out=str(said))
        handle = Handle.open(answer["pid"], answer["start"])
        began = signs = time.monotonic()
        while handle is not None and handle.alive():
            await asyncio.sleep(LOOK)
            now = time.monotonic()
            if now - began > limit:
                handle.signal(9)
                handle.close()
                return False
            if now - signs > SIGN_OF_LIFE:
                signs = now
                request.sign_of_life()
        if handle is not None:
            handle.close()
        return True

    def _file(self, name: str) -> Path:
        folder = Path(self.master.context.run_dir, "upgrade")
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / name

    # -- the new master, or the old one again

    async def _known(self, *, told: bool = False) -> dict[str, Any]:
        """What the keeper knows of the code in use, and of the last upgrade."""
        answer, _ = await self.master.context.keeper.order("upgraded", told=told)
        return answer

    async def _tell(self) -> None:
        """How the last upgrade ended, once for all masters."""
        try:
            trial = (await self._known())["upgrade"]
            if trial is not None:
                self._fact = _fact(trial, self.master.epoch, await self._adopted())
        finally:
            self._told.set()
        if trial is None or self._fact is None or trial["told"]:
            return
        self.master.tell(self._fact)
        await self._known(told=True)
        if trial["keeper"]:
            why = await self._why_not_the_keeper(lambda: None)
            self.master.tell(KeeperKept(why=why) if why else KeeperReplaced(pid=self.master.keeper_pid))

    async def _adopted(self) -> int:
        """How many workers are alive, as soon as each of them has found this master."""
        deadline, workers = time.monotonic() + HELLO_LIMIT, self.master.effects.registry.workers
        while time.monotonic() < deadline and not all(_is_back(process) for process in workers.values()):
            await asyncio.sleep(LOOK)
        return sum(process.handle is not None and process.handle.alive() for process in workers.values())

    async def resume(self, request: Request) -> Finished:
        """Whoever asked the last master for an upgrade hears how it ended."""
        number = request.arguments["upgrade"]
        request.promise({"upgrade": number})
        await asyncio.wait_for(self._told.wait(), NEVER)
        trial = (await self._known())["upgrade"]
        if self._fact is None or trial is None or trial["number"] != number:
            raise BkdError("nothing is known of that upgrade; see bkd events")
        if trial["failed"]:
            serves = f"bkd {__version__} serves on (master {self.master.epoch}, pid {os.getpid()})"
            err = f"bkd: {self._fact.describe()}; {serves}\n{_tail(trial)}"
            return _finished(request, 1, self._fact, err=err)
        line = self._fact.describe()
        why = await self._why_not_the_keeper(request.sign_of_life)
        if why:
            err = f"bkd: {KeeperKept(why=why).describe()}\n{_tail(trial)}"
            return _finished(request, PARTLY, self._fact, out=f"{line}\n", err=err, keeper=why)
        keeper = "replaced" if trial["keeper"] else None
        return _finished(
            request, 0, self._fact, out=f"{line}, keeper replaced\n" if keeper else f"{line}\n", keeper=keeper
        )

    async def _why_not_the_keeper(self, alive: Callable[[], None]) -> str:
        """Why the keeper was not replaced; "" when it was, or was not to be."""
        signs = time.monotonic()
        while True:
            trial, now = (await self._known())["upgrade"], time.monotonic()
            if trial is None or trial["keeper"] in ("", "done"):
                return ""
            if trial["keeper"] != "wanted":
                return str(trial["keeper"])
            if now > trial["since"] + trial["limit"] + NEVER:
                return "it does not say what has become of that"
            if now - signs > SIGN_OF_LIFE:
                signs = now
                alive()
            await asyncio.sleep(LOOK)


def _fact(trial: dict[str, Any], epoch: int, adopted: int) -> Fact:
    if trial["failed"]:
        return UpgradeFailed(old=trial["version"], new=trial["target"], reason=trial["failed"])
    took = round(time.monotonic() - trial["began"], 3)
    who = {"epoch": epoch, "pid": os.getpid(), "adopted": adopted}
    return MasterUpgraded(old=trial["version"], new=__version__, seconds=took, **who)


def _finished(
    request: Request, code: int, fact: Fact, *, out: str = "", err: str = "", keeper: str | None = None
) -> Finished:
    """In the form that was asked for; errors are lines in either."""
    if request.command.render == "json":
        state = "failed" if code == 1 else "done"
        out = json.dumps({"state": state, **asdict(fact), "keeper": keeper}) + "\n"
    return Finished(code, out, err)


def report(said: Path, python: str, killed_after: float | None) -> Rehearsed:
    """What a rehearsal has said; pure but for reading the file."""
    lines = _lines(said)
    if killed_after is not None:
        return Rehearsed("?", f"{python} did not say within {killed_after:g} s whether it can take over", _text(lines))
    try:
        last = json.loads(lines[-1])
        version, reason = str(last["version"]), "" if last["ok"] else str(last["reason"])
    except (IndexError, KeyError, TypeError, ValueError):
        return Rehearsed("?", f"{python} has no bkd that can take over", _text(lines))
    return Rehearsed(version, reason, _text(lines[:-1]))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _text(lines: list[str]) -> str:
    return clean_lines("\n".join(lines[-WORDS:]))


def _tail(trial: dict[str, Any]) -> str:
    """The last that the new ones have said."""
    return _text(_lines(Path(trial["said"])))


def _is_back(process: Process) -> bool:
    """Whether nothing is to be waited for: programs have no connection, and the dead will not come."""
    if process.settings.kind == "command" or process.connection is not None:
        return True
    return process.handle is None or not process.handle.alive()


def _limit(text: object) -> float:
    if text is None:
        return LIMIT
    if not isinstance(text, int | float) or not 0.0 < text <= LONGEST:
        raise UsageError(f"--timeout {text}: expected a time up to {LONGEST:g} s")
    return float(text)
