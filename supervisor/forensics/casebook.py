"""The last reports of each slot on the disk: NAME.jsonl of a folder, one report a line, the newest last.

Written by the master alone, in threads; read by anybody of the same user, with or without a cluster. What the disk does
not take is kept in memory and tried again.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from ...ipc.quantity import counted
from ...ipc.stacks import Frame, Stacks
from ..cluster import Cause
from .evidence import Evidence, Report, Sample
from .why import is_name

KEPT, KEPT_PLANNED = 10, 5
LARGEST_FILE, LARGEST_REPORT = 1 << 20, 100 << 10
MOST_WAITING = 100
SUFFIX = ".jsonl"

_SLOT = re.compile(r"[a-z][a-z0-9_-]*\.(?:[0-9]{1,6}|zygote)")
_PLANNED = frozenset({Cause.PLANNED, Cause.FINISHED})
_AMOUNTS = (64, 32, 16, 8, 4, 2, 1)
_TEXT, _TRACE = 64, 512  # characters for each
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Report).decode

Kind = TypeVar("Kind")


class Casebook:
    """Never raises for want of disk: `fault` says what went wrong last, "" when nothing did. `lost`: reports that were
    not written and had no room in memory; `malformed`: lines that were passed over since they are no reports."""

    def __init__(self, folder: Path) -> None:
        self.fault = ""
        self.lost = 0
        self.malformed = 0
        self._folder = folder
        self._waiting: dict[tuple[str, int, int], Report] = {}
        self._lock = threading.Lock()

    @property
    def unwritten(self) -> int:
        """How many reports wait for the disk."""
        return len(self._waiting)

    def write(self, report: Report) -> None:
        """Note this report, in place of an earlier one of the same process. Blocks on the disk; raises ValueError when
        its slot is no name of one."""
        _check(_SLOT.fullmatch(report.slot) is not None, report.slot)
        with self._lock:
            self._keep(trimmed(report))
            self._flush(report.slot)

    def retry(self) -> None:
        """Write what could not be written until now. Blocks on the disk."""
        with self._lock:
            for slot in dict.fromkeys(report.slot for report in self._waiting.values()):
                self._flush(slot)

    def read(self, name: str) -> list[Report]:
        """The last KEPT ends of a slot, or of each slot of a group, newest first. Blocks on the disk; raises ValueError
        when it is no name."""
        _check(is_name(name), name)
        with self._lock:
            slots = [name] if _SLOT.fullmatch(name) else self._slots(name)
            ends = [self._known(slot)[-KEPT:][::-1] for slot in slots]
        return ends[0] if len(ends) == 1 else sorted(chain(*ends), key=lambda report: report.at, reverse=True)

    def _keep(self, report: Report) -> None:
        last = merged([*self._of(report.slot), report])[-1]
        self._waiting.pop(report.key, None)
        self._waiting[report.key] = last
        if len(self._waiting) > MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
            self.lost += 1

    def _flush(self, slot: str) -> None:
        try:
            self._replace(self._path(slot), within(self._merged(slot)))
        except OSError as error:
            self.fault = str(error)
            return
        self.fault = ""
        self._waiting = {key: report for key, report in self._waiting.items() if report.slot != slot}

    def _merged(self, slot: str) -> list[Report]:
        """What the file has and what waits to be written, oldest first; raises OSError when the file cannot be read."""
        return merged([*self._from_disk(slot), *self._of(slot)])

    def _known(self, slot: str) -> list[Report]:
        """The same, as far as it can be had."""
        try:
            return self._merged(slot)
        except OSError as error:
            self.fault = str(error)
            return merged(self._of(slot))

    def _of(self, slot: str) -> list[Report]:
        return [report for report in self._waiting.values() if report.slot == slot]

    def _from_disk(self, slot: str) -> Iterator[Report]:
        for line in self._lines(slot):
            try:
                report = _decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self.malformed += 1
                continue
            if report.slot == slot:
                yield report
            else:
                self.malformed += 1

    def _lines(self, slot: str) -> list[bytes]:
        """The last two LARGEST_FILE of the file, if somebody else has made it longer than it may be."""
        try:
            descriptor = os.open(self._path(slot), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 2 * LARGEST_FILE))
                return [line for line in file.read(2 * LARGEST_FILE).split(b"\n") if line]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _replace(self, path: Path, reports: list[Report]) -> None:
        """Not synced: it has to survive the master's death, not the machine's."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        try:
            with open(draft, "xb", opener=_private) as file:
                file.writelines(_encode(report) + b"\n" for report in reports)
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def _slots(self, group: str) -> list[str]:
        """Those of which something is known."""
        try:
            found = {name.removesuffix(SUFFIX) for name in os.listdir(self._folder) if name.endswith(SUFFIX)}
        except (FileNotFoundError, NotADirectoryError):
            found = set()
        except OSError as error:
            self.fault = str(error)
            found = set()
        found |= {report.slot for report in self._waiting.values()}
        return sorted(name for name in found if _SLOT.fullmatch(name) and name.rpartition(".")[0] == group)

    def _path(self, slot: str) -> Path:
        return self._folder / f"{slot}{SUFFIX}"


def merged(reports: Iterable[Report]) -> list[Report]:
    """One report of each process, at the place of its last one. What was taken while it lived goes into the report of
    its end, whichever comes first: there it is newer than what the end knows of it, and has lines that a slow disk had
    not given before. Pure."""
    found: dict[tuple[str, int, int], Report] = {}
    for report in reports:
        before = found.pop(report.key, None)
        if before is not None and before.ended != report.ended:
            report = _whole(*(before, report) if before.ended else (report, before))
        found[report.key] = report
    return [*found.values()]


