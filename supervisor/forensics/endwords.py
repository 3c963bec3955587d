"""How a process ended, in words: its exit status, and one line that names the case for what it is. Pure."""

import re
import signal as signals
from collections import Counter

from msgspec.structs import replace

from ...ipc.stacks import DUMP_SIGNAL, Frame
from ..cluster import Cause, Verdict
from ..death import EXIT_CONFIG
from ..fact import signal_name, span, volume
from .culprit import of_hung, of_stacks, of_work, place, shown
from .evidence import Evidence, Report

UNKNOWN = "unknown: nobody could learn how it ended"
HOLDS_LOCK = "in C code that does not let go of the interpreter lock"

_SIGNALS: dict[int, str] = {
    signals.SIGABRT: "it aborted itself; its last lines may say why",
    signals.SIGALRM: "an alarm that it had set itself",
    signals.SIGBUS: "it touched memory that could not be had, such as a file that was cut short",
    signals.SIGFPE: "an arithmetic error in C code, such as a division by zero",
    signals.SIGHUP: "its terminal or session went away",
    signals.SIGILL: "an instruction that this CPU does not know",
    signals.SIGINT: "interrupted, as by Ctrl-C",
    signals.SIGKILL: "it cannot be caught",
    signals.SIGPIPE: "it wrote to a pipe or socket that nobody reads",
    signals.SIGQUIT: "asked to end, as by Ctrl-\\",
    signals.SIGSEGV: "it touched memory that is not its own",
    signals.SIGSYS: "a system call that a filter (seccomp) forbids",
    signals.SIGTERM: "asked to end",
    signals.SIGTRAP: "a breakpoint or a check in C code",
    signals.SIGUSR1: "it has no handler for it",
    signals.SIGUSR2: "it has no handler for it",
    signals.SIGXCPU: "its limit of CPU time is used up",
    signals.SIGXFSZ: "its limit of the size of a file is reached",
}
_CODES = {
    EXIT_CONFIG: "EX_CONFIG: its configuration is wrong",
    126: "a shell says so when the command cannot be executed",
    127: "a shell says so when the command is not found",
}
_SHELL = 128
_WORN = re.compile(r"\bmax_(?:lifetime|memory|requests) = |\bdescriptors left: ")
_OVERDUE = re.compile(r"message (?P<id>\d+) \((?P<kind>[^)]+)\) ")
_CALL = re.compile(r'^  File "(?P<file>[^"]*)", line \d+ in (?P<function>.+)$', re.MULTILINE)
_DEEP, _FEW = 80, 4  # faulthandler writes a hundred frames at most


def how(code: int | None, signal: int | None) -> str:
    """An exit status in words."""
    if signal is not None:
        return _signalled(signal)
    if code is None:
        return UNKNOWN
    about = _CODES.get(code) or _by_shell(code)
    return f"exit code {code}" + (f" ({about})" if about else "")


def headline(report: Report) -> str:
    """One line that says what happened, and where in the code if that is known."""
    match report.cause:
        case Cause.HUNG:
            return _hung(report)
        case Cause.BOOT:
            return _failed_to_start(report)
        case Cause.CRASH:
            return _crashed(report)
        case Cause.OOM:
            return _out_of_memory(report)
        case Cause.OUTSIDE:
            return _from_outside(report)
        case Cause.FINISHED:
            return f"finished its work: {how(report.code, report.signal)}"
        case Cause.PLANNED:
            return _planned(report)
    return report.reason or (how(report.code, report.signal) if report.ended else "is being looked at")


def waiting(call: str) -> str:
    """What a system call waits for, as a predicate: `waits for a lock`, `waits in read from 127.0.0.1:5432`."""
    return call if call.startswith(("waits", "sleeps")) or not call else f"waits in {call}"


def blamed(report: Report) -> Frame | None:
    """The frame to blame, as it was found or else as the stacks show it."""
    evidence = report.evidence
    if report.culprit is not None or evidence is None:
        return report.culprit
    return evidence.culprit or _in_stacks(report, evidence)


