"""Writes reports: of a worker that is about to be ended, while it can still be asked, and of every process that ended.

Runs in the master's loop; what touches the disk runs in its thread, one after the other.
"""

import asyncio
import time
from collections.abc import Callable

from loguru import logger
from msgspec.structs import replace

from ...ipc.message import Late, Ping
from .. import cgroup
from ..cluster import Cause, Cluster, Group
from ..fact import Fact
from ..facts import EvidenceTaken, LoopLate, ReleaseFailed, WorkerExited
from ..lastwords import TRACEBACK, last_traceback, places
from ..registry import LoaderProcess, Process, Registry
from ..rows import find
from ..tasks import Tasks
from . import faultdump, postmortem
from .casebook import Casebook
from .culprit import culprit, shown
from .evidence import Evidence, Report
from .gathering import Gathering, Source, lines_of, with_files
from .kernellog import KernelLog, about
from .postmortem import Found, Subject

MOST_COMM = 15  # bytes of a process's name that the kernel keeps, prctl(2)
MOST_TRACE = 200
AGAIN = 5.0
DISK = 0.08  # seconds that a disk has to answer in before a worker is ended without its lines


class Autopsy:
    """One per master."""

    def __init__(
        self,
        casebook: Casebook,
        gathering: Gathering,
        registry: Registry,
        cluster: Callable[[], Cluster],
        tell: Callable[[Fact], None],
        app: str,
    ) -> None:
        self.app = app
        self.casebook, self.gathering, self.registry = casebook, gathering, registry
        self._cluster, self._tell = cluster, tell
        self._tasks = Tasks()
        self._kernel = KernelLog()
        self._cgroup = cgroup.own_cgroup()
        self._retries = False
        self._serial = time.time_ns() // 1_000_000

    # -- while it lives

    def heard(self, process: Process, ping: Ping) -> None:
        """A heartbeat came."""
        self.gathering.vitals.heard(process.worker, ping, time.monotonic())

    def was_late(self, process: Process, late: Late) -> None:
        """Its main loop did not turn for a while; it says where."""
        self.gathering.vitals.was_late(process.worker, late, time.monotonic())
        self._tasks.run(self._tell_late(process, late))

    async def _tell_late(self, process: Process, late: Late) -> None:
        cwd = process.settings.cwd
        frame = culprit(late.frames, cwd)
        if frame is not None:
            frame = (await asyncio.to_thread(Source().shown, [frame]))[0]
        where = shown(frame, cwd) if frame is not None else "nobody knows where"
        self._tell(LoopLate(slot=process.slot, pid=process.pid, seconds=round(late.seconds, 3), where=where))

    async def examine(self, process: Process, *, signal: bool = True) -> None:
        """Take evidence of a worker that is to be ended and write it down; ends in time whatever happens."""
        subject = self._subject(process)
        evidence = await self.evidence(process, subject.cwd, signal=signal)
        report = postmortem.of_living(subject, evidence.at, time.monotonic())
        await self._keep(report, evidence, process)

    async def examine_import(self, loader: LoaderProcess, why: str) -> None:
        """The same of a zygote whose import does not end."""
        cwd = self._cwd(loader.group, loader.release)
        evidence = await self.gathering.take(loader, cwd=cwd)
        report = postmortem.hanging_import(loader.group, loader.release, cwd, why)
        await self._keep(replace(report, pid=loader.pid, start=loader.start, at=evidence.at), evidence, loader)

    async def evidence(self, process: Process, cwd: str, *, signal: bool = True) -> Evidence:
        """What can be had of a living worker, without what lies on the disk."""
        evidence = await self.gathering.take(process, cwd=cwd, signal=signal)
        place = find(self._cluster(), process.worker)
        pulse = place.worker.pulse if place is not None else None
        return replace(evidence, lates=pulse.late) if pulse is not None else evidence

    async def _keep(self, report: Report, evidence: Evidence, process: Process | LoaderProcess) -> None:
        """Tell it in time; lines of source and of the log, which lie on a disk, come when they come."""
        reading = asyncio.get_running_loop().run_in_executor(None, with_files, evidence, process)
        await asyncio.wait([reading], timeout=DISK)
        frame = reading.result().culprit if reading.done() else evidence.culprit
        where = shown(frame, report.cwd) if frame is not None else ""
        self._tell(EvidenceTaken(slot=report.slot, pid=report.pid, where=where, took=evidence.took))
        self._tasks.run(self._write_when_read(report, reading))

    async def _write_when_read(self, report: Report, reading: "asyncio.Future[Evidence]") -> None:
        evidence = await reading
        self._write(replace(report, evidence=evidence, culprit=evidence.culprit))

    # -- when it is gone

    def ended(self, process: Process) -> None:
        """The keeper reaped it: keep what the policy knows of it, before that is forgotten."""
        place = find(self._cluster(), process.worker)
        process.row = place.worker if place is not None else None

    def told(self, fact: Fact) -> None:
        """Something happened; ends are looked into."""
        if isinstance(fact, WorkerExited):
            self._tasks.run(self._explain(fact))
        elif isinstance(fact, ReleaseFailed):
            self._serial += 1
            self._write(postmortem.of_load(fact, self._cwd(fact.group, fact.release), time.time(), self._serial))

    async def _explain(self, fact: WorkerExited) -> None:
        process = next((p for p in self.registry.workers.values() if (p.slot, p.pid) == (fact.slot, fact.pid)), None)
        cluster, at, now = self._cluster(), time.time(), time.monotonic()
        if process is not None:
            subject = self._subject(process)
        else:
            self._serial += 1
            group = cluster.groups.get(fact.slot.rpartition(".")[0])
            kind = group.settings.kind if group is not None else ""
            subject = Subject(fact.slot, fact.pid, self._serial, kind, self._folder(group), None)
        asked = subject.row is not None and subject.row.ending is not None
        decision = postmortem.decision(cluster, fact, asked=asked)
        report = postmortem.of_ended(subject, fact, decision, at, now)
        fatal = process.dumps.read() if process is not None and process.dumps is not None and fact.signal else ""
        words, hints = process.words if process is not None else "", self._hints(fact)
        if process is not None:
            self.gathering.vitals.forget(process.worker)

        def complete() -> None:
            lines = lines_of(process) if process is not None else []
            self.casebook.write(self._merged(postmortem.with_found(report, found(report, lines, fatal, words, hints))))

        await self._in_thread(complete)

    def _merged(self, report: Report) -> Report:
        """With the evidence that was taken before its end, by this master or the one before. Runs in the thread."""
        for before in self.casebook.read(report.slot):
            if before.key == report.key and before.evidence is not None:
                frame = report.culprit or before.culprit
                return replace(report, evidence=before.evidence, culprit=frame, age=before.age or report.age)
        return report

    def _hints(self, fact: WorkerExited) -> list[str]:
        """What the kernel says of it."""
        if fact.cause == Cause.PLANNED or not fact.signal:
            return []
        name = f"bkd: {self.app} {fact.slot}".encode()[:MOST_COMM].decode(errors="ignore")
        hints = about(self._kernel.recent(time.monotonic()), fact.pid, name)
        if fact.cause in (Cause.OOM, Cause.OUTSIDE):
            hints += self._memory(counted=fact.cause == Cause.OOM)
        return hints

    def _memory(self, *, counted: bool) -> list[str]:
        if self._cgroup is None:
            return []
        hints = ["the cgroup's count of out-of-memory kills rose"] if counted else []
        used, limit = cgroup.memory_limit(self._cgroup)
        if limit is not None:
            hints.append(f"the cgroup may use {limit >> 20} MB" + (f" and uses {used >> 20} MB now" if used else ""))
        return hints

    # -- inside

    def _subject(self, process: Process) -> Subject:
        row = process.row
        if row is None:
            place = find(self._cluster(), process.worker)
            row = place.worker if place is not None else None
        settings, by = process.settings, process.signalled_by
        return Subject(process.slot, process.pid, process.start, settings.kind, settings.cwd, row, by)

    def _cwd(self, group: str, release: int) -> str:
        row = self._cluster().groups.get(group)
        if row is not None and release in row.releases:
            return row.releases[release].settings.cwd
        return self._folder(row)

    def _folder(self, group: Group | None) -> str:
        return group.settings.cwd if group is not None else ""

    def _write(self, report: Report) -> None:
        self._tasks.run(self._in_thread(lambda: self.casebook.write(report)))

    async def _in_thread(self, work: Callable[[], None]) -> None:
        lost = self.casebook.lost
        await asyncio.to_thread(work)
        if self.casebook.lost > lost:
            logger.error("{} reports of ends could not be written and are lost: see the disk", self.casebook.lost)
        if self.casebook.unwritten and not self._retries:
            self._retries = True
            self._tasks.run(self._retry())

    async def _retry(self) -> None:
        """Until the disk takes what it did not; `why` knows it meanwhile."""
        logger.error("reports of ends cannot be written, they are kept in memory: {}", self.casebook.fault)
        while self.casebook.unwritten:
            await asyncio.sleep(AGAIN)
            await asyncio.to_thread(self.casebook.retry)
        self._retries = False


def found(report: Report, lines: list[str], fatal: str, words: str, hints: list[str]) -> Found:
    """What speaks for the cause: faulthandler's last words, or the last traceback. Reads source files."""
    head, threads = faultdump.fatal(fatal)
    if not head:
        head, threads = faultdump.fatal("\n".join(lines))
    if head:
        trace = fatal or "\n".join(lines)
        frames = threads[0].frames if threads else []
    elif report.cause in (Cause.BOOT, Cause.CRASH):
        told = words.splitlines() or last_traceback(lines)
        trace, frames = "\n".join(told[-MOST_TRACE:]), places(told)
        frames = frames if any(line.startswith(TRACEBACK) for line in told) else []
    else:
        trace, frames = "", []
    frame = culprit(frames, report.cwd) if frames else None
    frame = Source().shown([frame])[0] if frame is not None and not frame.text else frame
    return Found(trace, frame, tuple(hints), tuple(lines))
