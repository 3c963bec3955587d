"""What `bkd why` and `bkd dump` print: reports and evidence as text, and as documents. Pure but for the local time.

What is needed first stands first. Of stacks the application's own frames are marked with `>`, runs of library frames
are folded; tracebacks are never cut. Nothing that a process has said gets power over the terminal.
"""

import re
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import msgspec

from ...ipc.quantity import counted
from ...ipc.stacks import Frame, Stacks, TaskStack, ThreadStack
from ..cluster import Cause
from ..fact import span, volume
from .culprit import Home, called, is_own, library, lives_on, rests, shown
from .endwords import blamed, headline, how
from .evidence import Evidence, KernelThread, LateSample, Report, Sample
from .kernelview import state_words
from .page import LABEL, Page

MOST_TASKS, MOST_THREADS, MOST_KERNEL_THREADS, MOST_NAMED, MOST_LINES = 10, 10, 6, 3, 20
NOTABLE = 0.01  # seconds of lag below which nobody wants to hear of it
RESTS = "its main thread waits in its event loop"
NAMELESS, HEARTBEAT = "without a name", "heartbeat of bkd"
LATEST = 1e11  # seconds since 1970 that a calendar may be asked for
LONGEST_LINE, MOST_ALIKE = 500, 3

_NAME = re.compile(r"[a-z][a-z0-9_-]*(?:\.(?:[0-9]{1,6}|zygote))?")
_PLANNED = frozenset({Cause.PLANNED, Cause.FINISHED})
_IDLE = frozenset({"a2wsgi", "anyio", "asyncio", "bkd", "concurrent", "queue", "selectors", "threading", "uvloop"})
_DOING = {"waits": "waiting", "sleeps": "sleeping"}
_SERVED = {"web": "request", "messages": "message"}
_TOLD_BY = {"worker": "", "signal": ", written by faulthandler"}


def is_name(name: str) -> bool:
    """Whether it can be a group, a slot or the zygote of a group."""
    return _NAME.fullmatch(name) is not None


def text(reports: list[Report], name: str, now: float, *, width: int, colours: bool = False, full: bool = False) -> str:
    """The newest report (the first one), and the newest of an end that was not planned; the others as a line each, or
    with `full` as a whole. Without any it says so. `now`: seconds since 1970."""
    page = Page(width, colours)
    if not reports:
        page.line(f"{name} has not ended yet: nothing to explain")
    unplanned = (number for number, report in enumerate(reports) if report.cause not in _PLANNED)
    chosen = {*range(len(reports))} if full else {0, next(unplanned, 0)}
    for number, report in enumerate(reports):
        if number in chosen:
            if number:
                page.rule()
            _report(page, report, now)
    others = [report for number, report in enumerate(reports) if number not in chosen]
    if others:
        page.title("before that" if len(chosen) == 1 else "the others")
    for report in others:
        page.entry(_summary(report, name))
    return page.text()


def dump_text(
    evidence: Evidence, name: str, pid: int, home: Home, *, width: int, colours: bool = False, kind: str = ""
) -> str:
    """The same blocks of a process that lives."""
    page = Page(width, colours)
    took = f" in {span(evidence.took)}" if evidence.took else ""
    page.line(f"{name} (pid {pid}) at {_clock(evidence.at)}, looked at{took}", style="bold")
    stacks = evidence.stacks
    if stacks is not None and rests(stacks, home):
        _resting(page, evidence, stacks, home.cwd, _what(kind))
        _evidence(page, evidence, None, home, most_tasks=len(stacks.tasks), what=_what(kind))
    else:
        most_tasks = len(stacks.tasks) if stacks is not None else 0
        _evidence(page, evidence, evidence.culprit, home, most_tasks=most_tasks, what=_what(kind))
    _printed(page, evidence.lines)
    return page.text()


def document(name: str, reports: list[Report]) -> dict[str, Any]:
    """What `--json` prints: the reports with all their fields, `headline` and `how` in words."""
    return {
        "name": name,
        "reports": [
            {"headline": headline(report), "how": how(report.code, report.signal) if report.ended else None}
            | whole(report)
            for report in reports
        ],
    }


def whole(value: Any) -> Any:
    """A struct as plain data, fields that have their default value included."""
    if isinstance(value, msgspec.Struct):
        return {field: whole(getattr(value, field)) for field in value.__struct_fields__}
    return [whole(item) for item in value] if isinstance(value, list) else value