def pointed(report: Report, evidence: Evidence) -> Evidence:
    """The evidence; it blames the message that does not end, where that is why the process is ended."""
    return replace(evidence, culprit=_in_stacks(report, evidence)) if _message(report) else evidence


def _message(report: Report) -> str:
    """What the thread or task of the message that did not end is called; "" where none is to blame."""
    match = _OVERDUE.match(report.reason) if report.verdict == Verdict.OVERDUE else None
    return f"{match['kind']} {match['id']}" if match else ""


def _in_stacks(report: Report, evidence: Evidence) -> Frame | None:
    if evidence.stacks is None:
        return None
    if message := _message(report):
        return of_work(evidence.stacks, report.home, message, evidence.running)
    find = of_hung if report.cause in (Cause.HUNG, Cause.BOOT) else of_stacks
    return find(evidence.stacks, report.home, evidence.running)


def recurses(trace: str) -> bool:
    """Whether what faulthandler wrote at a fatal signal shows a stack that was used up by endless recursion."""
    if "stack overflow" in trace:
        return True
    current = trace.partition("Current thread ")[2] or trace
    first = current.partition("most recent call first")[2].partition("\nThread ")[0]
    calls = [(match["file"], match["function"]) for match in _CALL.finditer(first)][:_DEEP]
    return len(calls) == _DEEP and len(Counter(calls)) <= _FEW


def _signalled(signal: int) -> str:
    if signal == DUMP_SIGNAL:
        return f"signal {signal} (real-time; bkd asks for stacks with it, and it has no handler for it)"
    if signals.SIGRTMIN <= signal <= signals.SIGRTMAX:
        return f"signal {signal} (real-time, SIGRTMIN+{signal - signals.SIGRTMIN})"
    about = _SIGNALS.get(signal)
    return signal_name(signal) + (f" ({about})" if about else "")


def _by_shell(code: int) -> str:
    name = signal_name(code - _SHELL)
    return f"{_SHELL} + {name}: a shell or container reports it like that" if name.startswith("SIG") else ""


def _hung(report: Report) -> str:
    verdict = report.verdict or "no progress"
    if verdict == Verdict.STOPPED:
        return f"hung (stopped): SIGSTOP or a terminal stopped it{_age(report, '; no progress for {}')}"
    if verdict == Verdict.OVERDUE:
        what = report.reason if _message(report) else _request(report)
        return f"hung (overdue): {what}{_where(report, ', ')}"
    silent = _age(report, " no progress for {}")
    return f"hung ({verdict}):{silent}{_where(report, ', ' if silent else ' ')}"


def _age(report: Report, text: str) -> str:
    return text.format(span(report.age)) if report.age else ""


def _request(report: Report) -> str:
    stacks = report.evidence.stacks if report.evidence is not None else None
    oldest = max(stacks.work, key=lambda work: work.age, default=None) if stacks is not None else None
    age = oldest.age if oldest is not None else report.age
    what = f" ({oldest.what})" if oldest is not None else ""
    return f"a request{what} is not answered{f' after {span(age)}' if age else ''}, which is over request_timeout"


def _where(report: Report, joint: str) -> str:
    """What it does, and in which line."""
    frame, doing = blamed(report), _doing(report)
    if report.verdict == Verdict.STARVED:
        doing = f"{doing} while other processes had the CPU".strip()
    at = f"at {shown(frame, report.cwd)}" if frame is not None else ""
    said = " ".join(filter(None, [doing, at]))
    return f"{joint}{said}" if said else ""


def _doing(report: Report) -> str:
    evidence = report.evidence
    if report.verdict == Verdict.UNINTERRUPTIBLE:
        return _in_kernel(evidence)
    if evidence is None:
        return ""
    computes = report.verdict in (Verdict.BUSY, Verdict.STARVED)
    if (computes or report.verdict == Verdict.STUCK) and evidence.source == "signal" and evidence.silence:
        return " ".join(filter(None, ["" if computes else _call(report, evidence), HOLDS_LOCK]))
    return "computes" if computes else _call(report, evidence)


