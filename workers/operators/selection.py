"""Which messages a command means: what was said on the command line, as a filter. Pure."""

from typing import Any

import msgspec

from ...ipc.durable.model import ENDS, Dead, Fault, State
from ...ipc.errors import BkdError
from ..store.protocol import Filter

GROUPS = {"waiting": (State.QUEUED, State.RETRY_SCHEDULED, State.WAITING_REMOTE, State.BLOCKED), "ended": tuple(ENDS)}


class Usage(BkdError):
    """The command cannot mean anything; the text says what to write instead."""


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As it is written: `ids` are numbers or guids; `where` pairs of a path and a JSON value; `older` and `newer` in
    seconds; `over`: more runs than that."""

    ids: list[str] = []
    states: list[str] = []
    kinds: list[str] = []
    where: list[tuple[str, Any]] = []
    error: str = ""
    reason: str = ""
    older: float = 0.0
    newer: float = 0.0
    over: int = -1

    @property
    def is_everything(self) -> bool:
        """Whether nothing was said."""
        return self == Selection()


def named(ids: list[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The numbers among them, and the guids; raises Usage for what is neither."""
    numbers, guids = [], []
    for text in ids:
        if text.isascii() and text.isdigit() and len(text) < 19:
            numbers.append(int(text))
        elif len(text) == 36:
            guids.append(text.lower())
        else:
            raise Usage(f"{text[:40]!r} is no message: give its number, or its guid of 36 characters")
    return tuple(numbers), tuple(guids)


def filter_of(selection: Selection) -> Filter:
    """The filter of it. Raises Usage."""
    numbers, guids = named(selection.ids)
    states: list[State] = []
    for name in selection.states:
        states.extend(GROUPS[name] if name in GROUPS else (_known(name, State, "state"),))
    return Filter(
        ids=numbers,
        guids=guids,
        states=tuple(states),
        kinds=tuple(selection.kinds),
        where=tuple((path, value) for path, value in selection.where),
        fault=_known(selection.error, Fault, "error class") if selection.error else "",
        reason=_known(selection.reason, Dead, "reason") if selection.reason else "",
        older=round(selection.older * 1000),
        newer=round(selection.newer * 1000),
        runs_over=selection.over,
    )


def _known(name: str, names: Any, what: str) -> Any:
    try:
        return names(name)
    except ValueError:
        raise Usage(f"no {what} {name[:40]!r}; there are: {', '.join(names)}") from None
