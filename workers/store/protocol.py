"""What a store of messages does: the seam between the dispatcher and SQLite, PostgreSQL or memory.

Calls block, and come from one thread at a time. Each is one transaction: it is done when it returns, or has changed
nothing when it raises. `now` is in milliseconds of UTC; whoever calls keeps it close to `clock()`. Stores decide
nothing about retries: they get `Settlement`s.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ...ipc.durable.model import Attempt, Counters, NewMessage, Receipt, Settlement, State, Task
from ...ipc.durable.policy import KindPolicy
from ...ipc.durable.wire import Held
from ...ipc.errors import BkdError


class StoreError(BkdError):
    """The store cannot be used as it is; the text says what to do. Trying again does not help."""


class StoreAway(BkdError):
    """The store does not answer now (connection lost, disk full, locked); trying again later may help."""


class Node(msgspec.Struct, frozen=True):
    """A host with its dispatcher. `number` identifies it in leases; `generation` grows with each dispatcher. Two hosts
    that share a name by mistake are two nodes."""

    number: int
    name: str
    generation: int


class Leased(msgspec.Struct, frozen=True):
    """A lease that is there, with what is needed to settle it without its executor."""

    id: int
    fence: int
    kind: str
    holder: int
    slot: str
    pid: int
    start: int
    node: str
    counters: Counters
    stage: int
    max_attempts: int
    leased: int
    began: bool
    notify: str = ""


class Demand(msgspec.Struct, frozen=True):
    """How much may be claimed: one entry in `holders` for each free place (the number of the executor), of these kinds.
    `aged`: the longest due first, whatever the priority."""

    kinds: tuple[str, ...]
    holders: tuple[int, ...]
    aged: bool = False


class Stage(msgspec.Struct, frozen=True):
    """A finished stage, to be kept if (`id`, `fence`) still holds the message."""

    id: int
    fence: int
    stage: int
    output: bytes


class Lock(msgspec.Struct, frozen=True):
    """A lock that a run asks for."""

    id: int
    fence: int
    key: str


class Turn(msgspec.Struct, frozen=True):
    """One transaction of the dispatcher: store what is new, write what has ended, then claim. Of several settlements of
    a lease the first counts. `new`: messages without `key` and `unique`; `began`: runs that have begun; `progress`:
    pairs of a lease and a word about it."""

    now: int
    node: int
    settled: Sequence[Settlement] = ()
    stages: Sequence[Stage] = ()
    locks: Sequence[Lock] = ()
    began: Sequence[Held] = ()
    progress: Sequence[tuple[Held, bytes]] = ()
    demands: Sequence[Demand] = ()
    new: Sequence[NewMessage] = ()


class Turned(msgspec.Struct, frozen=True):
    """What a turn has done. `stale`: settlements whose lease was gone (recorded as late at their attempt, changing
    nothing else), or is not their speaker's (not recorded while it is there). `claimed`: in the order of the demands;
    `granted`: locks given, `kept`: stages kept. `next_due`: the nearest moment at which something of the demanded kinds
    becomes due, 0 when nothing is known to; `more`: a demand was met in full, so that there may be more now.
    `receipts`: one for each that is new."""

    claimed: list[list[Task]] = []
    stale: list[Held] = []
    granted: list[Held] = []
    kept: list[Held] = []
    next_due: int = 0
    more: bool = False
    receipts: list[Receipt] = []


class Control(msgspec.Struct, frozen=True):
    """What operators have said of a kind. `max_running` 0: no limit."""

    kind: str
    paused: bool = False
    max_running: int = 0
    by: str = ""
    at: int = 0
    reason: str = ""


class Renewal(msgspec.Struct, frozen=True):
    """What a renewal tells. `known` false: this node was declared dead meanwhile, its leases are others'. `cancels`:
    runs of this node that an operator wants ended."""

    known: bool
    cancels: list[Held]
    controls: list[Control]


class Filter(msgspec.Struct, frozen=True):
    """Which messages; `ids` and `guids` together name some, everything else selects among them. `where`: arguments by
    path such as `document_id` or `order.id`, compared as JSON values; `older` and `newer` in ms of age; `runs_over`:
    more runs than that. Empty fields select nothing away."""

    ids: tuple[int, ...] = ()
    guids: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    kinds: tuple[str, ...] = ()
    where: tuple[tuple[str, Any], ...] = ()
    fault: str = ""
    reason: str = ""
    older: int = 0
    newer: int = 0
    runs_over: int = -1


class Row(msgspec.Struct, frozen=True):
    """One message as operators see it."""

    id: int
    guid: str
    kind: str
    state: State
    stage: int
    priority: int
    created: int
    due: int
    counters: Counters
    max_attempts: int
    args: bytes = b""
    key: str = ""
    unique: str = ""
    reason: str = ""
    finished: int = 0
    result: bytes = b""
    worker: str = ""
    pid: int = 0
    leased: int = 0
    progress: bytes = b""
    payload: int = 0
    deadline: int = 0
    tracking_id: str = ""
    parent_id: int = 0
    sender: str = ""
    notify: str = ""
    cancelling: bool = False
    fault: str = ""
    error: str = ""


class Deed(msgspec.Struct, frozen=True):
    """What an operator did with a message."""

    at: int
    actor: str
    verb: str
    detail: str = ""


class Story(msgspec.Struct, frozen=True):
    """A message with all that is known of it; `outputs` of the stages finished so far."""

    row: Row
    attempts: list[Attempt]
    deeds: list[Deed]
    outputs: list[bytes]
    notices: list[str]
    locks: list[str]


class Tally(msgspec.Struct, frozen=True):
    """Numbers of one kind; `oldest`: age in ms of the message that has been due longest, 0: none is. `handled`: some
    living host has a handler for it."""

    kind: str
    states: dict[State, int]
    oldest: int = 0
    paused: bool = False
    max_running: int = 0
    handled: bool = True


class Swept(msgspec.Struct, frozen=True):
    """What housekeeping has done: `expired` and `alerted` by their deadline, `removed` by retention;
    `unlocked`: locks of runs that have ended."""

    expired: int = 0
    alerted: int = 0
    removed: int = 0
    unlocked: int = 0


class Store(Protocol):
    """One store of messages. Every method may raise StoreAway, and StoreError."""

    def open(self) -> None:
        """Connect. Raises StoreError for a schema this version does not know, or has not been brought up to (the text
        names `bkd store migrate`), and for a file on a network file system. A store that has no tables gets them."""

    def close(self) -> None:
        """Let go of everything; never raises."""

    def migrate(self) -> list[str]:
        """Bring the schema up to this version, and make indexes again that are gone; what was done, in words: the names
        of the steps that were taken, `index NAME`."""

    def check(self) -> list[str]:
        """What is wrong with it, in lines: schema, integrity, rows in two planes, counters that do not fit, locks that
        no run can have."""

    def clock(self) -> int:
        """Milliseconds of UTC, as the store has it."""

    # -- of the dispatcher

    def register(self, name: str, now: int, until: int) -> Node:
        """A dispatcher of this host begins; its node lives until `until` and must be renewed before."""

    def enlist(self, node: int, slot: str, pid: int, start: int, now: int) -> int:
        """The number of this executor in the store, the same for the same (slot, pid, start) of this node."""

    def declare(self, node: int, kinds: Sequence[KindPolicy], now: int) -> None:
        """The kinds this host has handlers for, with their policies (the newest one of each is kept)."""

    def policies(self) -> dict[str, KindPolicy]:
        """The policy of every kind that was ever declared."""

    def renew(self, node: int, now: int, until: int) -> Renewal:
        """The node lives on until then."""

    def leases(self, node: int) -> list[Leased]:
        """What this node holds."""

    def orphans(self, now: int, limit: int) -> list[Leased]:
        """Leases of nodes that were not renewed in time, taken over by nobody yet: to be settled as lost."""

    def leave(self, node: int, now: int) -> None:
        """The dispatcher ends in order; its node holds nothing any more."""

    def turn(self, turn: Turn) -> Turned:
        """See Turn. Promotes what has become due, too. Raises StoreError when one of `new` cannot be stored like that,
        which `enqueue` may be able to."""

    def enqueue(self, messages: Sequence[NewMessage], now: int) -> list[Receipt]:
        """One receipt each; a message may be refused while the others are stored."""

    def payload(self, id: int) -> bytes:
        """b"" when there is none."""

    def ended(self, ids: Sequence[int]) -> list[Row]:
        """Those of them that have come to an end."""

    def sweep(self, now: int, limit: int) -> Swept:
        """Expire what is past its deadline (with its notice), delete what has been kept long enough; at most `limit` of
        each."""

    # -- of operators

    def find(self, filter: Filter, limit: int, after: int = 0) -> list[Row]:
        """In the order of their ids, those after this one."""

    def count(self, filter: Filter) -> int:
        """How many there are."""

    def story(self, id: int) -> Story | None:
        """All about one message."""

    def stats(self, now: int) -> list[Tally]:
        """Numbers of every kind."""

    def retry(self, ids: Sequence[int], actor: str, now: int) -> list[int]:
        """Dead letters and cancelled ones are queued again: same guid, finished stages kept, attempts from 0. Those
        that wait for a retry become due now. The ids this was true for."""

    def cancel(self, ids: Sequence[int], actor: str, now: int) -> tuple[list[int], list[int]]:
        """Those that were waiting and are cancelled now, and those that run and have been marked (see Renewal)."""

    def clone(self, ids: Sequence[int], actor: str, now: int) -> list[Receipt]:
        """New messages of the same arguments, with guids of their own and `parent_id`."""

    def purge(self, ids: Sequence[int], actor: str, now: int) -> list[int]:
        """Delete ended ones with all that belongs to them."""

    def control(self, control: Control) -> None:
        """Pause, resume, limit a kind; for every host, and for good."""

    def controls(self) -> list[Control]:
        """All of them."""
