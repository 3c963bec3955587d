"""What the log of a worker says of its runs. Arguments only at level TRACE, and what went well at DEBUG."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from loguru import logger

from ...ipc.durable.model import Outcome, Result
from .run import Run

if TYPE_CHECKING:
    from loguru import Record

DEFAULT_SINK, STDERR = 0, 2
LEVEL = "LOGURU_LEVEL"
FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <8} "
FAILURES = {Result.ERROR, Result.TIMEOUT, Result.REJECTED, Result.INVALID}


class Journal:
    """`begins` and `ended` cost next to nothing below the level LOGURU_LEVEL (INFO). They never raise, whatever the
    application has done to its log; `unsaid` counts what could not be written."""

    def __init__(self) -> None:
        self.unsaid = 0
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
        logger.add(_to_stderr, format=_line, level=self.level, diagnose=False, backtrace=False)

    def begins(self, run: Run) -> None:
        """Its handler is about to be called, if its arguments are good."""
        if self.traces:
            self._safely(lambda: run.log.trace("begins: {}", run.task.args.decode(errors="backslashreplace")))

    def ended(self, run: Run, outcome: Outcome | None) -> None:
        """What it came to."""
        if outcome is not None and outcome.result is Result.OK and not self.debugs:
            return
        self._safely(lambda: self._tell_end(run, outcome))

    def _safely(self, say: Callable[[], None]) -> None:
        try:
            say()
        except Exception:  # noqa: BLE001 - a run has ended, whether its log can be written or not
            self.unsaid += 1

    def _tell_end(self, run: Run, outcome: Outcome | None) -> None:
        if outcome is None:
            run.log.warning("ended, but was lost meanwhile")
        elif outcome.result in FAILURES:
            run.log.error("{}", _failure(outcome))
        elif self.debugs:
            seconds = (outcome.ended - outcome.started) / 1000
            run.log.debug("{} after {:.3f} s{}", outcome.result, seconds, f": {outcome.text}" if outcome.text else "")


def _to_stderr(line: str) -> None:
    """To what is standard error now; to its descriptor when the application has closed that."""
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except (ValueError, AttributeError):
        os.write(STDERR, line.encode(errors="backslashreplace"))


def _failure(outcome: Outcome) -> str:
    words = dict.fromkeys([outcome.result.value, outcome.code, outcome.text])
    headline = ": ".join(filter(None, words))
    return f"{headline}\n{outcome.stack.rstrip()}" if outcome.stack else headline


def _line(record: "Record") -> str:
    """Format of one record: with handler, message and attempt if it has them."""
    said = "{extra[handler]} {extra[message]} #{extra[attempt]} " if "handler" in record["extra"] else "{name}: "
    return FORMAT + said + "{message}\n{exception}"
