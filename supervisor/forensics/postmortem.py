"""What is written into a report: how a process ended, who did it, and what follows from it. Pure."""

import re
from typing import NamedTuple

from msgspec.structs import replace

from ...ipc.quantity import counted
from ...ipc.stacks import DUMP_SIGNAL, Frame
from ..cluster import Cause, Cluster, Ending, Loader, Step, Verdict, Worker
from ..config.schema import GroupSection
from ..endings import DEAF
from ..fact import signal_name, span, volume
from ..facts import ReleaseFailed, WorkerExited
from ..lastwords import places
from .culprit import Home, culprit
from .evidence import Report

_KILL = re.compile(
    r".*out of memory.*: Kill(?:ed)? process (?P<pid>[0-9]+) \((?P<comm>.*?)\)"
    r"(?:.*\banon-rss:(?P<rss>[0-9]+)kB)?.*?(?P<end> \(a process of this name\))?$",
    re.IGNORECASE,
)
LONGEST_HINT = 160
WORDLESS = "no traceback: the application or a library called os._exit, or left by itself"
GOES_ON = "release {} goes on serving"
SEE = ", see `bkd why {}`"
OTHERS = "another process; the kernel does not tell which"


class Subject(NamedTuple):
    """The process a report is about: its release's kind and home, and the policy's last row of it."""

    slot: str
    pid: int
    start: int
    kind: str
    home: Home
    row: Worker | None
    signalled_by: str = ""


class Found(NamedTuple):
    """What was found after an end: the trace of a fatal error and the frame it points at, hints, printed lines."""

    trace: str = ""
    culprit: Frame | None = None
    hints: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def home_of(settings: GroupSection) -> Home:
    """Where the application of a group lies."""
    return Home.of(settings.cwd, settings.app or settings.target or next(iter(settings.handlers), ""))


def of_living(subject: Subject, at: float, now: float) -> Report:
    """A report that is begun while the process is being ended."""
    row = subject.row
    report = Report(
        slot=subject.slot,
        pid=subject.pid,
        start=subject.start,
        release=row.release if row else 0,
        at=at,
        kind=subject.kind,
        cwd=subject.home.cwd,
        package=subject.home.package,
    )
    if row is None:
        return report
    pulse, ending = row.pulse, row.ending
    if pulse is not None:
        report = replace(report, served=pulse.served, rss=pulse.rss, pss=pulse.pss)
    if ending is not None:
        verdict = "" if ending.verdict == "ok" else str(ending.verdict)
        age = max(0.0, round(ending.since - row.progress, 3)) if verdict else 0.0
        report = replace(report, cause=str(ending.cause), verdict=verdict, age=age, reason=row.boot_error)
    return replace(report, uptime=round(now - (row.ready_at or row.ordered), 3))


def of_ended(subject: Subject, fact: WorkerExited, decision: str, at: float, now: float) -> Report:
    """The report of an end, but for what has to be looked for."""
    report = of_living(subject, at, now)
    reason = fact.reason
    if fact.cause == Cause.PLANNED and subject.row is not None and subject.row.ending is not None:
        reason = "; ".join(filter(None, [subject.row.ending.why, reason]))
    return replace(
        report,
        ended=True,
        release=fact.release,
        cause=fact.cause,
        code=fact.code,
        signal=fact.signal,
        reason=reason,
        sender=sender(subject, fact),
        uptime=fact.uptime,
        decision=decision,
    )


def of_load(fact: ReleaseFailed, home: Home, at: float, pid: int, start: int, decision: str) -> Report:
    """A release whose application could not be imported; `start` tells it from others where it has no process."""
    slot = f"{fact.group}.zygote"
    return Report(
        slot=slot,
        pid=pid,
        start=start,
        release=fact.release,
        at=at,
        ended=True,
        kind="zygote",
        cwd=home.cwd,
        package=home.package,
        cause=str(Cause.BOOT),
        reason=fact.reason.removesuffix(SEE.format(slot)),
        trace=fact.trace,
        culprit=culprit(places(fact.trace.splitlines()), home),
        decision=decision,
    )


def with_found(report: Report, found: Found) -> Report:
    """The whole report."""
    whole = replace(report, trace=found.trace, culprit=found.culprit, hints=list(found.hints), lines=list(found.lines))
    return replace(whole, hints=[*whole.hints, WORDLESS]) if _is_wordless(whole) else whole


def _is_wordless(report: Report) -> bool:
    """Whether Python code left with an exit code of its own and nothing tells why."""
    untold = not report.trace and not report.reason and report.signal is None
    return report.cause == Cause.CRASH and report.kind != "command" and bool(report.code) and untold