def _whole(ended: Report, living: Report) -> Report:
    evidence, age = living.evidence or ended.evidence, ended.age or living.age
    return replace(ended, evidence=evidence, culprit=_culprit(ended, living), age=age)


def _culprit(ended: Report, living: Report) -> Frame | None:
    """The frame that the end speaks for, with its line of source if only the other report has that."""
    frame, other = ended.culprit, living.culprit
    if frame is None or other is None:
        return frame or other
    return other if (frame.file, frame.line) == (other.file, other.line) and not frame.text else frame


def within(reports: list[Report]) -> list[Report]:
    """The last KEPT that were not planned and the last KEPT_PLANNED that were, as far as LARGEST_FILE has room for
    them: planned ends are given up first, the newest of all never. Pure."""
    planned = [report.key for report in reports if report.cause in _PLANNED][-KEPT_PLANNED:]
    others = [report.key for report in reports if report.cause not in _PLANNED][-KEPT:]
    chosen = {*planned, *others}
    kept = [report for report in reports if report.key in chosen]
    sizes = {report.key: len(_encode(report)) + 1 for report in kept}
    for key in [key for key in [*planned, *others] if kept and key != kept[-1].key]:
        if sum(sizes.values()) > LARGEST_FILE:
            del sizes[key]
    return [report for report in kept if report.key in sizes]


def trimmed(report: Report, most: int = LARGEST_REPORT) -> Report:
    """The report in at most `most` bytes of JSON, and nothing in it that JSON cannot hold. What is shortened says so;
    it loses its least useful end: outer calls, early lines. Pure."""
    small = report
    for amount in _AMOUNTS:
        small = _shorter(report, amount)
        if len(_encode(small)) <= most:
            break
    return small


def _shorter(report: Report, amount: int) -> Report:
    """With at most `amount` of whatever is many."""
    small = replace(
        report,
        trace="",
        hints=report.hints[:amount],
        lines=_last(report.lines, amount),
        evidence=_evidence(report.evidence, amount) if report.evidence is not None else None,
    )
    trace = _trace(_sendable(report.trace), amount * _TRACE)
    return replace(_changed(small, lambda text: _text(_sendable(text), amount * _TEXT)), trace=trace)


def _evidence(evidence: Evidence, amount: int) -> Evidence:
    late, stacks = evidence.late, evidence.stacks
    return replace(
        evidence,
        kernel=evidence.kernel[:amount],
        stacks=_stacks(stacks, amount) if stacks is not None else None,
        trend=_spread(evidence.trend, amount),
        late=replace(late, frames=_inner(late.frames, amount)) if late is not None else None,
        lines=_last(evidence.lines, amount),
    )


def _stacks(stacks: Stacks, amount: int) -> Stacks:
    """The main thread is never left out."""
    threads = sorted(stacks.threads, key=lambda thread: not thread.main)
    return Stacks(
        threads=[replace(thread, frames=_inner(thread.frames, amount)) for thread in threads[:amount]],
        tasks=[replace(task, frames=_inner(task.frames, amount)) for task in stacks.tasks[:amount]],
        work=stacks.work[:amount],
        threads_left_out=stacks.threads_left_out + len(threads[amount:]),
        tasks_left_out=stacks.tasks_left_out + len(stacks.tasks[amount:]),
    )


def _inner(frames: list[Frame], amount: int) -> list[Frame]:
    left = len(frames) - amount
    said = f"… {counted(left, 'outer call was', 'outer calls were')} left out"
    return [*frames[:amount], Frame(said, 0, "")] if left > 0 else frames


def _last(lines: list[str], amount: int) -> list[str]:
    left = len(lines) - amount
    return [f"… {counted(left, 'line before was', 'lines before were')} left out", *lines[left:]] if left > 0 else lines


def _spread(trend: list[Sample], amount: int) -> list[Sample]:
    """Its begin and its end, and what lies between at equal distances."""
    if len(trend) <= amount:
        return trend
    step = -(-len(trend) // amount)
    return [*trend[:-1:step], trend[-1]]


def _trace(trace: str, most: int) -> str:
    """Of a traceback the end says most, of faulthandler's stacks the begin."""
    left = len(trace) - most
    if left <= 0:
        return trace
    said = f"… {counted(left, 'character was', 'characters were')} left out here"
    return f"{trace[:most]}\n{said}" if "most recent call first" in trace else f"{said}\n{trace[left:]}"


def _text(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _sendable(text: str) -> str:
    """Names of files may bring lone surrogates, which JSON cannot hold."""
    return text.encode(errors="backslashreplace").decode()


def _changed(value: Kind, change: Callable[[str], str]) -> Kind:
    """The same value with every text in it changed."""
    if isinstance(value, str):
        return change(value)  # type: ignore[return-value]
    if isinstance(value, list):
        return [_changed(item, change) for item in value]  # type: ignore[return-value]
    if isinstance(value, msgspec.Struct):
        fields = {name: _changed(getattr(value, name), change) for name in value.__struct_fields__}
        return replace(value, **fields)
    return value


def _private(path: str, flags: int) -> int:
    """Its lines may hold what an application would not tell everybody."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _check(good: bool, name: str) -> None:
    if not good:
        raise ValueError(f"{name[:100]!r} is no name of a slot")
