"""What happened to the cluster: the closed set that `apply` understands. Facts, in the past tense."""

import msgspec

from .actions import Action
from .cluster import Observation, Origin
from .config.schema import GroupSection, PingSection


class Event(msgspec.Struct, frozen=True, tag=True):
    """Base of all events."""


class Taken(Event, frozen=True):
    """The shell carries this action out; from now on it is not to be given again."""

    action: Action


class Spawned(Event, frozen=True):
    """The worker's process exists."""

    worker: int
    pid: int
    start: int


class SpawnFailed(Event, frozen=True):
    """The process could not be made. `chance` as in Exited; `blameless`: it was not the slot's fault."""

    worker: int
    reason: str
    chance: float = 0.5
    blameless: bool = False


class BecameReady(Event, frozen=True):
    """The worker does its work from now on; `watched`: it sends heartbeats."""

    worker: int
    watched: bool = True


class BootFailed(Event, frozen=True):
    """The worker said why it cannot start; its exit follows."""

    worker: int
    reason: str


class Terminated(Event, frozen=True):
    """The worker said that it was sent SIGTERM, by whomever; its exit follows."""

    worker: int


class Pinged(Event, frozen=True):
    """A heartbeat came, the fields as in `cluster.Pulse`; `worn`: why the worker itself wants to be replaced."""

    worker: int
    lag: float | None = None
    in_flight: int = 0
    oldest: float = 0.0
    rss: int = 0
    cpu: float = 0.0
    served: int = 0
    pss: int = 0
    late: int = 0
    behind: float = 0.0
    worn: str = ""


class Extended(Event, frozen=True):
    """A program says that its start, or its end, takes so many seconds more (`EXTEND_TIMEOUT_USEC`)."""

    worker: int
    seconds: float


class Tripped(Event, frozen=True):
    """A program is stuck: it says so itself, or was silent for longer than its own watchdog allows. `why`: what
    somebody else has against the worker, which is not its slot's fault."""

    worker: int
    silent: float = 0.0
    why: str = ""


class Observed(Event, frozen=True):
    """What /proc says of a worker, asked for by `Observe`."""

    worker: int
    observation: Observation


class Gathered(Event, frozen=True):
    """The evidence about a condemned worker is there."""

    worker: int


class Signalled(Event, frozen=True):
    """An operator sent a signal to this worker through the supervisor."""

    worker: int
    number: int


class Exited(Event, frozen=True):
    """The worker's process is gone. `code` is negative for a signal, None when unknown; `oom`: the kernel counted an
    out-of-memory kill; `chance` in [0, 1) decides the jitter; `at`: when that was, if not just now."""

    worker: int
    code: int | None
    oom: bool = False
    chance: float = 0.5
    at: float | None = None


class Swept(Event, frozen=True):
    """Nothing of the ended worker's process tree is left but `survivors`; `killed` needed SIGKILL."""

    worker: int
    killed: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()


class LoaderSpawned(Event, frozen=True):
    """The zygote's process exists and is importing."""

    group: str
    release: int
    pid: int


class LoaderReady(Event, frozen=True):
    """The application is imported; `unsafe` says what forbids forking; `prints` is the fingerprint of its files,
    `edits` how they differ from those of an earlier load of this release."""

    group: str
    release: int
    seconds: float
    unsafe: tuple[str, ...] = ()
    prints: str = ""
    edits: str = ""


class LoaderFailed(Event, frozen=True):
    """The application could not be imported, or the loader died on the way."""

    group: str
    release: int
    reason: str
    trace: str = ""
    chance: float = 0.5


class LoaderGone(Event, frozen=True):
    """A zygote that was ready is gone."""

    group: str
    release: int
    reason: str
    chance: float = 0.5


class Scaled(Event, frozen=True):
    """The wanted count of a group was changed."""

    group: str
    count: int


class Held(Event, frozen=True):
    """A slot is taken out of supervision, or given back."""

    slot: str
    held: bool


class Cleared(Event, frozen=True):
    """Back-off, breaker and `failed` of a slot or a group are forgotten."""

    name: str


class Replaced(Event, frozen=True):
    """An operator wants a fresh worker in this slot; `hard`: what is there gets SIGKILL first."""

    slot: str
    hard: bool = False


class RollAsked(Event, frozen=True):
    """A group is to come onto `release`, or onto a new one of this origin (0)."""

    group: str
    origin: Origin
    why: str
    release: int = 0
    hard: bool = False
    quick: bool = False


class RollCalledOff(Event, frozen=True):
    """Somebody wants the roll that is under way taken back."""

    group: str
    why: str


class Reconfigured(Event, frozen=True):
    """The configuration is another one: groups come and go, and what can change while a process runs has changed.
    `makes_way`: groups that are to go, when others have come that take their addresses over."""

    groups: dict[str, GroupSection]
    ping: PingSection
    origins: dict[str, Origin]
    exit_when_failed: bool = False
    makes_way: dict[str, tuple[str, ...]] = {}


class StopAsked(Event, frozen=True):
    """The whole cluster is to end; `hasty`: with SIGKILL at once; `code`: what the keeper is to exit with."""

    why: str
    hasty: bool = False
    code: int = 0


class Overslept(Event, frozen=True):
    """The master itself was stopped or late by so many seconds: nobody is blamed for them."""

    seconds: float


class Adopted(Event, frozen=True):
    """A new master takes over, so many seconds after the last one ended: what that had begun and cannot finish is begun
    again, and nobody is blamed for the time."""

    seconds: float = 0.0


class NewsTold(Event, frozen=True):
    """The facts collected so far are in the journal."""
