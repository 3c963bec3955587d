"""Takes evidence of a process that lives: asks it, has faulthandler write, reads /proc. Runs in the master's loop.

It ends at LIMIT whatever happens, since a worker that hangs waits for its SIGTERM meanwhile.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from msgspec.structs import replace

from ...ipc.message import Dump, Dumped
from ...ipc.stacks import DUMP_SIGNAL, Stacks, ThreadStack, bounded
from .. import procfs
from ..lastwords import last_lines
from ..registry import LoaderProcess, Process
from . import faultdump, kernelview
from .culprit import Home, of_stacks
from .dumpfile import DumpFile
from .evidence import Evidence
from .source import Source
from .vitals import Vitals

ASKING, LIMIT = 0.1, 0.4
LOOK = 0.01
USUAL = 64 << 10
MOST_LOOKED_AT = 16 << 10  # characters: a hundred frames, the longest stack that faulthandler writes
DEAF = {
    "T": "it is stopped, so it cannot tell anything: SIGCONT lets it go on",
    "t": "a debugger holds it",
    "D": "it sleeps in the kernel and hears no signal: a disk or network file system does not answer",
    "Z": "it has ended",
    "X": "it has ended",
}
MUTE = "no Python of bkd's runs in it"
IN_C = "it did not answer: C code holds the interpreter lock; its stacks are by faulthandler"
LATE = "it answered late: C code held the interpreter lock, or the machine is busy"
SILENT = "neither its heartbeat thread nor faulthandler answered within {limit}"
NO_HANDLER = "it did not answer, and it has no handler for the signal at which faulthandler writes its stacks"
UNASKED = "it did not answer within {asked}; it was not sent a signal"

Answer = tuple[str, Stacks | None]


class Gathering:
    """One per master."""

    def __init__(self, vitals: Vitals) -> None:
        self.vitals = vitals
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Stacks]] = {}
        self._eyes = ThreadPoolExecutor(1, "bkd-eyes")

    def heard(self, dumped: Dumped) -> None:
        """A worker answers; one that is too late is not waited for any more."""
        future = self._asked.get(dumped.number)
        if future is not None and not future.done():
            future.set_result(bounded(dumped.stacks))

    async def take(self, process: Process | LoaderProcess, *, home: Home, signal: bool = True) -> Evidence:
        """All that can be had within LIMIT. With `signal` a process that does not answer is sent DUMP_SIGNAL, which
        cuts a sleep in C short."""
        at, began = time.time(), time.monotonic()
        looked = asyncio.get_running_loop().run_in_executor(self._eyes, kernelview.look, process.pid, process.start)
        facts = procfs.read(process.pid)
        state = facts.state if facts is not None and facts.start == process.start else "X"
        answer, silence = await self._stacks(process, state, began + LIMIT, signal=signal)
        source, stacks = answer
        await asyncio.wait([looked], timeout=max(0.0, began + LIMIT - time.monotonic()))
        kernel = looked.result() if looked.done() else []
        evidence = Evidence(at, state=state, kernel=kernel, stacks=stacks, source=source, silence=silence)
        if stacks is not None:
            evidence = replace(evidence, culprit=of_stacks(stacks, home, evidence.running))
        now = time.monotonic()
        if isinstance(process, Process):
            worker = process.worker
            evidence = replace(evidence, trend=self.vitals.trend(worker, now), late=self.vitals.late(worker, now))
        return replace(evidence, took=round(time.monotonic() - began, 3))

    async def _stacks(
        self, process: Process | LoaderProcess, state: str, deadline: float, *, signal: bool
    ) -> tuple[Answer, str]:
        """Who told what, and why not the one who should have."""
        if state in DEAF:
            return ("", None), DEAF[state]
        if process.dumps is None and (process.connection is None or isinstance(process, LoaderProcess)):
            return ("", None), MUTE
        number, future = next(self._numbers), asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            return await self._answered(process, number, future, deadline, signal=signal)
        finally:
            del self._asked[number]

    async def _answered(
        self,
        process: Process | LoaderProcess,
        number: int,
        future: "asyncio.Future[Stacks]",
        deadline: float,
        *,
        signal: bool,
    ) -> tuple[Answer, str]:
        asks = process.connection is not None and isinstance(process, Process)
        if asks and process.connection is not None:
            process.connection.send(Dump(number))
            await asyncio.wait([future], timeout=ASKING)
        if future.done():
            return ("worker", future.result()), ""
        asked = f"{1000 * ASKING:.0f} ms"
        if not signal or process.dumps is None:
            return ("", None), UNASKED.format(asked=asked)
        if not process.dumps.is_theirs() or not procfs.catches(process.pid, DUMP_SIGNAL):
            return ("", None), NO_HANDLER
        text = await self._written(process, process.dumps, deadline)
        threads = await self._parsed(text)
        answer = future.result() if future.done() else None
        if threads:
            silence = "" if not asks else LATE if answer is not None else IN_C
            return ("signal", _bounded(threads, answer)), silence
        if answer is not None:
            return ("worker", answer), LATE
        return ("", None), SILENT.format(limit=f"{1000 * LIMIT:.0f} ms")

    async def _parsed(self, text: str) -> list[ThreadStack]:
        """What is usual at once, since looks at many others may wait for the thread; more of it there."""
        if len(text) <= USUAL:
            return faultdump.parse(text)
        return await asyncio.get_running_loop().run_in_executor(self._eyes, faultdump.parse, text)

    async def _written(self, process: Process | LoaderProcess, file: DumpFile, deadline: float) -> str:
        """What faulthandler writes at the signal."""
        file.clear()
        if process.handle is None or not process.handle.signal(DUMP_SIGNAL):
            return ""
        text = ""
        while time.monotonic() < deadline:
            await asyncio.sleep(LOOK)
            text, before = file.read(), text
            if text == before and faultdump.complete(text[-MOST_LOOKED_AT:]):
                break
        return text


def with_files(evidence: Evidence, process: Process | LoaderProcess) -> Evidence:
    """With lines of source and of the log. Runs in a thread: a disk may hang."""
    source = Source()
    stacks = evidence.stacks
    if stacks is not None:
        threads = [replace(thread, frames=source.shown(thread.frames)) for thread in stacks.threads]
        tasks = [replace(task, frames=source.shown(task.frames)) for task in stacks.tasks]
        evidence = replace(evidence, stacks=replace(stacks, threads=threads, tasks=tasks))
    if evidence.culprit is not None:
        evidence = replace(evidence, culprit=source.shown([evidence.culprit])[0])
    if evidence.late is not None:
        evidence = replace(evidence, late=replace(evidence.late, frames=source.shown(evidence.late.frames)))
    return replace(evidence, lines=lines_of(process))


def _bounded(threads: list[ThreadStack], answer: Stacks | None) -> Stacks:
    """faulthandler writes up to 100 threads of 100 frames; of tasks and requests the worker itself may tell after."""
    kept = bounded(Stacks(threads=threads))
    return replace(answer or Stacks(), threads=kept.threads, threads_left_out=kept.threads_left_out)


def lines_of(process: Process | LoaderProcess) -> list[str]:
    """The last that it printed, empty when that is not to be had."""
    if not isinstance(process, Process) or not process.log:
        return []
    try:
        return last_lines(process.log, process.log_offset)
    except OSError as error:
        return [f"({process.log} cannot be read: {error.strerror})"]
