"""One run of one message: where it stands, and what it comes to."""

from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic, time
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from loguru import logger

from ...ipc.durable.model import MOST_OUTPUT, Fault, Outcome, Result, Task
from ...ipc.durable.wire import Held
from ...ipc.errors import said
from .. import trace
from .declaration import Declaration
from .faults import classed
from .words import Word

if TYPE_CHECKING:
    from loguru import Logger

CANCELLED, TIMEOUT, LOST, STOPPED = "cancelled", "timeout", "lost", "stopped"
MOST_TEXT, MOST_CODE = 2000, 200
MOST_OUTPUTS = 768 * 1024  # of all stages together: a later run gets them in one frame
NULL = b"null"
T = TypeVar("T")
Key = tuple[int, int]
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class ResultError(Exception):
    """What a handler returned cannot be kept; trying again does not help."""


class Run:
    """`key` names its lease. `began` (monotonic, 0: it waits) is when it was taken up, `started` (ms of UTC, 0: it has
    not been) when the handler was called. `why` it is to end, "" while it is not; `is_over` when it has.

    `stop` interrupts it, as far as it can be. Changed in the thread it runs in, but for `why`.
    """

    __slots__ = (
        "_called",
        "_told",
        "began",
        "declaration",
        "is_over",
        "key",
        "lock",
        "outputs",
        "stage",
        "started",
        "stop",
        "task",
        "why",
    )

    def __init__(self, task: Task, declaration: Declaration) -> None:
        self.task, self.declaration = task, declaration
        self.key: Key = (task.id, task.fence)
        self.began = self._called = self._told = 0.0
        self.started = 0
        self.why = self.lock = ""
        self.is_over = False
        self.stop: Callable[[], object] | None = None
        self.stage = min(task.stage, len(declaration.stages) - 1)
        self.outputs = task.outputs

    @property
    def held(self) -> Held:
        """Its lease."""
        return Held(*self.key)

    @property
    def name(self) -> str:
        """What its thread or task is called while it runs."""
        return f"{self.task.kind} {self.task.id}"

    @property
    def stage_name(self) -> str:
        """Of the stage it is in."""
        return self.declaration.stages[self.stage]

    @property
    def log(self) -> "Logger":
        """A logger whose records say which run it is."""
        task = self.task
        return logger.bind(handler=task.kind, message=task.id, attempt=task.counters.attempts)

    def decoded_outputs(self) -> dict[str, Any]:
        """Of the finished stages, by their names."""
        return {name: _decode(output) for name, output in zip(self.declaration.stages, self.outputs, strict=False)}

    def cancel(self, why: str) -> None:
        """Called in any thread: it is to end, and to say nothing if it is LOST. Else the first reason counts."""
        if self.why and why != LOST:
            return
        self.why = why
        if self.stop is not None:
            self.stop()

    def interruptible(self, stop: Callable[[], object] | None) -> None:
        """From now on it can be interrupted so; at once if that was wanted before."""
        self.stop = stop
        if self.why and stop is not None:
            stop()

    def awaited(self, future: "Future[T]") -> "T":
        """The answer, in a thread that may wait. Raises CancelledError when the run is to end."""
        self.interruptible(future.cancel)
        try:
            return future.result()
        finally:
            self.stop = None

    def may_tell(self, now: float, every: float) -> float:
        """Seconds until it may say how far it is; 0: it does so now."""
        wait = self._told + every - now if self._told else 0.0
        if wait <= 0:
            self._told = now
        return max(0.0, wait)

    def start(self) -> None:
        """The handler is about to be called."""
        self.started, self._called = int(time() * 1000), monotonic()

    def fits(self, output: bytes) -> bytes:
        """The output of a stage. Raises ResultError when a later run could not be given all of them."""
        size = len(output) + sum(map(len, self.outputs))
        if size > MOST_OUTPUTS:
            raise ResultError(
                f"its stages have returned {size:,} bytes of JSON by now, more than {MOST_OUTPUTS:,}: "
                "keep that elsewhere and return where it is"
            )
        return output

    def advance(self, output: bytes) -> None:
        """A stage is finished and its output kept."""
        self.outputs = [*self.outputs, output]
        self.stage += 1

    # -- what it comes to

    def done(self, body: bytes) -> Outcome:
        """The handler has returned from its last stage."""
        return Outcome(*self.key, Result.OK, self.stage, self.started, self._ended(), body)

    def asked(self, word: Word) -> Outcome:
        """It has said one of `words`."""
        fault = Fault.FINAL if word.result in (Result.REJECTED, Result.INVALID) else None
        return self._outcome(word.result, fault, type(word).__name__, word.reason, at=word.at, after=word.after)

    def invalid(self, error: Exception) -> Outcome:
        """Its arguments are not what the function takes."""
        return self._outcome(Result.INVALID, Fault.FINAL, type(error).__name__, str(error))

    def locked(self) -> Outcome:
        """Another run has its lock."""
        return self._outcome(Result.LOCKED, Fault.LOCK, "locked", f"{self.lock} is taken")

    def ended(self) -> Outcome | None:
        """It was to end, and did; None: nobody wants to know."""
        match self.why:
            case "timeout":
                text = f"not done within {self.declaration.policy.timeout:g} s"
                return self._outcome(Result.TIMEOUT, Fault.RETRYABLE, "timeout", text)
            case "cancelled":
                return self._outcome(Result.CANCELLED, None, "cancelled", "cancelled by an operator")
            case "lost":
                return None
            case _:
                return self._outcome(Result.INTERRUPTED, None, "interrupted", "the executor was told to end")

    def failed(self, error: BaseException) -> Outcome | None:
        """It raised this. What a run raises that was to end anyway is not held against it."""
        if self.why:
            return self.ended()
        if isinstance(error, Word):
            return self.asked(error)
        try:
            return self._error(error)
        except BaseException as second:  # noqa: BLE001 - an error that cannot be told is the application's code, too
            return self._outcome(
                Result.ERROR, Fault.RETRYABLE, "untold", f"telling it raised a {type(second).__name__}"
            )

    def _error(self, error: BaseException) -> Outcome:
        fault = Fault.FINAL if isinstance(error, ResultError) else classed(error, self.declaration.classify)
        result = Result.LOCKED if fault is Fault.LOCK else Result.ERROR
        text = said(error).partition(": ")[2]
        return self._outcome(result, fault, type(error).__name__, text, stack=trace.told(error))

    def _ended(self) -> int:
        return self.started + int((monotonic() - self._called) * 1000) if self.started else 0

    def _outcome(
        self,
        result: Result,
        fault: Fault | None,
        code: str,
        text: str,
        *,
        stack: str = "",
        at: int = 0,
        after: int = -1,
    ) -> Outcome:
        return Outcome(
            *self.key,
            result,
            self.stage,
            self.started,
            self._ended(),
            fault=fault,
            code=code[:MOST_CODE],
            text=_sendable(text)[:MOST_TEXT],
            stack=stack,
            at=at,
            after=after,
        )


def encoded(value: Any) -> bytes:
    """What a handler returned, as it is kept. Raises ResultError, and a Word that was returned."""
    if value is None:
        return NULL
    if isinstance(value, Word):
        raise value
    try:
        body = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ResultError(f"what it returned cannot be kept as JSON: {error}") from error
    if len(body) > MOST_OUTPUT:
        raise ResultError(
            f"what it returned is {len(body):,} bytes of JSON, more than {MOST_OUTPUT:,}: "
            "keep it elsewhere and return where it is"
        )
    return body


def _sendable(text: str) -> str:
    """Texts of errors may hold lone surrogates, which no message can."""
    return text.encode(errors="backslashreplace").decode()
