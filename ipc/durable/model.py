"""What a durable message is, and what a run of it may come to. Plain data.

Times are integers: milliseconds of UTC, by the clock of the store. Bodies (`args`, `result`, outputs of stages) are
JSON as bytes.
"""

from enum import StrEnum

import msgspec

SCHEMA = "bkd"  # of a PostgreSQL whose url names no other
MOST_ARGS = 64 * 1024
MOST_PAYLOAD = 10 * 1024 * 1024
MOST_OUTPUT = 64 * 1024
PRIORITY = 50


class State(StrEnum):
    """Whether a message will run. Everything from SUCCEEDED on is an end."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRY_SCHEDULED = "retry_scheduled"
    WAITING_REMOTE = "waiting_remote"
    BLOCKED = "blocked"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    DEAD_LETTER = "dead_letter"
    CANCELLED = "cancelled"


ENDS = frozenset({State.SUCCEEDED, State.PARTIAL, State.DEAD_LETTER, State.CANCELLED})


class Dead(StrEnum):
    """Why a message will never run by itself."""

    REJECTED = "rejected"
    EXHAUSTED = "exhausted"
    EXPIRED = "expired"
    INVALID = "invalid"
    UNROUTABLE = "unroutable"
    POISON = "poison"


class Fault(StrEnum):
    """Classes of errors: they decide what comes next."""

    RETRYABLE = "retryable"
    FINAL = "final"
    LOCK = "lock"
    AUTH = "auth"
    LOST = "lost"


class Conflict(StrEnum):
    """What enqueueing does when a living message has the same `unique` key.

    RETURN: nothing, and gives the other one. REJECT: raises. REPLACE: new arguments for the other one if it waits (if
    it runs: as RETURN). AGAIN: as RETURN if it waits; if it runs, a new one that begins when that has ended.
    """

    RETURN = "return"
    REJECT = "reject"
    REPLACE = "replace"
    AGAIN = "again"


class Routing(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a message comes from and goes to; columns of their own in the store, all optional."""

    direction: str = "task"
    destination: str = ""
    sender: str = ""
    sender_adapter: str = ""
    tenant: str = ""
    created_by: str = ""
    tracking_id: str = ""
    request_id: str = ""
    response_id: str = ""
    reply_to: str = ""
    parent_id: int = 0
    refs: str = ""
    content_type: str = ""
    options: str = ""


class NewMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message to be stored. `delay` in milliseconds from now, or `due` as a moment (the later one counts; 0: now).

    `key`: idempotency key, unique with `routing.sender` for as long as the message is kept; the same key with other
    arguments is refused. `unique`: no other living message of the kind may have it, see `Conflict`. `max_attempts` 0:
    as the kind says. `deadline`: a moment (0: none) after which it is dead (`expired`), or with `on_deadline` "alert"
    only told. `guid` is made by the producer and never changes; "" lets the store make one. `payload`: bytes beside the
    arguments.
    """

    kind: str
    args: bytes = b"{}"
    payload: bytes = b""
    priority: int = PRIORITY
    delay: int = 0
    due: int = 0
    guid: str = ""
    key: str = ""
    unique: str = ""
    conflict: Conflict = Conflict.RETURN
    max_attempts: int = 0
    deadline: int = 0
    on_deadline: str = "expire"
    notify: str = ""
    routing: Routing = Routing()


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of an enqueued message. `created`: it is a new one; else `id` and `state` are those of the one that
    was there. `refused`: why it was not stored at all (id is 0, or the one in the way)."""

    id: int = 0
    guid: str = ""
    created: bool = True
    state: State = State.QUEUED
    refused: str = ""


class Counters(msgspec.Struct, frozen=True, array_like=True):
    """How often a message was tried. `runs` only grows: every run that began, whatever became of it. `attempts`: runs
    that count against the limit (back to 0 when an operator retries it); `crashes`: runs that ended with their process;
    `locks`: runs that found their lock taken; `polls` and `auths`: runs that only asked for a result, or found no
    session."""

    runs: int = 0
    attempts: int = 0
    crashes: int = 0
    locks: int = 0
    polls: int = 0
    auths: int = 0


class Task(msgspec.Struct, frozen=True, array_like=True):
    """A message in the hands of a host, to be run once. `fence` is the number of this lease: it only grows, and every
    write names it. `counters` count this run already. `outputs`: one of each finished stage. `payload`: its size in
    bytes. `holder`: the executor it was claimed for, by its number in the store. `leased`: when it was claimed."""

    id: int
    fence: int
    kind: str
    args: bytes
    counters: Counters
    guid: str
    stage: int = 0
    outputs: list[bytes] = []
    priority: int = PRIORITY
    created: int = 0
    due: int = 0
    leased: int = 0
    deadline: int = 0
    key: str = ""
    max_attempts: int = 0
    notify: str = ""
    payload: int = 0
    tracking_id: str = ""
    parent_id: int = 0
    sender: str = ""
    holder: int = 0


class Result(StrEnum):
    """What one run came to, as the attempt is recorded."""

    OK = "ok"
    PARTIAL = "partial"
    ERROR = "error"
    RETRY = "retry"
    REJECTED = "rejected"
    SNOOZED = "snoozed"
    LOCKED = "locked"
    INVALID = "invalid"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    LOST = "lost"


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What an executor, or its death, says of one run: nothing is decided yet.

    `started` and `ended`: when the handler ran (0: it never did). `at` or `after` (ms): when it wants to be run again.
    `code`: type of the exception or another short word; `stack` may be long. `stage`: the one it was in.
    """

    id: int
    fence: int
    result: Result
    stage: int = 0
    started: int = 0
    ended: int = 0
    body: bytes = b""
    fault: Fault | None = None
    code: str = ""
    text: str = ""
    stack: str = ""
    at: int = 0
    after: int = -1


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One run as it is kept. `worker` is a slot and its host, such as `jobs.1@h1`; `signal` the one it died of."""

    message: int
    fence: int
    number: int
    stage: int
    worker: str
    pid: int
    started: int
    ended: int
    result: Result
    fault: str = ""
    code: str = ""
    text: str = ""
    stack: str = ""
    late: str = ""


class Notice(msgspec.Struct, frozen=True):
    """A notification to be stored with what caused it; at most one of each `dedup`."""

    to: str
    subject: str
    text: str
    dedup: str


class Settlement(msgspec.Struct, frozen=True):
    """What is to be written of a running message, if (`id`, `fence`) still holds it: one transaction, all or nothing.

    `state`: an end, or QUEUED, RETRY_SCHEDULED, WAITING_REMOTE (these with `due`), BLOCKED. `reason`: of a dead letter
    (a `Dead`), or of being blocked. `attempt` None: the run never began, nothing is recorded. `late`: who says it does
    not hold that lease, so that it changes nothing even if the lease is there.
    """

    id: int
    fence: int
    state: State
    counters: Counters
    stage: int = 0
    due: int = 0
    reason: str = ""
    result: bytes = b""
    attempt: Attempt | None = None
    notice: Notice | None = None
    late: bool = False