def kernel_hints(lines: list[str]) -> list[str]:
    """What the kernel said of a process, without what is of no use: of one that it killed for memory the one line that
    names it."""
    kills = [match for match in map(_KILL.match, lines) if match is not None]
    if not kills:
        return [line[:LONGEST_HINT] for line in lines]
    return [
        f"the kernel: out of memory: killed process {kill['pid']} ({kill['comm']})"
        + (f", which had {volume(int(kill['rss']) << 10)} of its own" if kill["rss"] else "")
        + (kill["end"] or "")
        for kill in kills[-1:]
    ]


def sender(subject: Subject, fact: WorkerExited) -> str:
    """Who ended it, "" when it did so itself."""
    row, ending = subject.row, subject.row.ending if subject.row is not None else None
    if fact.cause == Cause.OOM:
        return "the kernel: out of memory"
    if fact.signal == DUMP_SIGNAL:
        return "bkd: it asked for its stacks with this signal, and there was no handler for it"
    if row is not None and row.signalled and (fact.signal == row.signalled or fact.cause == Cause.PLANNED):
        by = subject.signalled_by or "an operator"
        return f"{by}, by `bkd signal {subject.slot} {signal_name(row.signalled)}`"
    if ending is not None and ending.step != Step.WANTED:
        return _by_bkd(ending)
    if fact.cause == Cause.OUTSIDE and (fact.signal is not None or fact.code is not None):
        return OTHERS
    return ""


def _by_bkd(ending: Ending) -> str:
    if ending.step not in (Step.KILLED, Step.SURVIVED):
        return "bkd: it was asked to drain" if ending.step == Step.ASKED else "bkd: SIGTERM"
    if ending.hasty:
        return "bkd: SIGKILL at once, since that was asked for"
    if ending.verdict in DEAF:
        return "bkd: SIGKILL at once, since it hears nothing else"
    return "bkd: SIGKILL, since it did not end in time"


def decision(cluster: Cluster, fact: WorkerExited, *, asked: bool) -> str:
    """What the policy made of it; `cluster` is the state after this end, `asked`: bkd had asked it to end."""
    group = cluster.groups.get(fact.slot.rpartition(".")[0])
    slot = group.slots.get(fact.slot) if group is not None else None
    if group is None or slot is None:
        return "the slot is gone"
    if cluster.closing is not None:
        return "nothing is started again: the cluster stops"
    if slot.failed:
        return f"the slot stays down: {slot.failed}; `bkd reset {slot.name}` tries it again"
    if slot.done:
        return "its work is done: nothing is started again"
    if slot.held:
        return "the slot is held: nothing is started before `bkd unhold`"
    if slot.retired:
        return "the slot is not wanted any more"
    if group.roll is not None and fact.release == group.roll.new and fact.cause != Cause.PLANNED:
        return f"release {fact.release} is on trial: its roll is judged by this"
    if asked and fact.cause == Cause.PLANNED:
        return ""
    if fact.release != group.current and group.roll is None:
        return GOES_ON.format(group.current)
    return _next(fact, len(slot.charged)) + _warnings(group.breaker.open_since is not None, slot.looping)


def _next(fact: WorkerExited, charged: int) -> str:
    if fact.cause == Cause.HUNG:
        return "its successor was started when it was found hung"
    if fact.delay is None:
        return "nothing is started again"
    deaths = f" ({counted(charged, 'charged death')} in 10 minutes)" if charged else ""
    if not fact.delay:
        return f"started again at once{deaths}"
    return f"tried again after {span(fact.delay)}{deaths}"


def _warnings(breaker: bool, looping: bool) -> str:
    said = ["; the breaker is open: one slot is tried at a time"] if breaker else []
    return "".join([*said, *(["; this is a crash loop"] if looping else [])])


def after_load(cluster: Cluster, group: str, number: int) -> str:
    """What the policy made of an import that failed; `cluster` is the state after that."""
    row = cluster.groups.get(group)
    if row is None:
        return "the group is gone"
    if number != row.current:
        return GOES_ON.format(row.current)
    if cluster.closing is not None:
        return "nothing is started again: the cluster stops"
    release = row.releases[number]
    if release.loader != Loader.FAILED:
        return f"release {number} is loaded again"
    return f"tried again after {span(release.next_try - release.since)}"


def hanging(report: Report, *, loaded: bool) -> Report:
    """Of a zygote that is given up: its import does not end, or it does not answer."""
    given_up = replace(report, verdict="slow boot", sender="bkd: SIGKILL")
    return replace(given_up, cause=str(Cause.HUNG), verdict=str(Verdict.STUCK)) if loaded else given_up
