"""Why a message is not running, or how it came to its end: in sentences. Pure."""

from typing import NamedTuple

from ...ipc.durable.model import Dead, State
from ...ipc.durable.policy import KindPolicy
from ...ipc.quantity import counted
from ...ipc.units import format_duration
from ..store.protocol import Control, Row, Story, Tally
from .documents import stage, when
from .pages import clean, paused, tried

ENDED = {
    Dead.EXHAUSTED: "it was tried as often as it may be",
    Dead.REJECTED: "it was refused for good",
    Dead.INVALID: "its arguments are not what the handler takes",
    Dead.EXPIRED: "its deadline passed before it was done",
    Dead.POISON: "it ended the process that ran it, again and again",
    Dead.UNROUTABLE: "nobody knows where it is to go",
}


class Surroundings(NamedTuple):
    """What a message is seen against: policies by kind, the moment in ms of UTC, and of its kind the numbers and what
    operators have said."""

    policies: dict[str, KindPolicy]
    now: int
    tally: Tally | None = None
    control: Control | None = None


def explain(told: Story, around: Surroundings) -> list[str]:
    """The first line says it; the others are what it rests on, and what can be done."""
    row, now = told.row, around.now
    match row.state:
        case State.RUNNING:
            return _running(row, now)
        case State.SUCCEEDED | State.PARTIAL:
            return [f"it has {row.state}: {_ago(row.finished, now)}, in run {row.counters.runs}"]
        case State.CANCELLED:
            by = [deed for deed in told.deeds if deed.verb == "cancel"]
            return [f"it was cancelled{f' by {by[-1].actor}' if by else ''}, {_ago(row.finished, now)}"]
        case State.DEAD_LETTER:
            return _dead(told, now)
        case State.BLOCKED:
            return [f"it is blocked: {row.reason or 'nobody said why'}"]
        case _:
            return _waiting(told, around)


def _running(row: Row, now: int) -> list[str]:
    lines = [f"it is running on {row.worker or 'a worker that is not known'} since {_ago(row.leased, now)}"]
    if row.cancelling:
        lines.append("it was asked to end")
    if row.progress:
        lines.append(f"it said: {clean(row.progress, 200)}")
    return lines


def _dead(told: Story, now: int) -> list[str]:
    row = told.row
    lines = [f"it will not run again by itself ({row.reason}): {_meaning(row.reason)}, {_ago(row.finished, now)}"]
    if row.error:
        lines.append(f"the last error: {clean(row.error.encode(errors='replace'), 500)}")
    lines.append(f"it ran {_times(row.counters.runs)}{_crashes(row.counters.crashes)}")
    lines.append(f"`bkd message show {row.id}` has every attempt, `bkd message retry {row.id}` runs it again")
    return lines


def _times(runs: int) -> str:
    return "once" if runs == 1 else f"{runs} times"


def _crashes(number: int) -> str:
    return f"; {counted(number, 'run')} ended its process" if number else ""


def _meaning(reason: str) -> str:
    try:
        return ENDED[Dead(reason)]
    except ValueError:
        return reason or "nobody said why"


def _waiting(told: Story, around: Surroundings) -> list[str]:
    row, (policies, now, tally, control) = told.row, around
    lines = []
    if row.due > now:
        lines.append(f"it is not due: {when(row.due)}, in {_span(row.due - now)}{_why_later(row, policies)}")
    if tally is not None and tally.paused:
        lines.append(f"{row.kind} is {paused(control, now)}; `bkd message resume {row.kind}` goes on")
    if tally is not None and not tally.handled:
        lines.append(f"no living host has a handler for {row.kind}: is a group with it running? is the release out?")
    running = tally.states.get(State.RUNNING, 0) if tally is not None else 0
    if tally is not None and tally.max_running and running >= tally.max_running:
        lines.append(f"{running} of {row.kind} run already, and no more than {tally.max_running} may")
    if not lines:
        ahead = tally.states.get(State.QUEUED, 0) if tally is not None else 0
        others = f"; {ahead} of its kind are queued" if ahead > 1 else ""
        lines.append(f"it is due since {_ago(row.due or row.created, now)} and waits for a free executor{others}")
    if row.error:
        lines.append(f"its last run ended with: {clean(row.error.encode(errors='replace'), 500)}")
    return lines


def _why_later(row: Row, policies: dict[str, KindPolicy]) -> str:
    if row.state != State.RETRY_SCHEDULED:
        return ""
    were = "was" if row.counters.attempts == 1 else "were"
    return f"; {tried(row, policies)} in stage {stage(row, policies)} {were} not enough"


def _ago(moment: int, now: int) -> str:
    return f"{_span(max(0, now - moment))} ago" if moment else "at a time that is not known"


def _span(milliseconds: int) -> str:
    return format_duration(milliseconds / 1000, rough=True)
