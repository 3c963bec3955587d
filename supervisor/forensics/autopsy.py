"""Writes reports: of a worker that is about to be ended, while it can still be asked, and of every process that ended.

Runs in the master's loop; what touches the disk runs in its thread, one after the other.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loguru import logger
from msgspec.structs import replace

from ...ipc.message import Late, Ping
from ...ipc.quantity import counted
from ...ipc.stacks import Frame, ThreadStack, bounded_frames
from .. import cgroup
from ..cluster import Cause, Cluster, Group
from ..fact import Fact, volume
from ..facts import EvidenceTaken, LoopLate, ReleaseFailed, WorkerExited
from ..lastwords import TRACEBACK, last_traceback, places
from ..registry import LoaderProcess, Process, Registry
from ..rows import find
from ..tasks import Tasks
from . import faultdump, postmortem
from .casebook import Casebook
from .culprit import Home, culprit, shown
from .endwords import blamed, pointed
from .evidence import Evidence, Report
from .foreign import ForeignFiles
from .gathering import Gathering, lines_of, with_files
from .kernellog import KernelLog, about
from .memorykills import MemoryKills
from .postmortem import Found, Subject, home_of
from .source import Source

MOST_TRACE = 200
AGAIN = 5.0
DISK = 0.08  # seconds that a disk has to answer in before a worker is ended without its lines
LAST, LOOK = 2.0, 0.01
LINES = 1.0  # seconds that a report waits for the last lines of a log


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
        self.files = ForeignFiles()
        self._memory_kills = MemoryKills(self._kernel, self._cgroup)
        self._retries = False
        self._at_work = 0
        self._serial = time.time_ns() // 1_000_000

    # -- while it lives

    def heard(self, process: Process, ping: Ping) -> None:
        """A heartbeat came."""
        now = time.monotonic()
        self.gathering.vitals.heard(process.worker, ping, now)
        self._memory_kills.look(now)

    def was_late(self, process: Process, late: Late) -> None:
        """Its main loop did not turn for a while; it says where."""
        if self.gathering.vitals.was_late(process.worker, late, time.monotonic()):
            self._tasks.run(self._tell_late(process, replace(late, frames=bounded_frames(late.frames))))

    async def _tell_late(self, process: Process, late: Late) -> None:
        home = home_of(process.settings)
        frame = culprit(late.frames, home)
        if frame is not None:
            frames = [frame]
            frame = (await self.files.within(LINES, lambda: Source().shown(frames), frames))[0]
        where = shown(frame, home.cwd) if frame is not None else "nobody knows where"
        self._tell(LoopLate(slot=process.slot, pid=process.pid, seconds=round(late.seconds, 3), where=where))

    async def examine(self, process: Process, *, signal: bool = True) -> None:
        """Take evidence of a worker that is to be ended and write it down; ends in time whatever happens."""
        subject = self._subject(process)
        evidence = await self.evidence(process, subject.home, signal=signal)
        report = postmortem.of_living(subject, evidence.at, time.monotonic())
        await self._keep(report, pointed(report, evidence), process)

    async def examine_import(self, loader: LoaderProcess, why: str) -> None:
        """The same of a zygote whose import does not end, or that does not answer."""
        with self._working():
            evidence = await self.gathering.take(loader, home=self.home(*loader.key))
            fact = ReleaseFailed(group=loader.group, release=loader.release, reason=why)
            report = postmortem.hanging(self._of_load(fact, evidence.at, loader), loaded=loader.loaded)
            await self._keep(report, evidence, loader)

    async def evidence(self, process: Process, home: Home, *, signal: bool = True) -> Evidence:
        """What can be had of a living worker, without what lies on the disk."""
        evidence = await self.gathering.take(process, home=home, signal=signal)
        place = find(self._cluster(), process.worker)
        pulse = place.worker.pulse if place is not None else None
        return replace(evidence, lates=pulse.late) if pulse is not None else evidence

    async def _keep(self, report: Report, evidence: Evidence, process: Process | LoaderProcess) -> None:
        """Tell it in time; lines of source and of the log, which lie on a disk, come when they come."""
        reading = self.files.begin(lambda: with_files(evidence, process), evidence)
        if reading is not None:
            await asyncio.wait([reading], timeout=DISK)
        known = reading.result() if reading is not None and reading.done() else evidence
        whole = replace(report, evidence=known, culprit=known.culprit)
        frame = blamed(whole)
        where = shown(frame, report.cwd) if frame is not None else ""
        self._tell(EvidenceTaken(slot=report.slot, pid=report.pid, where=where, took=evidence.took))
        self._write(whole)
        if known is evidence and reading is not None:
            self._tasks.run(self._write_when_read(report, reading))

    async def _write_when_read(self, report: Report, reading: "asyncio.Future[Evidence]") -> None:
        evidence = await reading
        self._write(replace(report, evidence=evidence, culprit=evidence.culprit))

    # -- when it is gone

    def ended(self, process: Process) -> None:
        """The keeper reaped it: keep what the policy knows of it, before that is forgotten."""
        place = find(self._cluster(), process.worker)
        process.row = place.worker if place is not None else None

    def was_killed_for_memory(self, process: Process) -> bool:
        """Asked of one that ended of SIGKILL just now."""
        return self._memory_kills.killed(process.pid, self._comm(process.slot), time.monotonic())

    def told(self, fact: Fact) -> None:
        """Something happened; ends are looked into."""
        if isinstance(fact, WorkerExited):
            self._tasks.run(self._explain(fact))
        elif isinstance(fact, ReleaseFailed):
            loader = self.registry.loaders.get((fact.group, fact.release))
            self._write(self._of_load(fact, time.time(), loader))

    def _of_load(self, fact: ReleaseFailed, at: float, loader: LoaderProcess | None) -> Report:
        """One report a process, or a load that did not get that far."""
        pid, start = (loader.pid, loader.start) if loader is not None else (0, 0)
        if not pid:
            self._serial += 1
        decision = postmortem.after_load(self._cluster(), fact.group, fact.release)
        return postmortem.of_load(
            fact, self.home(fact.group, fact.release), at, pid, start if pid else self._serial, decision
        )

    async def _explain(self, fact: WorkerExited) -> None:
        with self._working():
            await self._look_into(fact)

    async def _look_into(self, fact: WorkerExited) -> None:
        process = next((p for p in self.registry.workers.values() if (p.slot, p.pid) == (fact.slot, fact.pid)), None)
        cluster, at, now = self._cluster(), time.time() - fact.ago, time.monotonic() - fact.ago
        if process is not None:
            subject = self._subject(process)
        else:
            self._serial += 1
            group = cluster.groups.get(fact.slot.rpartition(".")[0])
            kind = group.settings.kind if group is not None else ""
            subject = Subject(fact.slot, fact.pid, self._serial, kind, self._home(group), None)
        asked = subject.row is not None and subject.row.ending is not None
        decision = postmortem.decision(cluster, fact, asked=asked)
        report = postmortem.of_ended(subject, fact, decision, at, now)
        fatal = process.dumps.read() if process is not None and process.dumps is not None and fact.signal else ""
        words, hints = process.words if process is not None else "", self._hints(fact)
        if process is not None:
            report = replace(report, late=self.gathering.vitals.late(process.worker, now))
            self.gathering.vitals.forget(process.worker)

        whole = await self.files.within(
            LINES,
            lambda: with_everything(report, lines_of(process) if process is not None else [], fatal, words, hints),
            with_everything(report, [], fatal, words, hints, source=False),
        )
        await self._in_thread(lambda: self.casebook.write(self._merged(whole)))

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
        hints = postmortem.kernel_hints(about(self._kernel.recent(time.monotonic()), fact.pid, self._comm(fact.slot)))
        if fact.cause in (Cause.OOM, Cause.OUTSIDE):
            hints += self._memory(counted=fact.cause == Cause.OOM)
        return hints

    def _comm(self, slot: str) -> str:
        """The name of a worker's process, of which the kernel keeps the begin."""
        return f"bkd: {self.app} {slot}"

    def _memory(self, *, counted: bool) -> list[str]:
        if self._cgroup is None:
            return []
        hints = ["the cgroup's count of out-of-memory kills rose"] if counted else []
        used, limit = cgroup.memory_limit(self._cgroup)
        if limit is not None:
            hints.append(f"the cgroup may use {volume(limit)}" + (f" and uses {volume(used)} now" if used else ""))
        return hints

    # -- inside

    def _subject(self, process: Process) -> Subject:
        row = process.row
        if row is None:
            place = find(self._cluster(), process.worker)
            row = place.worker if place is not None else None
        settings, by = process.settings, process.signalled_by
        return Subject(process.slot, process.pid, process.start, settings.kind, home_of(settings), row, by)

    def home(self, group: str, release: int) -> Home:
        """Where the application of this release lies."""
        row = self._cluster().groups.get(group)
        if row is not None and release in row.releases:
            return home_of(row.releases[release].settings)
        return self._home(row)

    def _home(self, group: Group | None) -> Home:
        return home_of(group.settings) if group is not None else Home("")

    def _write(self, report: Report) -> None:
        self._tasks.run(self._in_thread(lambda: self.casebook.write(report)))

    async def finished(self) -> None:
        """The master is about to end: wait for what is being looked into and written, at most LAST seconds."""
        deadline = time.monotonic() + LAST
        await asyncio.sleep(LOOK)
        while self._at_work and time.monotonic() < deadline:
            await asyncio.sleep(LOOK)

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    async def _in_thread(self, work: Callable[[], None]) -> None:
        lost = self.casebook.lost
        with self._working():
            await asyncio.to_thread(work)
        if self.casebook.lost > lost:
            what = "report of an end could not be written and is", "reports of ends could not be written and are"
            logger.error("{} lost: see the disk", counted(self.casebook.lost, *what))
        if self.casebook.unwritten and not self._retries:
            self._retries = True
            self._tasks.run(self._retry())

    async def _retry(self) -> None:
        """Until the disk takes what it did not; `why` knows it meanwhile."""
        told = ""
        try:
            while self.casebook.unwritten:
                await asyncio.sleep(AGAIN)
                if self.casebook.unwritten and self.casebook.fault != told:
                    told = self.casebook.fault
                    logger.error("reports of ends cannot be written, they are kept in memory: {}", told)
                await asyncio.to_thread(self.casebook.retry)
        finally:
            self._retries = False


