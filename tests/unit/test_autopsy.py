"""What becomes a report, over what the policy really says and a real folder; the kernel's log is a file."""

import asyncio
import os
import signal

import pytest
from msgspec.structs import replace

from bkd.ipc.message import Late, Ping
from bkd.ipc.stacks import Frame
from bkd.supervisor import procfs
from bkd.supervisor.facts import EvidenceTaken, LoopLate, ReleaseFailed, WorkerExited
from bkd.supervisor.forensics import autopsy as module
from bkd.supervisor.forensics.autopsy import Autopsy, with_everything
from bkd.supervisor.forensics.casebook import Casebook
from bkd.supervisor.forensics.culprit import Home
from bkd.supervisor.forensics.evidence import Evidence, LateSample, Report
from bkd.supervisor.forensics.gathering import MUTE, Gathering
from bkd.supervisor.forensics.kernellog import NAMESAKE, KernelLog
from bkd.supervisor.forensics.postmortem import Subject, of_living
from bkd.supervisor.forensics.vitals import Vitals
from bkd.supervisor.registry import LoaderProcess, Process, Registry

from .policy.drive import Drive, web

MOST = 500  # looks at what is awaited, 10 ms each
SPOKEN = "{name}[{pid}]: segfault at 0 ip 0 sp 0 error 4"


class Bench:
    """A master's autopsy without the master: `drive` is its policy."""

    def __init__(self, folder, log):
        self.drive = Drive(web(count=2)).up()
        self.log, self.facts = log, []
        log.touch()
        self.book = Casebook(folder)
        self.registry = Registry()
        self.autopsy = Autopsy(
            self.book, Gathering(Vitals()), self.registry, lambda: self.drive.cluster, self.facts.append, "warehouse"
        )
        row = self.drive.worker("web.1")
        self.process = Process(row.id, "web", "web.1", 1, web(cwd="/srv/shop"), pid=row.pid, start=row.start)
        self.registry.add(self.process)

    @property
    def vitals(self):
        return self.autopsy.gathering.vitals

    def says(self, line):
        """The kernel does."""
        with self.log.open("a") as file:
            file.write(f"4,1,1,-;{line}\n")

    async def ends(self, code):
        """The worker of web.1 does; gives its report."""
        self.autopsy.ended(self.process)
        row = next(row for row in self.drive.slot("web.1").workers if row.id == self.process.worker)
        self.drive.ends(row, code)
        self.autopsy.told(self.drive.told(WorkerExited)[-1])
        return await self.report("web.1")

    async def report(self, slot):
        found = await until(lambda: [one for one in self.book.read(slot) if one.ended])
        assert len(found) == 1
        return found[0]


async def until(check):
    for _ in range(MOST):
        if found := check():
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    log = tmp_path / "kmsg"
    monkeypatch.setattr(module, "KernelLog", lambda: KernelLog(str(log)))
    return lambda: Bench(tmp_path / "why", log)


def run(bench, scene):
    async def play():
        return await scene(bench())

    return asyncio.run(play())


@pytest.mark.parametrize("thread", [0, 1])
def test_what_the_kernel_says_of_an_end_is_a_hint(bench, thread):
    """Of a thread that is not main it says the thread's number, and the name of the process cut short."""

    async def scene(one):
        line = SPOKEN.format(name="bkd: warehouse web.1"[:15], pid=one.process.pid + thread)
        one.says(line)
        return line, await one.ends(-signal.SIGSEGV)

    line, found = run(bench, scene)
    assert [hint.removesuffix(NAMESAKE) for hint in found.hints] == [line]


def test_a_planned_end_has_no_hints(bench):
    async def scene(one):
        one.drive.asks(hard=True)
        one.drive.loads(2)
        one.says(SPOKEN.format(name="bkd: warehouse web.1"[:15], pid=one.process.pid))
        return await one.ends(-signal.SIGKILL)

    found = run(bench, scene)
    assert (found.cause, found.signal, found.hints) == ("planned", signal.SIGKILL, [])


