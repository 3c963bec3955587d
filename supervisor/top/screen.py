"""The picture of a state, line by line, as rich texts; none is wider than the terminal. Pure."""

from typing import Any

from rich.cells import cell_len
from rich.text import Text

from ...ipc.quantity import counted
from . import figures
from .columns import Place, layout
from .figures import cut, plain
from .model import LEAST_HEIGHT, LEAST_WIDTH, Line, Pane, State, chosen, lines, names, silence

STYLES = {
    "ready": "green",
    "starting": "yellow",
    "draining": "cyan",
    "backoff": "red",
    "failed": "bold red",
    "held": "magenta",
    "done": "dim",
}
BAD, TITLE, HEAD, QUIET, ASKING = "bold red", "bold", "bold", "dim", "bold yellow"
BAR = 8

LIST_KEYS = ["r/R restart", "d dump", "w why", "l logs", "h hold", "x reset", "e events", "/ filter"]
PANE_KEYS = ["↑↓ PgUp PgDn Home End scroll"]
LAST_KEYS = ["? help", "q quit"]


def frame(state: State, now: float) -> list[Text]:
    """At most as many lines as the terminal has; `now` is monotonic."""
    if state.is_too_small:
        size = f"{state.width}x{state.height}"
        return [_line(f"bkd top needs {LEAST_WIDTH}x{LEAST_HEIGHT}, this is {size}", state.width)]
    title = _title(state.document, state.width)
    body = _list(state) if state.pane is None else _pane(state.pane, state.width, state.body)
    body += [Text("")] * (state.body - len(body))
    return [title, *body, *_bottom(state, now)]


def picture(document: dict[str, Any], width: int) -> list[Text]:
    """The whole list at once, nothing selected."""
    whole = lines(document)
    places = layout(_workers(whole), width - 1)
    return [_title(document, width), _heads(places), *(_row(line, places, width, is_chosen=False) for line in whole)]


def _line(text: str, width: int, style: str = "") -> Text:
    return Text(cut(text, width), style=style, no_wrap=True)


def _title(document: dict[str, Any] | None, width: int) -> Text:
    if document is None:
        return _line("waiting for the master", width, TITLE)
    up, bus = figures.span(document["uptime"]), document["bus"]
    text = plain(
        f"{document['app']} {document['state']} for {up} on {document['host']}"
        f"  keeper {document['keeper_pid']}  master {document['master_pid']}  bus {bus['url']}"
    )
    return _line(f"{text} is not connected", width, BAD) if not bus["connected"] else _line(text, width, TITLE)


# -- the list


def _list(state: State) -> list[Text]:
    """Heads of columns, then the part of the list that is in sight; the group of its first slot is always named."""
    whole = lines(state.document, state.sought)
    places = layout(_workers(lines(state.document)), state.width - 1)
    shown = whole[state.top : state.top + state.body - 1]
    if shown and not shown[0].is_head:
        shown[0] = Line(shown[0].group)
    if not names(state) and state.document is not None:
        shown = [*shown, Line({}, note="there are no slots" if not state.sought else "no slot of that name")]
    is_chosen = [line.worker is not None and line.worker["name"] == state.selected for line in shown]
    rows = [_row(line, places, state.width, is_chosen=one) for line, one in zip(shown, is_chosen, strict=True)]
    return [_heads(places), *rows[: state.body - 1]]


def _workers(whole: list[Line]) -> list[dict[str, Any]]:
    return [line.worker for line in whole if line.worker]


def _heads(places: list[Place]) -> Text:
    row = Text(" ", style=QUIET, no_wrap=True)
    for number, place in enumerate(places):
        gap, behind = " " if number else "", place.room + 1 if place.line and place.room else 0
        row.append(gap + _aligned(place, place.column.title) + " " * behind)
    row.rstrip()
    return row


def _row(line: Line, places: list[Place], width: int, *, is_chosen: bool) -> Text:
    if line.note:
        return _line(f"  ! {plain(line.note)}", width, "yellow")
    return _head(line.group, width) if line.worker is None else _slot(line.worker, places, width, is_chosen=is_chosen)


def _slot(worker: dict[str, Any], places: list[Place], width: int, *, is_chosen: bool) -> Text:
    row = Text(">" if is_chosen else " ", style="reverse" if is_chosen else "", no_wrap=True)
    history = worker.get("history") or {}
    for number, place in enumerate(places):
        gap = " " if number else ""
        row.append(gap + _aligned(place, place.column.cell(worker)), _style(place, worker))
        if place.line and place.room:
            row.append(f" {place.line(history, place.room)}", "blue")
    row.append(" " * max(0, width - row.cell_len) if is_chosen else "")
    if not is_chosen:
        row.rstrip()
    return row