def _in_kernel(evidence: Evidence | None) -> str:
    """For a process in uninterruptible sleep; its thread that sleeps so is the one to look at."""
    threads = evidence.kernel if evidence is not None else []
    asleep = next((thread for thread in threads if thread.state == "D"), None)
    call = waiting(asleep.call) if asleep is not None else ""
    wchan = f" ({asleep.wchan})" if asleep is not None and asleep.wchan not in ("", "0") else ""
    said = f", it {call}{wchan}" if call else f", it sleeps in {asleep.wchan}" if asleep is not None and wchan else ""
    return f"the kernel does not let it go{said}"


def _call(report: Report, evidence: Evidence) -> str:
    """What the thread to blame waits for, as far as it is known which thread of the kernel that is."""
    if not evidence.kernel:
        return ""
    stacks, frame = evidence.stacks, _in_stacks(report, evidence)
    for thread in stacks.threads if stacks is not None else []:
        if frame in thread.frames:
            tid = evidence.kernel[0].tid if thread.main else thread.tid
            return waiting(next((known.call for known in evidence.kernel if known.tid == tid), ""))
    return waiting(evidence.kernel[0].call) if frame is None else ""


def _failed_to_start(report: Report) -> str:
    if report.verdict:
        where = _where(report, ", ")
        late = _age(report, ": not ready after {}") or (
            f": {report.reason}" if report.reason else ": not ready in time"
        )
        return f"failed to start ({report.verdict}){late}{where}"
    frame = blamed(report)
    if report.reason:
        return f"failed to start: {report.reason}" + (f" ({place(frame, report.cwd)})" if frame is not None else "")
    return f"failed to start: {how(report.code, report.signal)}{_at(report)}"


def _crashed(report: Report) -> str:
    frame = blamed(report)
    if report.signal is not None:
        deep = ": endless recursion used up its stack" if recurses(report.trace) else ""
        name = signal_name(report.signal) if deep else how(None, report.signal)
        return f"crashed: {name}{deep}{_at(report)}"
    if report.reason:
        where = f"{place(frame, report.cwd)}, " if frame is not None else ""
        return f"crashed: {report.reason} ({where}{how(report.code, None)})"
    raised = last_error(report.trace)
    if raised:
        return f"crashed with exit code {report.code}: {raised}{_at(report)}"
    return _left(report.code)


def last_error(trace: str) -> str:
    """The last line of a traceback, such as `ValueError: no such price`; "" where there is none."""
    if "Traceback (most recent call last)" not in trace:
        return ""
    lines = trace.rstrip().splitlines()
    ends = [line for number, line in enumerate(lines) if line[:1].isalpha() and lines[number - 1][:2] == "  "]
    return ends[-1] if ends else ""


def _left(code: int | None) -> str:
    if code is None:
        return f"ended: {UNKNOWN}"
    about = _CODES.get(code) or _by_shell(code)
    return f"exited with code {code} by itself" + (f" ({about})" if about else "")


def _at(report: Report) -> str:
    frame = blamed(report)
    return f" at {shown(frame, report.cwd)}" if frame is not None else ""


def _out_of_memory(report: Report) -> str:
    size = report.pss or report.rss
    had = f"; it had {volume(size)} when it was heard last" if size else ""
    return f"out of memory: the kernel ended it with {signal_name(report.signal or signals.SIGKILL)}{had}"


def _from_outside(report: Report) -> str:
    if report.signal is None and report.code is not None and report.reason:
        return f"killed from outside: {report.reason}; bkd did not send it"
    if report.signal is None:
        return f"ended, and nobody saw how{f' ({how(report.code, None)})' if report.code is not None else ''}"
    return f"killed from outside: {signal_name(report.signal)}; bkd did not send it"


def _planned(report: Report) -> str:
    """Also what an operator has asked for with a signal."""
    reason = f": {report.reason}" if report.reason else ""
    if report.sender and not report.sender.startswith("bkd"):
        return f"ended on request{reason}: {how(report.code, report.signal)}, sent by {report.sender}"
    kind = "recycled" if _WORN.search(report.reason) else "ended"
    at_once = " at once" in report.sender
    slow = "; it got SIGKILL at once" if at_once else "; it did not end in time and got SIGKILL"
    forced = slow if report.signal == signals.SIGKILL else ""
    return f"{kind} as planned{reason}{forced}"