def with_everything(
    report: Report, lines: list[str], fatal: str, words: str, hints: list[str], *, source: bool = True
) -> Report:
    """The report with what speaks for its cause: faulthandler's last words, or the last traceback."""
    trace, frame = "", None
    threads = died_of(report, fatal) or died_of(report, "\n".join(lines))
    if threads is not None:
        trace = fatal or "\n".join(lines)
        frame = culprit(threads[0].frames, report.home) if threads else None
    elif report.cause in (Cause.BOOT, Cause.CRASH):
        told = words.splitlines() or last_traceback(lines)
        trace = "\n".join(told[-MOST_TRACE:])
        frame = culprit(places(told), report.home) if any(line.startswith(TRACEBACK) for line in told) else None
    if source:
        report, frame = _with_source(report, frame)
    return postmortem.with_found(report, Found(trace, frame, tuple(hints), tuple(lines)))


def _with_source(report: Report, frame: Frame | None) -> tuple[Report, Frame | None]:
    source = Source()
    if report.late is not None:
        report = replace(report, late=replace(report.late, frames=source.shown(report.late.frames)))
    return report, source.shown([frame])[0] if frame is not None else None


def died_of(report: Report, text: str) -> list[ThreadStack] | None:
    """The stacks of the fatal error of which it ended; None when the text tells of none, or of another: a copy that
    the application has forked may have written it."""
    head, threads = faultdump.fatal(text)
    return threads if head and faultdump.signal_of(head) == report.signal else None
