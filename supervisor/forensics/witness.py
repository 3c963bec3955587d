"""The commands that explain: `why`, how processes ended, and `dump`, what a live one is doing."""

import asyncio
import json
import re
import time
from typing import Any

from ...ipc.errors import BkdError
from ...ipc.message import Finished
from ..cluster import Slot
from ..desk import Desk, Request, UsageError
from ..registry import LoaderProcess, Process
from ..status import shown
from . import why
from .autopsy import Autopsy
from .culprit import Home
from .evidence import Evidence, Report
from .gathering import with_files
from .postmortem import home_of

WIDEST = 400
DISK = 2.0  # seconds that lines of source and log are waited for
MOST_DUMPS = 64  # workers of a group that are asked at once
ZYGOTE = re.compile(r"(.+)\.zygote")


class Witness:
    """One per master."""

    def __init__(self, master: Desk) -> None:
        self.master = master

    @property
    def autopsy(self) -> Autopsy:
        """Who writes the reports."""
        return self.master.effects.autopsy

    async def why(self, request: Request) -> Finished:
        """How the last processes of this name ended, the newest first."""
        name = request.name()
        reports = await asyncio.to_thread(self.autopsy.casebook.read, name) if why.is_name(name) else []
        if not reports and not self._is_known(name):
            raise UsageError(f"no group or slot {name[:40]}; groups are {', '.join(self.master.turns.cluster.groups)}")
        return Finished(out=answer(reports, request.arguments, request.command.render))

    async def dump(self, request: Request) -> Finished:
        """What live processes are doing. One that does not answer is sent a signal."""
        name = request.name()
        found = self._processes(name)
        processes = found[:MOST_DUMPS]
        more = f"bkd: {len(found) - MOST_DUMPS} more of {name} were not looked at; name a slot\n"
        more = more if len(found) > MOST_DUMPS else ""
        homes = [self._home(process) for process in processes]
        taken = await asyncio.gather(*(self._look(one, home) for one, home in zip(processes, homes, strict=True)))
        rows = list(zip(processes, homes, taken, strict=True))
        if request.command.render == "json":
            documents = [_document(process, evidence) for process, _home, evidence in rows]
            whole = {"name": name, "workers": documents} if name in self.master.turns.cluster.groups else documents[0]
            return Finished(out=json.dumps(whole) + "\n", err=more)
        width, colours = _width(request.arguments), bool(request.arguments.get("colours"))
        texts = [
            why.dump_text(
                evidence, _name(process), process.pid, home, width=width, colours=colours, kind=_kind(process)
            )
            for process, home, evidence in rows
        ]
        return Finished(out="\n".join(texts), err=more)

    async def _look(self, process: Process | LoaderProcess, home: Home) -> Evidence:
        if isinstance(process, Process):
            evidence = await self.autopsy.evidence(process, home)
        else:
            evidence = await self.autopsy.gathering.take(process, home=home)
        return await self.autopsy.files.within(DISK, lambda: with_files(evidence, process), evidence)

    def add_history(self, status: dict[str, Any]) -> None:
        """The last minute of each worker, into the document of the status."""
        workers = {slot.name: shown(slot) for _, slot in self.master.turns.cluster.slots()}
        for row in (row for group in status["groups"] for row in group["workers"]):
            worker = workers.get(row["name"])
            row["history"] = self.autopsy.gathering.vitals.document(worker.id if worker is not None else 0)

    # -- names

    def _is_known(self, name: str) -> bool:
        cluster = self.master.turns.cluster
        match = ZYGOTE.fullmatch(name)
        group = match[1] if match else name
        return group in cluster.groups or any(slot.name == name for _, slot in cluster.slots())

    def _processes(self, name: str) -> list[Process | LoaderProcess]:
        """The process that serves in each slot of this name; raises UsageError, BkdError."""
        if not self._is_known(name):
            raise UsageError(f"no group or slot {name[:40]}; groups are {', '.join(self.master.turns.cluster.groups)}")
        registry = self.master.effects.registry
        match = ZYGOTE.fullmatch(name)
        if match:
            loaders = [loader for loader in registry.loaders.values() if loader.group == match[1] and loader.pid]
            if not loaders:
                raise BkdError(f"{name} has no process now; see `bkd status`")
            return [max(loaders, key=lambda loader: loader.release)]
        slots = [slot for group, slot in self.master.turns.cluster.slots() if name in (group.name, slot.name)]
        found = [process for slot in slots for process in self._process(slot)]
        if not found:
            raise BkdError(f"{name} has no process now; see `bkd status`, and `bkd why {name}`")
        return [*found]

    def _process(self, slot: Slot) -> list[Process]:
        worker = shown(slot)
        process = self.master.effects.registry.workers.get(worker.id) if worker is not None else None
        return [process] if process is not None and process.pid else []

    def _home(self, process: Process | LoaderProcess) -> Home:
        if isinstance(process, Process):
            return home_of(process.settings)
        return self.autopsy.home(*process.key)


def answer(reports: list[Report], arguments: dict[str, Any], render: str) -> str:
    """What is printed of these reports."""
    name = arguments["name"]
    if render == "json":
        return json.dumps(why.document(name, reports)) + "\n"
    width, colours, full = _width(arguments), bool(arguments.get("colours")), bool(arguments.get("all"))
    return why.text(reports, name, time.time(), width=width, colours=colours, full=full)


def _kind(process: Process | LoaderProcess) -> str:
    return process.settings.kind if isinstance(process, Process) else ""


def _name(process: Process | LoaderProcess) -> str:
    return process.slot if isinstance(process, Process) else f"{process.group}.zygote"


def _document(process: Process | LoaderProcess, evidence: Evidence) -> dict[str, Any]:
    return {"name": _name(process), "pid": process.pid, "evidence": why.whole(evidence)}


def _width(arguments: dict[str, Any]) -> int:
    width = arguments.get("width")
    return min(WIDEST, width) if isinstance(width, int) and width >= 40 else 80