def _report(page: Page, report: Report, now: float) -> None:
    _headline(page, report)
    page.line()
    page.row("when", f"{_clock(report.at)}, {span(max(0.0, now - report.at))} ago")
    page.row("process", _process(report))
    if report.kind != "zygote":
        page.row("ended", how(report.code, report.signal) if report.ended else "not yet, it is being ended")
    page.row("by", report.sender)
    for hint in report.hints:
        page.row("hint", hint)
    page.row("then", report.decision)
    _trace(page, report.trace)
    frame = blamed(report)
    if report.evidence is not None:
        told = frame is not None and shown(frame, report.cwd) in headline(report)
        shown_frame = None if told else frame
        _evidence(page, report.evidence, shown_frame, report.home, most_tasks=MOST_TASKS, what=_what(report.kind))
    else:
        _late(page, report.late, 0, report.home)
    _printed(page, report.lines or (report.evidence.lines if report.evidence is not None else []), report.trace)


def _trace(page: Page, trace: str) -> None:
    """Of faulthandler's stacks the one of the thread that died comes first. A line that repeats is counted."""
    if not trace:
        return
    page.title("traceback" if "Traceback" in trace else "what it wrote at its end")
    blocks = sorted(trace.rstrip().split("\n\n"), key=lambda block: block.startswith("Thread 0x"))
    lines = "\n\n".join(blocks).splitlines()
    for line, same in groupby(lines):
        times = len([*same])
        page.line(f"  {line}")
        for _ in range(times - 1 if times <= MOST_ALIKE else 0):
            page.line(f"  {line}")
        if times > MOST_ALIKE:
            page.line(f"    … the same line {times - 1} times more", style="dim")


def _headline(page: Page, report: Report) -> None:
    """In two lines where it is too long for one: what happened, and where."""
    frame = blamed(report)
    what, at, where = f"{report.slot}: {headline(report)}".partition(
        f" at {shown(frame, report.cwd)}" if frame else "\0"
    )
    page.headline(what, f"{at}{where}")


def _process(report: Report) -> str:
    size = report.pss or report.rss
    facts = [
        f"pid {report.pid}" if report.pid else "",
        f"release {report.release}",
        f"up {span(report.uptime)}" if report.uptime else "",
        counted(report.served, _SERVED[report.kind]) if report.kind in _SERVED and report.cause != Cause.BOOT else "",
        f"{volume(size)} of memory" if size else "",
    ]
    return ", ".join(filter(None, facts))


def _summary(report: Report, name: str) -> str:
    """One line for an older report."""
    slot = f"{report.slot}  " if report.slot != name else ""
    pid = f"pid {report.pid}  " if report.pid else ""
    return f"{_clock(report.at, '%m-%d %H:%M')}  {slot}{pid}release {report.release}  {headline(report)}"


def _what(kind: str) -> str:
    """What a worker of this kind is busy with."""
    return _SERVED.get(kind, "request")


def _resting(page: Page, evidence: Evidence, stacks: Stacks, cwd: str, kind: str) -> None:
    """Of a process that lives and whose main thread waits: where its work of this kind is."""
    page.line()
    page.row("idle", RESTS)
    frame, work = evidence.culprit, sorted(stacks.work, key=lambda work: -work.age)
    if frame is None:
        return
    runs = any(frame in thread.frames for thread in stacks.threads if thread.tid in evidence.running)
    more = f", the oldest of {len(work)}; one" if len(work) > 1 else ""
    what = f"{work[0].what}{more} {'is' if runs else 'waits'} at " if work else ""
    page.item(f"  {kind if work else 'at':{LABEL}}", f"{what}{called(frame, cwd)}", frame.text.strip())


def _evidence(page: Page, evidence: Evidence, frame: Frame | None, home: Home, *, most_tasks: int, what: str) -> None:
    stacks = evidence.stacks
    if frame is not None or evidence.silence:
        page.line()
    if frame is not None:
        page.item(f"  {'at':{LABEL}}", called(frame, home.cwd), frame.text.strip())
    page.row("stacks" if stacks is not None else "no stacks", evidence.silence)
    if stacks is not None:
        _threads(page, stacks, home, _TOLD_BY.get(evidence.source, ""))
        _tasks(page, stacks, home, most_tasks)
        _open(page, stacks, what)
    page.title("the process as the kernel sees it")
    names = {thread.tid: thread.name for thread in stacks.threads if thread.name} if stacks is not None else {}
    for label, said in [*_kernel(evidence, names), *_trend(evidence.trend, what)]:
        page.row(label, said)
    _late(page, evidence.late, evidence.lates, home)


