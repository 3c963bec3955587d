"""What a handler may know of its message, and say while it runs."""

import asyncio
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ...ipc.durable.wire import PayloadAsked, PayloadPart
from ...ipc.errors import ClosedError

if TYPE_CHECKING:
    from loguru import Logger

    from .run import Run

MOST_PROGRESS = 4096
_encode = msgspec.json.Encoder().encode


class Post(Protocol):
    """The way from a run to the dispatcher; called in whatever thread the run is in."""

    def progress(self, run: "Run", body: bytes) -> None:
        """A word about how far it is."""

    def ask(self, question: Any) -> "Future[Any]":
        """The dispatcher's answer. It comes when there is a dispatcher again, at the latest."""


class Context:
    """Of one run. Given to a handler that has a parameter `context`, or one annotated as Context."""

    def __init__(self, run: "Run", post: Post) -> None:
        self._run, self._task, self._post = run, run.task, post

    @property
    def id(self) -> int:
        """Number of the message in its store."""
        return self._task.id

    @property
    def guid(self) -> str:
        """Made before the message was stored; the same in every run of it, for ever."""
        return self._task.guid

    @property
    def kind(self) -> str:
        """The name under which the handler was declared."""
        return self._task.kind

    @property
    def attempt(self) -> int:
        """1 in the first run; runs that found a lock taken, were snoozed or interrupted do not count."""
        return self._task.counters.attempts

    @property
    def iteration(self) -> int:
        """How many runs have begun before this one, whatever became of them."""
        return self._task.counters.runs - 1

    @property
    def stage(self) -> str:
        """The one to be done now, of those declared."""
        return self._run.stage_name

    @property
    def outputs(self) -> dict[str, Any]:
        """What the finished stages have returned, by their names."""
        return self._run.decoded_outputs()

    @property
    def key(self) -> str:
        """Idempotency key, "" if it has none."""
        return self._task.key

    @property
    def tracking(self) -> str:
        """What it has in common with messages, requests and replies elsewhere, "" if nobody said so."""
        return self._task.tracking_id

    @property
    def parent(self) -> int:
        """Number of the message this one came of, 0 if none."""
        return self._task.parent_id

    @property
    def sender(self) -> str:
        """Who sent it, "" if nobody said so."""
        return self._task.sender

    @property
    def priority(self) -> int:
        """Lower ones run first."""
        return self._task.priority

    @property
    def created(self) -> datetime:
        """When it was stored."""
        return _moment(self._task.created)

    @property
    def due(self) -> datetime:
        """Since when it was to be run."""
        return _moment(self._task.due)

    @property
    def expires(self) -> datetime | None:
        """When the message is of no use any more; None: never."""
        return _moment(self._task.deadline) if self._task.deadline else None

    @property
    def deadline(self) -> datetime | None:
        """When this run will be cancelled for taking too long; None: it may take its time."""
        timeout = self._run.declaration.policy.timeout
        return _moment(self._run.started + round(timeout * 1000)) if timeout else None

    @property
    def cancelled(self) -> bool:
        """Whether this run is to end: it took too long, an operator or a stopping worker wants it. Async handlers are
        interrupted as well; others are not, and had better look from time to time."""
        return bool(self._run.why)

    @property
    def lock(self) -> str:
        """The lock that this run holds, "" for none."""
        return self._run.lock

    @cached_property
    def log(self) -> "Logger":
        """Every record of it carries handler, message and attempt."""
        return self._run.log

    def progress(self, value: Any) -> None:
        """Tell operators how far it is: anything JSON knows, at most once a second; the last one counts. Raises
        ValueError when it is long."""
        body = _encode(value)
        if len(body) > MOST_PROGRESS:
            raise ValueError(f"progress is told in a word, not in {len(body):,} bytes; {MOST_PROGRESS:,} are allowed")
        self._post.progress(self._run, body)

    async def payload(self) -> bytes:
        """What was enqueued beside the arguments, b"" if nothing was."""
        body = bytearray()
        while len(body) < self._task.payload:
            self._add(body, await asyncio.wrap_future(self._ask(len(body))))
        return bytes(body)

    def sync_payload(self) -> bytes:
        """The same for plain functions: it waits."""
        body = bytearray()
        while len(body) < self._task.payload:
            self._add(body, self._run.awaited(self._ask(len(body))))
        return bytes(body)

    def _ask(self, offset: int) -> "Future[PayloadPart]":
        return self._post.ask(PayloadAsked(self._task.id, self._task.fence, offset))

    def _add(self, body: bytearray, part: PayloadPart) -> None:
        body += part.data
        if (part.last or not part.data) and len(body) != self._task.payload:
            raise ClosedError(f"of a payload of {self._task.payload} bytes {len(body)} came")


def _moment(millis: int) -> datetime:
    return datetime.fromtimestamp(millis / 1000, UTC)