def _aligned(place: Place, text: str) -> str:
    text = figures.cut_name(text, place.width)
    gap = " " * (place.width - cell_len(text))
    return gap + text if place.column.is_right else text + gap


def _style(place: Place, worker: dict[str, Any]) -> str:
    if place.column.title == "STATE":
        return BAD if worker["verdict"] not in (None, "ok") else STYLES.get(worker["state"], "")
    return QUIET if place.column.title == "LAST EXIT" else ""


def _head(group: dict[str, Any], width: int) -> Text:
    """Name, kind, how many are ready, the release, and what goes on."""
    head = Text(plain(group["name"]), style=HEAD, no_wrap=True)
    head.append(f" ({group['kind']})  ", "not bold")
    is_whole = group["ready"] >= group["count"]
    head.append(f"{group['ready']}/{group['count']} ready", "green" if is_whole else "yellow")
    head.append(f"  release {group['release']}", "not bold")
    if group["roll"]:
        head.append(f"  {_roll(group['roll'])}", "cyan")
    if group["breaker"] != "closed":
        head.append("  breaker open", BAD)
    if group["bind"]:
        head.append(f"  {plain(' '.join(group['bind']))}", "not bold dim")
    if head.cell_len > width:
        head.truncate(width, overflow="ellipsis")
    return head


def _roll(roll: dict[str, Any]) -> str:
    done, whole = roll["moved"], roll["count"]
    fault = f": {plain(roll['reason'])}" if roll["reason"] else ""
    return f"-> {roll['release']} {roll['stage']} {figures.progress_bar(done, whole, BAR)} {done}/{whole}{fault}"


# -- a pane


def _pane(pane: Pane, width: int, height: int) -> list[Text]:
    pieces = [piece for line in pane.lines for piece in figures.wrapped(line, width)]
    shown = pieces[pane.top : pane.top + height - 1]
    more = f"  {pane.top + 1}-{pane.top + len(shown)} of {len(pieces)}" if len(pieces) > len(shown) else ""
    title = _line(f"{plain(pane.title)}{more}", width, "reverse")
    return [title, *(Text(piece, no_wrap=True) for piece in shown)]


# -- the bottom


def _bottom(state: State, now: float) -> list[Text]:
    detail = [_line(_detail(state), state.width, QUIET)] if state.pane is None else []
    return [*detail, _status(state, now), _keys(state)]


def _detail(state: State) -> str:
    """What there is no column for, of the selected slot."""
    line = chosen(state)
    if line is None or line.worker is None:
        return ""
    worker, parts = line.worker, list[str]()
    if worker["rss"] is not None:
        parts.append(f"rss {figures.size(worker['rss'])}")
    if worker.get("pss"):
        parts.append(f"pss {figures.size(worker['pss'])}")
    if worker.get("growth_per_request"):
        parts.append(f"+{figures.size(worker['growth_per_request'])} a request")
    if worker.get("limit_in"):
        parts.append(f"limit in {figures.age(worker['limit_in'])}")
    if worker.get("late"):
        parts.append(f"{counted(worker['late'], 'time')} late")
    parts += [f"beside it {other['pid'] or '-'} {other['state']}" for other in worker.get("beside") or ()]
    if worker["last_exit"]:
        why = f": {worker['last_exit']['reason']}" if worker["last_exit"]["reason"] else ""
        parts.append(f"last exit {figures.exit_long(worker['last_exit'])}{why}")
    return plain(f"{worker['name']}: {', '.join(parts) or worker['state']}")


def _status(state: State, now: float) -> Text:
    """What is asked for first, then what is wrong, then how commands go."""
    if state.question is not None:
        return _line(f"{plain(state.question.title)}? y/n", state.width, ASKING)
    if state.is_seeking:
        return _line(f"/{plain(state.sought)}_", state.width, ASKING)
    silent = silence(state, now)
    if silent:
        return _line(plain(silent), state.width, BAD)
    if state.news:
        return _line(plain(state.news), state.width, BAD if state.is_bad_news else "")
    return _line(f"only {plain(state.sought)}" if state.sought else "", state.width)


def _keys(state: State) -> Text:
    if state.question is not None:
        known = ["y yes", "n no"]
    elif state.is_seeking:
        known = ["Enter keep", "Esc all slots"]
    elif state.pane is not None:
        known = [*PANE_KEYS, "q back"]
    else:
        known = list(LIST_KEYS)
        while len(known) > 1 and len(" ".join([*known, *LAST_KEYS])) > state.width:
            del known[-1]
        known += LAST_KEYS
    gap = "  " if len("  ".join(known)) <= state.width else " "
    return _line(gap.join(known), state.width, QUIET)
