"""What `bkd top` shows now: the last document, what is selected, which pane is open. Pure, and knows no terminal."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from .figures import wrapped

LEAST_WIDTH, LEAST_HEIGHT = 60, 10
MOST_LINES = 2000
SILENT = 3.0


class Line(NamedTuple):
    """A line of the list: a group's head (`worker` and `note` missing), what is to be said of it, or a slot."""

    group: dict[str, Any]
    worker: dict[str, Any] | None = None
    note: str = ""

    @property
    def is_head(self) -> bool:
        """Whether it names the group."""
        return self.worker is None and not self.note


@dataclass(frozen=True)
class Pane:
    """Text over the list. `source`: whoever fills it; `grows`: it goes on for ever; `follows`: it stays at its end."""

    title: str
    source: int = 0
    lines: tuple[str, ...] = ()
    top: int = 0
    grows: bool = False
    follows: bool = False


@dataclass(frozen=True)
class Order:
    """A command for the master. Its answer belongs to the pane of this `source`, or to the line of news without one."""

    verb: str
    name: str
    source: int
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """As one would type it."""
        return f"{self.verb} {self.name}"


@dataclass(frozen=True)
class State:
    """Everything that is on the screen. Sizes in cells; `told_at` is when the document came, or was first asked for
    (monotonic), `broken` whether the connection has gone since; `at` and `top` are places in the list; `question` is
    done only when the answer is y; `sources` counts panes and commands.
    """

    width: int = 80
    height: int = 24
    document: dict[str, Any] | None = None
    told_at: float = 0.0
    broken: bool = False
    fault: str = ""
    selected: str = ""
    at: int = 0
    top: int = 0
    sought: str = ""
    is_seeking: bool = False
    question: Order | None = None
    pane: Pane | None = None
    answer: Pane | None = None
    news: str = ""
    is_bad_news: bool = False
    sources: int = 0

    @property
    def is_too_small(self) -> bool:
        """Whether there is no room for the picture."""
        return self.width < LEAST_WIDTH or self.height < LEAST_HEIGHT

    @property
    def body(self) -> int:
        """Lines between the title and what stands at the bottom, the list's column heads among them."""
        return max(1, self.height - 3 - (self.pane is None))


def lines(document: dict[str, Any] | None, sought: str = "") -> list[Line]:
    """The whole list; with `sought` only slots and groups whose names contain it."""
    found: list[Line] = []
    for group in document["groups"] if document else ():
        wanted = [worker for worker in group["workers"] if sought in group["name"] or sought in worker["name"]]
        if wanted or sought in group["name"]:
            found.append(Line(group))
            found += [Line(group, note=str(group["reason"]))] if group["reason"] else []
            found += [Line(group, worker) for worker in wanted]
    return found


def chosen(state: State) -> Line | None:
    """The slot that is selected, None without slots."""
    return next((line for line in _slots(state) if line.worker and line.worker["name"] == state.selected), None)


def names(state: State) -> list[str]:
    """The slots that can be selected, in their order."""
    return [line.worker["name"] for line in _slots(state) if line.worker]


def _slots(state: State) -> list[Line]:
    return [line for line in lines(state.document, state.sought) if line.worker]


def silence(state: State, now: float) -> str:
    """What is wrong with the master, "" when it answers."""
    since = now - state.told_at
    if not state.broken and since < SILENT:
        return ""
    if state.fault:
        return state.fault
    why = "it is being restarted" if state.broken else "it is stopped, or very busy"
    return f"the master does not answer for {max(1, int(since))} s; {why}"


# -- what happens


def told(state: State, document: dict[str, Any], now: float) -> State:
    """The master has answered."""
    return settled(replace(state, document=document, told_at=now, broken=False, fault=""))


def resized(state: State, width: int, height: int) -> State:
    """The terminal has another size now."""
    return settled(replace(state, width=width, height=height))


def moved(state: State, by: int) -> State:
    """Select another slot, or scroll the pane."""
    if state.pane is not None:
        return settled(replace(state, pane=replace(state.pane, top=max(0, state.pane.top + by), follows=False)))
    known = names(state)
    if not known:
        return state
    at = min(len(known) - 1, max(0, state.at + by))
    return settled(replace(state, at=at, selected=known[at]))


def opened(state: State, title: str, text: Iterable[str] = (), *, grows: bool = False) -> State:
    """With a pane of a source of its own; one that grows is at its end."""
    source = state.sources + 1
    pane = Pane(title, source, tuple(text), grows=grows, follows=grows)
    return settled(replace(state, sources=source, pane=pane))


def added(state: State, source: int, more: Iterable[str], *, instead: bool = False) -> State:
    """What a source gives goes into its pane while that is open; `instead` of what it gave before."""
    pane = state.pane
    if pane is None or pane.source != source:
        return state
    text = (*(() if instead else pane.lines), *more)[-MOST_LINES:]
    return settled(replace(state, pane=replace(pane, lines=text)))


def progressed(state: State, line: str) -> State:
    """A command that has no pane tells how far it is."""
    return replace(state, news=line, is_bad_news=False)


def answered(state: State, order: Order, code: int, text: list[str]) -> State:
    """The end of a command: its pane, or else the last line of it as news. What went wrong opens a pane, unless there
    is another one."""
    title = order.title if code == 0 else f"{order.title}: exit code {code}"
    page = Pane(title, lines=tuple(text or ["it said nothing"]))
    state = replace(state, answer=page)
    if state.pane is not None and state.pane.source == order.source:
        return settled(replace(state, pane=page))
    hint = "; a shows the answer" if len(text) > 1 else ""
    news = f"{title}{hint}" if code or not text else text[-1]
    pane = page if code and state.pane is None else state.pane
    return settled(replace(state, news=news, is_bad_news=code != 0, pane=pane))


# -- what follows from it


def settled(state: State) -> State:
    """With a selection that exists, and that is on the screen."""
    if state.pane is not None:
        return replace(state, pane=_scrolled(state.pane, state.width, state.body - 1))
    known = names(state)
    at = known.index(state.selected) if state.selected in known else min(state.at, len(known) - 1)
    state = replace(state, at=max(0, at), selected=known[at] if known else "")
    return replace(state, top=_top(state))


def _scrolled(pane: Pane, width: int, height: int) -> Pane:
    last = max(0, sum(len(wrapped(line, width)) for line in pane.lines) - height)
    follows = pane.follows or (pane.grows and pane.top >= last)
    return replace(pane, top=last if follows else min(pane.top, last), follows=follows)


def _top(state: State) -> int:
    """The first line of the list that is shown: the old one, if the selection stays in sight below a group's head."""
    whole, height = lines(state.document, state.sought), state.body - 1
    place = next((n for n, line in enumerate(whole) if line.worker and line.worker["name"] == state.selected), 0)
    top = min(max(state.top, place - height + 1), max(0, len(whole) - height))
    if 0 < place <= top:
        top = place - 1
        while whole[top].worker is None and not whole[top].is_head:
            top -= 1
    return top