def _threads(page: Page, stacks: Stacks, home: Home, by: str) -> None:
    """The main thread, those that do something, and the names of those that wait for work."""
    threads = sorted(stacks.threads, key=lambda thread: not thread.main)
    idle = [thread for thread in threads if not thread.main and _is_idle(thread, home)]
    busy = [thread for thread in threads if thread not in idle]
    for thread in busy[:MOST_THREADS]:
        page.title(_thread_name(thread) + (f"{by}, innermost call first" if thread is busy[0] else ""))
        _frames(page, thread.frames, home, whole=thread.main and rests(stacks, home))
    left = len(busy[MOST_THREADS:]) + stacks.threads_left_out
    if idle or left:
        page.title("other threads")
    if idle:
        page.row(
            "idle", _some([thread.name or (f"thread {thread.tid}" if thread.tid else "a thread") for thread in idle])
        )
    page.row("left out", f"{left} more" if left else "")


def _thread_name(thread: ThreadStack) -> str:
    name = f" {thread.name}" if thread.name and not (thread.main and thread.name == "MainThread") else ""
    return "main thread" if thread.main else f"thread{name or f' {thread.tid}' * bool(thread.tid)}"


def _tasks(page: Page, stacks: Stacks, home: Home, most: int) -> None:
    """Those that have the application's own code in them, but not the one that the main thread runs; of the others how
    many there are."""
    waiting = [task for task in stacks.tasks if not _runs(task, stacks)]
    own = [task for task in waiting if any(is_own(frame, home) for frame in task.frames) and not lives_on(task)]
    others = [task for task in waiting if task not in own]
    libraries = dict.fromkeys(library(task.frames[-1].file, home.cwd) or "others" for task in others if task.frames)
    by = f" of {_some(libraries)}" if libraries else ""
    what = "innermost await first" if own else f"none in the application's code{by and f', all{by}'}"
    if waiting or stacks.tasks_left_out:
        number = counted(len(waiting) + stacks.tasks_left_out, "asyncio task")
        page.title(f"{number} waiting, {what}")
    for task in own[:most]:
        page.cut(task.name + (f" waits for {task.waits}" if task.waits else ""), indent=2)
        _frames(page, task.frames, home, indent=4)
    left = len(own[most:]) + stacks.tasks_left_out
    if left and own:
        page.cut(f"… {left} more", indent=2, style="dim")
    if others and own:
        page.cut(f"… {counted(len(others), 'task')}{by}", indent=2, style="dim")


def _runs(task: TaskStack, stacks: Stacks) -> bool:
    """Whether it is what the main thread is doing."""
    main = next((thread.frames for thread in stacks.threads if thread.main), [])
    return bool(task.frames) and not task.waits and all(frame in main for frame in task.frames)


def _open(page: Page, stacks: Stacks, what: str) -> None:
    if stacks.work:
        page.title(counted(len(stacks.work), f"open {what}"))
    for work in stacks.work:
        page.cut(f"{span(work.age):>8}  {work.what}", indent=2)


def _frames(page: Page, frames: list[Frame], home: Home, *, indent: int = 0, whole: bool = False) -> None:
    """The innermost is shown unless all of it is to be folded, and so is a single frame of a library between others."""
    margin = " " * indent
    for run in _folds(frames, home, whole=whole):
        if isinstance(run, Frame):
            mark = ">" if is_own(run, home) else " "
            page.item(f"{margin}{mark} ", called(run, home.cwd), run.text.strip())
        else:
            names = _some(dict.fromkeys(library(frame.file, home.cwd) or "others" for frame in run))
            page.cut(f"… {len(run)} frames of {names}", indent=indent + 2, style="dim")


def _folds(frames: list[Frame], home: Home, *, whole: bool) -> Iterator[Frame | list[Frame]]:
    foreign: list[Frame] = []
    for number, frame in enumerate(frames):
        if (number or whole) and not is_own(frame, home) and frame.line:
            foreign.append(frame)
            continue
        yield from _folded(foreign)
        foreign = []
        yield frame
    yield from _folded(foreign)


def _folded(run: list[Frame]) -> Iterator[Frame | list[Frame]]:
    if run:
        yield run if len(run) > 1 else run[0]


