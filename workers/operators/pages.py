"""Messages as text for a terminal. Pure."""

from collections.abc import Iterable, Sequence

from ...ipc.durable.model import Attempt, State
from ...ipc.durable.policy import KindPolicy
from ...ipc.quantity import counted
from ...ipc.units import format_duration
from ..store.protocol import Control, Row, Story, Tally
from .documents import most_attempts, stage, when

SHOWN = (
    State.QUEUED,
    State.RUNNING,
    State.RETRY_SCHEDULED,
    State.WAITING_REMOTE,
    State.BLOCKED,
    State.SUCCEEDED,
    State.PARTIAL,
    State.DEAD_LETTER,
    State.CANCELLED,
)
SHORT = {State.RETRY_SCHEDULED: "RETRY", State.WAITING_REMOTE: "REMOTE", State.DEAD_LETTER: "DEAD"}


def columns(header: Sequence[str], rows: Iterable[Sequence[str]], width: int = 0) -> str:
    """Lines with each column as wide as it has to be, the last one cut at `width` (0: never)."""
    lines = [header, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    text = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    return "".join((line[: width - 1] + "…" if width and len(line) > width else line) + "\n" for line in text)


def listing(rows: list[Row], policies: dict[str, KindPolicy], now: int, width: int) -> str:
    """A line for each message."""
    if not rows:
        return "no messages\n"
    header = ("ID", "KIND", "STATE", "STAGE", "RUNS", "AGE", "NEXT", "ARGS")
    return columns(header, [_line(row, policies, now) for row in rows], width)


def loops(rows: list[Row], policies: dict[str, KindPolicy], now: int, width: int) -> str:
    """A line for each message that is run over and over."""
    if not rows:
        return "no loops\n"
    header = ("ID", "KIND", "RUNS", "STATE", "NEXT", "ARGS", "LAST ERROR")
    lines = [
        (str(row.id), row.kind, str(row.counters.runs), row.state, _next(row, now), clean(row.args), _error(row))
        for row in rows
    ]
    return columns(header, lines, width)


def stats(tallies: list[Tally], controls: dict[str, Control], now: int, width: int) -> str:
    """A line for each kind; only the states that any message is in."""
    if not tallies:
        return "no messages yet\n"
    states = [state for state in SHOWN if state in SHOWN[:2] or any(tally.states.get(state) for tally in tallies)]
    header = ("KIND", *(SHORT.get(state, state.upper()) for state in states), "OLDEST", "")
    rows = [
        (
            tally.kind,
            *(str(tally.states.get(state, 0)) for state in states),
            _oldest(tally),
            _remark(tally, controls.get(tally.kind), now),
        )
        for tally in tallies
    ]
    return columns(header, rows, width)


def page(told: Story, why: list[str], policies: dict[str, KindPolicy], now: int) -> str:
    """Everything about one message."""
    row = told.row
    facts = [
        ("why", why[0]),
        ("guid", row.guid),
        ("stage", f"{stage(row, policies)}{_outputs(told)}"),
        ("tried", f"{tried(row, policies)}, {counted(row.counters.runs, 'run')}{_counters(row)}"),
        ("created", f"{when(row.created)}, {_span(now - row.created)} ago"),
        ("due", when(row.due) if row.due > now else None),
        ("deadline", when(row.deadline)),
        ("args", clean(row.args, 2000)),
        ("payload", f"{row.payload:,} bytes" if row.payload else None),
        ("result", clean(row.result, 2000) if row.result else None),
        ("key", row.key),
        ("unique", row.unique),
        ("tracking", row.tracking_id),
        ("parent", str(row.parent_id) if row.parent_id else None),
        ("locks", ", ".join(told.locks)),
        ("notify", ", ".join(told.notices) or row.notify),
    ]
    head = f"message {row.id} {row.kind}: {row.state}{f' ({row.reason})' if row.reason else ''}\n"
    body = "".join(f"  {name:<9} {text}\n" for name, text in facts if text)
    return head + body + _history(told.attempts, policies.get(row.kind), now) + _deeds(told)


def why(id: int, kind: str, state: str, lines: list[str]) -> str:
    """The explanation of one message."""
    return f"message {id} {kind}: {state}: {lines[0]}\n" + "".join(f"  {line}\n" for line in lines[1:])


def tried(row: Row, policies: dict[str, KindPolicy]) -> str:
    """`2 of 5 attempts`: of its stage."""
    most = most_attempts(row, policies)
    return f"{row.counters.attempts} of {counted(most, 'attempt') if most else '? attempts'}"


def _line(row: Row, policies: dict[str, KindPolicy], now: int) -> tuple[str, ...]:
    state = f"{row.state} ({row.reason})" if row.reason else row.state
    return (
        str(row.id),
        row.kind,
        state,
        stage(row, policies),
        str(row.counters.runs),
        _span(now - row.created),
        _next(row, now),
        clean(row.args),
    )


def _next(row: Row, now: int) -> str:
    if row.state == State.RUNNING:
        return f"on {row.worker}" if row.worker else "running"
    return f"in {_span(row.due - now)}" if row.due > now and row.state not in SHOWN[5:] else "-"


def _counters(row: Row) -> str:
    locks = "found the lock taken"
    some = [(row.counters.crashes, "crash", "crashes"), (row.counters.locks, locks, locks)]
    return "".join(f", {counted(*one)}" for one in some if one[0])


def _outputs(told: Story) -> str:
    return f"; {len(told.outputs)} finished before it" if told.outputs else ""


def _history(attempts: list[Attempt], policy: KindPolicy | None, now: int) -> str:
    if not attempts:
        return ""
    lines = ["  attempts\n"]
    for one in attempts:
        stages = policy.stages if policy is not None else ()
        name = stages[one.stage] if one.stage < len(stages) else str(one.stage)
        took = f", {_span(one.ended - one.started)}" if one.started and one.ended else ""
        late = f"; came late, changed nothing: {one.late}" if one.late else ""
        moment = when(one.started or one.ended)
        lines.append(f"    {one.number}. {moment} {name} on {one.worker}: {one.result}{took}{late}\n")
        if one.text or one.code:
            lines.append(
                f"       {f'{clean(one.code.encode())}: ' if one.code else ''}{clean(one.text.encode(), 500)}\n"
            )
        lines.extend(f"       | {clean(line.encode(errors='replace'), 500)}\n" for line in one.stack.splitlines()[-12:])
    return "".join(lines)


def _deeds(told: Story) -> str:
    if not told.deeds:
        return ""
    lines = (f"    {when(deed.at)} {deed.actor}: {deed.verb} {deed.detail}".rstrip() for deed in told.deeds)
    return "  actions\n" + "".join(f"{line}\n" for line in lines)


def _oldest(tally: Tally) -> str:
    return _span(tally.oldest) if tally.oldest else "-"


def paused(control: Control | None, now: int) -> str:
    """By whom, since when and why."""
    if control is None or not control.at:
        return "paused"
    why = f": {clean(control.reason.encode(), 200)}" if control.reason else ""
    return f"paused by {control.by} {_span(now - control.at)} ago{why}"


def _remark(tally: Tally, control: Control | None, now: int) -> str:
    limit = f"at most {tally.max_running} at once" if tally.max_running else ""
    waits = any(tally.states.get(state) for state in SHOWN[:5])
    unhandled = "no handler on any living host" if waits and not tally.handled else ""
    return "; ".join(part for part in (paused(control, now) if tally.paused else "", limit, unhandled) if part)


def _error(row: Row) -> str:
    return clean(row.error.encode(), 200)


def harmless(text: str) -> str:
    """The same lines, without what a terminal would obey."""
    return text if text.isascii() and text.replace("\n", "").isprintable() else "".join(map(_harmless, text))


def _harmless(letter: str) -> str:
    return letter if letter == "\n" or letter.isprintable() else " "


def clean(body: bytes, most: int = 120) -> str:
    """One line that does nothing to a terminal."""
    text = "".join(c if c.isprintable() else " " for c in body.decode(errors="replace"))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _span(milliseconds: int) -> str:
    return format_duration(max(0, milliseconds) / 1000, rough=True)
