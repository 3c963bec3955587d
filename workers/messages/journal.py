"""What the log of a worker says of its runs. Arguments only at level TRACE, and what went well at DEBUG."""

import os
import sys
from typing import TYPE_CHECKING

from loguru import logger

from ...ipc.durable.model import Outcome, Result
from .run import Run

if TYPE_CHECKING:
    from loguru import Record

DEFAULT_SINK = 0
LEVEL = "LOGURU_LEVEL"
FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <8} "
FAILURES = {Result.ERROR, Result.TIMEOUT, Result.REJECTED, Result.INVALID}


class Journal:
    """`begins` and `ended` cost next to nothing below the level LOGURU_LEVEL (INFO)."""

    def __init__(self) -> None:
        name = os.environ.get(LEVEL, "INFO").upper()
        known = name in ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
        self.level = name if known else "INFO"
        number = logger.level(self.level).no
        self.traces, self.debugs = number <= logger.level("TRACE").no, number <= logger.level("DEBUG").no

    def open(self) -> None:
        """Called in the worker. An application that has configured loguru itself keeps what it has."""
        try:
            logger.remove(DEFAULT_SINK)
        except ValueError:
            return
        logger.add(sys.stderr, format=_line, level=self.level, diagnose=False, backtrace=False)

    def begins(self, run: Run) -> None:
        """Its handler is about to be called, if its arguments are good."""
        if self.traces:
            run.log.trace("begins: {}", run.task.args.decode(errors="backslashreplace"))

    def ended(self, run: Run, outcome: Outcome | None) -> None:
        """What it came to."""
        if outcome is not None and outcome.result is Result.OK and not self.debugs:
            return
        if outcome is None:
            run.log.warning("ended, but was lost meanwhile")
        elif outcome.result in FAILURES:
            run.log.error("{}", _failure(outcome))
        elif self.debugs:
            seconds = (outcome.ended - outcome.started) / 1000
            run.log.debug("{} after {:.3f} s{}", outcome.result, seconds, f": {outcome.text}" if outcome.text else "")


def _failure(outcome: Outcome) -> str:
    words = dict.fromkeys([outcome.result.value, outcome.code, outcome.text])
    headline = ": ".join(filter(None, words))
    return f"{headline}\n{outcome.stack.rstrip()}" if outcome.stack else headline


def _line(record: "Record") -> str:
    """Format of one record: with handler, message and attempt if it has them."""
    said = "{extra[handler]} {extra[message]} #{extra[attempt]} " if "handler" in record["extra"] else "{name}: "
    return FORMAT + said + "{message}\n{exception}"