def _is_idle(thread: ThreadStack, home: Home) -> bool:
    """Whether it waits for work: it is in nothing but the machinery that hands work out."""
    return all(library(frame.file, home.cwd) in _IDLE and not is_own(frame, home) for frame in thread.frames)


def _kernel(evidence: Evidence, names: dict[int, str]) -> Iterator[tuple[str, str]]:
    """The main thread, then the others, those of which the same is to be said together. `names`: what Python calls
    them; the kernel has the process's name for all."""
    if not evidence.kernel:
        yield "state", _state(evidence.state)
        return
    main, *others = evidence.kernel
    yield "main", _thread_state(main)
    alike: dict[str, list[str]] = {}
    nameless = [thread for thread in others if thread.tid not in names and thread.name.startswith("bkd: ")]
    answered = evidence.source == "worker" and len(nameless) == 1  # by the one that tells of all but itself
    for thread in others:
        name = names.get(thread.tid) or thread.name or str(thread.tid)
        name = name if thread not in nameless else HEARTBEAT if answered else NAMELESS
        alike.setdefault(_thread_state(thread), []).append(name)
    for said, called_so in [*alike.items()][:MOST_KERNEL_THREADS]:
        label = "thread" if len(called_so) == 1 else f"{len(called_so)} threads"
        yield label, f"{_some(dict.fromkeys(called_so))}: {said}"


def _thread_state(thread: KernelThread) -> str:
    function = thread.wchan.partition(".")[0]  # compilers add to names: poll_schedule_timeout.constprop.0
    wchan = f"wchan {function}" if function else ""
    call = _before(thread.call) if thread.state in ("T", "t") else thread.call
    return "; ".join(filter(None, [_state(thread.state), call, wchan]))


def _before(call: str) -> str:
    """What one waited for when it was stopped: `was waiting for events`, `was in read from a pipe`."""
    if not call:
        return ""
    verb, _, rest = call.partition(" ")
    return f"was {_DOING[verb]} {rest}".rstrip() if verb in _DOING else f"was in {call}"


def _state(letter: str) -> str:
    return f"state {letter}, {state_words(letter)}" if letter else ""


def _trend(trend: list[Sample], what: str) -> Iterator[tuple[str, str]]:
    """The last minute from its begin to its end."""
    if not trend:
        return
    first, last = trend[0], trend[-1]
    over = f" in {span(first.age - last.age)}" if len(trend) > 1 else ""
    heard = f"; last heard {span(last.age)} before" if last.age > 1 else ""
    sizes = [(name, getattr(first, name), getattr(last, name)) for name in ("rss", "pss")]
    known = [f"{name} {_change(volume(old), volume(new))}" for name, old, new in sizes if new]
    grew = over if any(volume(old) != volume(new) for _, old, new in sizes) else ""
    yield "memory", ", ".join(known) + grew if known else ""
    yield "cpu", f"{_change(f'{100 * first.cpu:.0f} %', f'{100 * last.cpu:.0f} %')} of one CPU{over}{heard}"
    lags = [sample.lag for sample in trend if sample.lag is not None]
    busiest = max(sample.in_flight for sample in trend)
    lag = f"loop at most {span(max(lags))} late" if lags and max(lags) >= NOTABLE else ""
    yield "load", ", ".join(filter(None, [f"at most {counted(busiest, what)} in flight" if busiest else "", lag]))


def _change(old: str, new: str) -> str:
    return new if old == new else f"{old} → {new}"


def _late(page: Page, late: LateSample | None, lates: int, home: Home) -> None:
    if late is None:
        return
    times = f", late {lates} times in all" if lates > 1 else ""
    page.title(f"its loop was {span(late.seconds)} late {span(late.age)} before{times}")
    _frames(page, late.frames, home)


def _printed(page: Page, lines: list[str], trace: str = "") -> None:
    """The last lines it printed, unless they have been shown as the traceback."""
    told = {line.strip() for line in trace.splitlines()}
    fresh = [line for line in lines if line.strip() not in told or not line.strip()][-MOST_LINES:]
    if any(line.strip() for line in fresh):
        page.title("the last it printed")
        for line in fresh:
            page.line(f"  {line[:LONGEST_LINE]}")


def _some(names: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    listed = [*names]
    more = len(listed) - MOST_NAMED
    return ", ".join(listed[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _clock(at: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return time.strftime(form, time.localtime(at)) if 0 <= at < LATEST else "at an unknown time"
