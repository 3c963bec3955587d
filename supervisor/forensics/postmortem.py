"""What is written into a report: how a process ended, who did it, and what follows from it. Pure."""

from typing import NamedTuple

from msgspec.structs import replace

from ...ipc.stacks import Frame
from ..cluster import Cause, Cluster, Step, Worker
from ..fact import signal_name, span
from ..facts import ReleaseFailed, WorkerExited
from .evidence import Report

OTHERS = "another process; the kernel does not tell which"


class Subject(NamedTuple):
    """The process a report is about: its release's kind and folder, and the policy's last row of it."""

    slot: str
    pid: int
    start: int
    kind: str
    cwd: str
    row: Worker | None
    signalled_by: str = ""


class Found(NamedTuple):
    """What was found after an end: the trace of a fatal error and the frame it points at, hints, printed lines."""

    trace: str = ""
    culprit: Frame | None = None
    hints: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


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
        cwd=subject.cwd,
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
    if fact.cause == Cause.PLANNED and subject.row is not None and subject.row.ending is not None and not reason:
        reason = subject.row.ending.why
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


def of_load(fact: ReleaseFailed, cwd: str, at: float, serial: int) -> Report:
    """A release whose application could not be imported; `serial` tells it from others."""
    return Report(
        slot=f"{fact.group}.zygote",
        pid=0,
        start=serial,
        release=fact.release,
        at=at,
        ended=True,
        kind="zygote",
        cwd=cwd,
        cause=str(Cause.BOOT),
        reason=fact.reason,
        trace=fact.trace,
    )


def with_found(report: Report, found: Found) -> Report:
    """The whole report."""
    return replace(report, trace=found.trace, culprit=found.culprit, hints=list(found.hints), lines=list(found.lines))


def sender(subject: Subject, fact: WorkerExited) -> str:
    """Who ended it, "" when it did so itself."""
    row, ending = subject.row, subject.row.ending if subject.row is not None else None
    if fact.cause == Cause.OOM:
        return "the kernel: out of memory"
    if row is not None and row.signalled and (fact.signal == row.signalled or fact.cause == Cause.PLANNED):
        by = subject.signalled_by or "an operator"
        return f"{by}, by `bkd signal {subject.slot} {signal_name(row.signalled)}`"
    if ending is not None and ending.step != Step.WANTED:
        return _by_bkd(ending.step)
    if fact.cause == Cause.OUTSIDE and (fact.signal is not None or fact.code is not None):
        return OTHERS
    return ""


def _by_bkd(step: Step) -> str:
    if step in (Step.KILLED, Step.SURVIVED):
        return "bkd: SIGKILL, since it did not end in time"
    return "bkd: it was asked to drain" if step == Step.ASKED else "bkd: SIGTERM"


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
    return _next(fact, len(slot.charged)) + _warnings(group.breaker.open_since is not None, slot.looping)


def _next(fact: WorkerExited, charged: int) -> str:
    if fact.cause == Cause.HUNG:
        return "its successor was started when it was found hung"
    if fact.delay is None:
        return "nothing is started again"
    deaths = f" ({charged} charged {'death' if charged == 1 else 'deaths'} in 10 minutes)" if charged else ""
    if not fact.delay:
        return f"started again at once{deaths}"
    return f"tried again after {span(fact.delay)}{deaths}"


def _warnings(breaker: bool, looping: bool) -> str:
    said = ["; the breaker is open: one slot is tried at a time"] if breaker else []
    return "".join([*said, *(["; this is a crash loop"] if looping else [])])


def hanging_import(group: str, release: int, cwd: str, why: str) -> Report:
    """A zygote that is given up since its import does not end; pid, start and evidence are filled in."""
    return Report(
        slot=f"{group}.zygote",
        pid=0,
        start=0,
        release=release,
        at=0.0,
        ended=True,
        kind="zygote",
        cwd=cwd,
        cause=str(Cause.BOOT),
        verdict="slow boot",
        reason=why,
        sender="bkd: SIGKILL",
        decision=f"release {release} is loaded again, or its roll is taken back",
    )