def test_the_evidence_taken_before_is_in_the_report_of_the_end(bench):
    evidence = Evidence(1.0, state="S", silence="it is stopped")

    async def scene(one):
        row = one.drive.worker("web.1")
        subject = Subject("web.1", row.pid, row.start, "web", Home("/srv/shop"), row)
        one.book.write(replace(of_living(subject, 1.0, one.drive.now), evidence=evidence))
        return await one.ends(-signal.SIGKILL)

    assert run(bench, scene).evidence == evidence


def test_what_was_heard_of_a_worker_is_told_at_its_end_and_forgotten(bench, tmp_path):
    source = tmp_path / "app.py"
    source.write_text("while True:\n")
    frame = Frame(str(source), 1, "export")

    async def scene(one):
        one.autopsy.heard(one.process, Ping(rss=1))
        one.autopsy.was_late(one.process, Late(1.5, [frame]))
        await until(lambda: one.facts)
        found = await one.ends(-signal.SIGKILL)
        return one, found

    one, found = run(bench, scene)
    assert (found.late.seconds, found.late.frames) == (1.5, [Frame(str(source), 1, "export", "while True:")])
    assert one.facts == [LoopLate(slot="web.1", pid=found.pid, seconds=1.5, where=f"{source}:1 in export: while True:")]
    assert one.vitals.trend(one.process.worker, 0.0) == []
    assert one.vitals.late(one.process.worker, 0.0) is None


def test_a_disk_that_takes_nothing_is_tried_again(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "AGAIN", 0.01)
    folder = tmp_path / "why"

    async def scene(one):
        folder.write_text("in the way")
        found = await one.ends(3)
        assert one.book.unwritten == 1
        folder.unlink()
        await until(lambda: not one.book.unwritten)
        return found

    found = run(bench, scene)
    assert Casebook(folder).read("web.1") == [found]


def test_an_import_that_does_not_end_is_one_report(bench):
    async def scene(one):
        loader = LoaderProcess("web", 2, pid=os.getpid(), start=procfs.read(os.getpid()).start)
        one.registry.add(loader)
        one.autopsy.told(ReleaseFailed(group="web", release=2, reason="too long, see `bkd why web.zygote`"))
        first = await one.report("web.zygote")
        asked = asyncio.ensure_future(one.autopsy.examine_import(loader, "too long, see `bkd why web.zygote`"))
        await one.autopsy.finished()
        assert asked.done()
        return first, await one.report("web.zygote"), one.facts

    first, found, facts = run(bench, scene)
    assert (first.key, first.reason, first.decision) == (found.key, "too long", "release 1 goes on serving")
    assert (found.verdict, found.reason, found.decision) == ("slow boot", "too long", first.decision)
    assert (found.pid, found.start) == (os.getpid(), procfs.read(os.getpid()).start)
    assert (found.evidence.silence, found.evidence.kernel[0].tid) == (MUTE, os.getpid())
    assert isinstance(facts[0], EvidenceTaken)


def test_imports_that_failed_without_a_process_are_reports_of_their_own(bench):
    async def scene(one):
        for _ in range(2):
            one.autopsy.told(ReleaseFailed(group="web", release=1, reason="no bkd"))
        return await until(lambda: len(found := one.book.read("web.zygote")) == 2 and found)

    assert [found.pid for found in run(bench, scene)] == [0, 0]


def test_lines_of_source_are_not_read_where_the_disk_hangs(tmp_path):
    source = tmp_path / "app.py"
    source.write_text("while True:\n")
    late = LateSample(1.0, 1.0, [Frame(str(source), 1, "export")])
    report = Report("web.1", 1, 2, 3, 1.0, True, cause="killed from outside", signal=9, late=late)
    texts = [with_everything(report, [], "", "", [], source=source).late.frames[0].text for source in (False, True)]
    assert texts == ["", "while True:"]


def test_the_last_reports_are_written_before_the_master_ends(bench):
    async def scene(one):
        one.autopsy.ended(one.process)
        one.drive.dies("web.1", 3)
        one.autopsy.told(one.drive.told(WorkerExited)[-1])
        await one.autopsy.finished()
        return one.book.unwritten, [found.code for found in one.book.read("web.1")]

    assert run(bench, scene) == (0, [3])
