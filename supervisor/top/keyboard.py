"""What a key means: a key and a state give the next state, and what is to be done besides. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from .model import Order, State, chosen, moved, opened, settled

FAR = 1 << 30
ASKING = "asking …"
HELP = """\
↑ ↓  k j          select a slot, or scroll a pane
PgUp PgDn         a page of it
Home End          to its begin or end; at the end a log is followed

r                 restart the slot: a fresh worker of the same release
R                 restart its group: a rolling restart onto the code on disk
h                 hold the slot (nobody watches or replaces it), or give it back
x                 forget the slot's back-off and failures, and try it again

d                 what the worker is doing now: threads, tasks, requests
w                 why the last workers of the slot ended
l                 what the slot prints
e                 what the supervisor did, and why
a                 the last answer once more

/                 only slots whose names contain what is typed
q  Esc            back, or leave;  Ctrl-L draws everything anew

REL release · RST restarts · MEM proportional memory where it is known, else
resident · FLY requests or messages in flight · LAG how late the event loop is.
The bars are the last minute, two seconds each.""".splitlines()


@dataclass(frozen=True)
class Quit:
    """Leave."""


@dataclass(frozen=True)
class Redraw:
    """Draw everything anew."""


@dataclass(frozen=True)
class Tail:
    """Fill a pane with what is written: the log of the slot `name`, or the journal when that is ""."""

    source: int
    name: str = ""


Deed = Order | Quit | Redraw | Tail | None
Next = tuple[State, Deed]


def press(state: State, key: str) -> Next:
    """One key, called as `keys.Decoder` calls it."""
    if key == "^L":
        return state, Redraw()
    if state.question is not None:
        return _answer(state, state.question, key)
    if state.is_seeking:
        return _seek(state, key), None
    page = max(1, state.body - 2)
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -page, "pgdn": page, "home": -FAR, "end": FAR}
    if key in steps:
        return moved(state, steps[key]), None
    if key in ("q", "esc"):
        return _back(state)
    if state.pane is not None or key not in KEYS:
        return state, None
    return KEYS[key](state)


def _answer(state: State, question: Order, key: str) -> Next:
    if key in ("y", "Y"):
        return replace(state, question=None, news=f"{question.title}: asked for", is_bad_news=False), question
    return (replace(state, question=None), None) if key in ("n", "N", "q", "esc") else (state, None)


def _seek(state: State, key: str) -> State:
    if key == "esc":
        return settled(replace(state, is_seeking=False, sought=""))
    if key == "enter":
        return replace(state, is_seeking=False)
    if key == "backspace":
        return settled(replace(state, sought=state.sought[:-1]))
    return settled(replace(state, sought=state.sought + key)) if len(key) == 1 else state


def _back(state: State) -> Next:
    """The pane first, then the filter, then the terminal."""
    if state.pane is not None:
        return settled(replace(state, pane=None)), None
    if state.sought:
        return settled(replace(state, sought="")), None
    return state, Quit()


def _restart_slot(state: State) -> Next:
    line = chosen(state)
    return _ask_first(state, line.worker["name"]) if line and line.worker else (state, None)


def _restart_group(state: State) -> Next:
    line = chosen(state)
    return _ask_first(state, line.group["name"]) if line else (state, None)


def _ask_first(state: State, name: str) -> Next:
    source = state.sources + 1
    return replace(state, sources=source, question=Order("restart", name, source, {"names": [name]})), None


def _hold(state: State) -> Next:
    line = chosen(state)
    is_held = line is not None and line.worker is not None and line.worker["state"] == "held"
    return _order(state, "unhold" if is_held else "hold")


def _reset(state: State) -> Next:
    return _order(state, "reset")


def _order(state: State, verb: str) -> Next:
    """Something the answer to which is one line."""
    line = chosen(state)
    if line is None or line.worker is None:
        return state, None
    source, name = state.sources + 1, line.worker["name"]
    return replace(state, sources=source), Order(verb, name, source, {"name": name})


def _dump(state: State) -> Next:
    return _inquire(state, "dump")


def _why(state: State) -> Next:
    return _inquire(state, "why")


def _inquire(state: State, verb: str) -> Next:
    """Something the answer to which is a page."""
    line = chosen(state)
    if line is None or line.worker is None:
        return state, None
    name = line.worker["name"]
    state = opened(state, f"{verb} {name}", [ASKING])
    return state, Order(verb, name, state.sources, {"name": name})


def _logs(state: State) -> Next:
    line = chosen(state)
    if line is None or line.worker is None:
        return state, None
    name = line.worker["name"]
    state = opened(state, f"logs -f {name}", grows=True)
    return state, Tail(state.sources, name)


def _events(state: State) -> Next:
    state = opened(state, "events -f", grows=True)
    return state, Tail(state.sources)


def _help(state: State) -> Next:
    return opened(state, "keys", HELP), None


def _again(state: State) -> Next:
    if state.answer is None:
        return replace(state, news="there is no answer yet", is_bad_news=False), None
    return settled(replace(state, pane=state.answer)), None


def _filter(state: State) -> Next:
    return replace(state, is_seeking=True), None


KEYS: dict[str, Callable[[State], Next]] = {
    "r": _restart_slot,
    "R": _restart_group,
    "h": _hold,
    "x": _reset,
    "d": _dump,
    "w": _why,
    "l": _logs,
    "e": _events,
    "a": _again,
    "?": _help,
    "/": _filter,
}
