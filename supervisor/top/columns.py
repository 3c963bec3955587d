"""Which columns of the list there is room for, and how wide they are. Pure."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len

from . import figures

Worker = dict[str, Any]

LEAST_LINE, USUAL_LINE, WIDEST_LINE = 3, 8, 30
LEAST_NAME, LEAST_STATE = 12, 12


class Column(NamedTuple):
    """`least`: not narrower, so that changing figures do not shift the others."""

    title: str
    cell: Callable[[Worker], str]
    least: int = 3
    is_right: bool = True


class Place(NamedTuple):
    """A column that has got its width; `line` draws its last minute in the `room` cells behind it."""

    column: Column
    width: int
    line: Callable[[dict[str, Any], int], str] | None = None
    room: int = 0


NAME = Column("SLOT", lambda worker: figures.plain(worker["name"]), 6, is_right=False)
STATE = Column("STATE", figures.state, 5, is_right=False)
PID = Column("PID", lambda worker: figures.count(worker["pid"]), 5)
RELEASE = Column("REL", lambda worker: figures.count(worker["release"]))
UPTIME = Column("UP", lambda worker: figures.age(worker["uptime"]))
RESTARTS = Column("RST", lambda worker: figures.count(worker["restarts"]))
MEMORY = Column("MEM", lambda worker: figures.size(worker.get("pss") or worker["rss"]), 5)
CPU = Column("CPU", lambda worker: figures.percent(worker["cpu"]), 4)
FLYING = Column("FLY", lambda worker: figures.count(worker["in_flight"]))
LAG = Column("LAG", lambda worker: figures.lag(worker["lag"]), 4)
EXIT = Column("LAST EXIT", lambda worker: figures.exit_brief(worker["last_exit"]), 9, is_right=False)
LONG_EXIT = EXIT._replace(cell=lambda worker: figures.exit_long(worker["last_exit"]))

ALL = (NAME, STATE, PID, RELEASE, UPTIME, RESTARTS, MEMORY, CPU, FLYING, LAG, EXIT)
DISPENSABLE = (RESTARTS, RELEASE, FLYING, UPTIME, EXIT, PID)
LINES = {MEMORY: figures.memory_line, LAG: figures.lag_line}


def layout(workers: Sequence[Worker], width: int) -> list[Place]:
    """The columns that fit into `width` cells, one cell between any two."""
    most = {NAME: max(LEAST_NAME, width // 5), STATE: max(LEAST_STATE, width // 8)}
    widths = {column: min(_natural(column, workers), most.get(column, width)) for column in ALL}
    widths[EXIT] = EXIT.least
    least = LEAST_LINE if any(worker.get("history") for worker in workers) else 0
    for column in DISPENSABLE:
        if _left(widths, width, least) < 0:
            del widths[column]
    if _left(widths, width, least) < 0:
        least = 0
    room = _room(widths, width, least, workers)
    long = EXIT in widths and _left(widths, width, room) >= _natural(LONG_EXIT, workers) - widths[EXIT]
    if EXIT in widths:
        widths[EXIT] += max(0, _left(widths, width, room))
    shown = {column: LONG_EXIT if column == EXIT and long else column for column in widths}
    return [Place(shown[column], widths[column], LINES.get(column), room) for column in widths]


def _room(widths: dict[Column, int], width: int, least: int, workers: Sequence[Worker]) -> int:
    """How wide the two lines are: a few cells, more when brief exits fit beside them, all when long ones do."""
    if not least:
        return 0
    brief, long = (max(0, _natural(column, workers) - EXIT.least) for column in (EXIT, LONG_EXIT))
    spare = _left(widths, width, 0) - 2
    usual = min(USUAL_LINE, max(least, (spare - brief) // 2))
    return min(WIDEST_LINE, max(usual, (spare - long) // 2))


def _natural(column: Column, workers: Sequence[Worker]) -> int:
    return max(column.least, len(column.title), max((cell_len(column.cell(worker)) for worker in workers), default=0))


def _left(widths: dict[Column, int], width: int, room: int) -> int:
    """Cells that nobody has got; the lines have `room` each, and nothing at all when that is 0."""
    lines = len(LINES) * (room + 1) if room else 0
    return width - sum(widths.values()) - len(widths) + 1 - lines
