"""Frames between a dispatcher, its executors, and whoever enqueues or asks. The length in front is that of `frames`.

A frame holds one of these structs. Many messages travel in one: a frame stays below FRAME_GOAL bytes where that can be
chosen, and larger bodies go in parts. Who speaks is known from the socket (SO_PEERCRED); `Enlist` or `Greet` comes
first.
"""

import os
from typing import Any

import msgspec

from ..errors import FrameError
from ..frames import frame
from .model import NewMessage, Outcome, Receipt, Task
from .policy import KindPolicy

WIRE = 1
FRAME_GOAL = 256 * 1024
PART = 256 * 1024
SOCKET = "messages.sock"  # in run_dir
_DOOR = "worker."


class Frame(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all frames."""


class Held(msgspec.Struct, frozen=True, array_like=True):
    """One lease."""

    id: int
    fence: int


# -- an executor says


class Enlist(Frame, frozen=True):
    """An executor is there, or there again: what it can run, how many at once, what it is running (`holds`, with those
    that wait in it and those whose outcome is not known to be stored). `start`: of the process, in clock ticks."""

    slot: str
    group: str
    pid: int
    start: int
    mode: str
    credit: int
    kinds: list[KindPolicy]
    holds: list[Held] = []
    wire: int = WIRE
    draining: bool = False


class Outcomes(Frame, frozen=True):
    """What runs came to. Kept by the executor, and said again after a reconnection, until `Stored` with this number."""

    number: int
    outcomes: list[Outcome]


class StageDone(Frame, frozen=True):
    """A stage has been finished with this output; the next one begins after `StageKept`."""

    id: int
    fence: int
    stage: int
    output: bytes


class LockAsked(Frame, frozen=True):
    """May this run have the lock `key`? It is freed with the lease, whatever ends that."""

    id: int
    fence: int
    key: str


class ProgressMade(Frame, frozen=True):
    """A word about how far a run is, for operators; at most one a second and message."""

    id: int
    fence: int
    progress: bytes


class Began(Frame, frozen=True):
    """These runs have begun; what was not begun when an executor dies costs its message nothing."""

    holds: list[Held]


class Retiring(Frame, frozen=True):
    """Nothing more is wanted; these, which have not begun, are given back."""

    unbegun: list[Held] = []


class GivenBack(Frame, frozen=True):
    """These have not begun and would wait for long behind what runs here. Nothing more is wanted until it says
    `Outcomes` or `Began`, which may name none."""

    unbegun: list[Held]


class PayloadAsked(Frame, frozen=True):
    """The next part of a payload, from `offset` on."""

    id: int
    fence: int
    offset: int


# -- the dispatcher answers an executor


class Enlisted(Frame, frozen=True):
    """The executor is known as `holder`. `lost`: of what it holds, these are not its any more: cancel, say nothing."""

    holder: int
    lost: list[Held] = []


class Run(Frame, frozen=True):
    """Run these."""

    tasks: list[Task]


class Stored(Frame, frozen=True):
    """The outcomes of this number are in the store. `stale`: those that came too late and changed nothing."""

    number: int
    stale: list[Held] = []


class StageKept(Frame, frozen=True):
    """The output is in the store; `held` false: the lease is not this run's any more."""

    id: int
    fence: int
    stage: int
    held: bool = True


class LockAnswered(Frame, frozen=True):
    """Whether the lock is this run's now."""

    id: int
    fence: int
    key: str
    granted: bool


class Cancel(Frame, frozen=True):
    """End this run, softly. `why`: "cancelled" by an operator, "timeout", or "lost": it is somebody else's by now."""

    id: int
    fence: int
    why: str


class PayloadPart(Frame, frozen=True):
    """A part of a payload; `last`: there is no more."""

    id: int
    offset: int
    data: bytes
    last: bool


# -- producers, the master, and tools


class Greet(Frame, frozen=True):
    """First frame of everybody who is no executor. `role`: "producer", or "master" (one that is of the same uid
    or root, and may ask everything)."""

    role: str = "producer"
    wire: int = WIRE


class Put(Frame, frozen=True):
    """Store these, all or none of them in one transaction. Payloads over FRAME_GOAL come before, in `PutPart`."""

    number: int
    messages: list[NewMessage]


class PutPart(Frame, frozen=True):
    """A part of the payload of message `index` of the coming `Put` of this number."""

    number: int
    index: int
    data: bytes


class PutDone(Frame, frozen=True):
    """They are stored and will survive a crash; `error`: none of them is."""

    number: int
    receipts: list[Receipt] = []
    error: str = ""


class Await(Frame, frozen=True):
    """Tell the end of this message: answered with `Ended`, at the latest after `within` seconds."""

    number: int
    id: int
    within: float


class Ended(Frame, frozen=True):
    """State and result of the awaited message, which has ended if `state` is an end."""

    number: int
    state: str
    result: bytes = b""
    reason: str = ""
    error: str = ""


class Ask(Frame, frozen=True):
    """A verb of an operator, from the master: `list`, `show`, `stats` … `render`: text (of `width` columns, 0: plain)
    or json."""

    number: int
    verb: str
    arguments: dict[str, Any]
    render: str = "text"
    width: int = 0
    actor: str = ""


class Said(Frame, frozen=True):
    """Output of a verb, in pieces; `screen`: what a terminal shows instead of `err`, and instead of the last screen."""

    number: int
    out: str = ""
    err: str = ""
    screen: str = ""


class Answered(Frame, frozen=True):
    """The end of a verb: exit code and the last of its output."""

    number: int
    code: int
    out: str = ""
    err: str = ""


class Died(Frame, frozen=True):
    """From the master: this process has ended; `how`: in words, such as `SIGSEGV` or `exit code 3`; `charged`: it was
    not bkd that wanted it to end."""

    pid: int
    start: int
    how: str
    charged: bool


class Overdue(Frame, frozen=True):
    """To the master: this executor does not let go of a message whose hard deadline has passed; end it."""

    slot: str
    pid: int
    start: int
    why: str


class Alarm(Frame, frozen=True):
    """To the master, for its journal: something operators should know, such as a loop or a store that is away.
    `fact`: a short word; `text`: one line."""

    fact: str
    text: str


class Refusal(Frame, frozen=True):
    """This connection is not served, and closed; `reason` is a line for people."""

    reason: str


AnyFrame = (
    Enlist
    | Outcomes
    | StageDone
    | LockAsked
    | ProgressMade
    | Began
    | Retiring
    | GivenBack
    | PayloadAsked
    | Enlisted
    | Run
    | Stored
    | StageKept
    | LockAnswered
    | Cancel
    | PayloadPart
    | Greet
    | Put
    | PutPart
    | PutDone
    | Await
    | Ended
    | Ask
    | Said
    | Answered
    | Died
    | Overdue
    | Alarm
    | Refusal
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(AnyFrame).decode


def packed(what: Frame) -> bytes:
    """A frame as it goes over the wire; raises FrameError above the limit of `frames`."""
    return frame(_encode(what))


def letterbox(control: str) -> str:
    """Where the dispatcher listens for whoever finds the master at this socket: a user whose processes have a door of
    their own (`worker.UID.sock`) has a `messages.UID.sock`, too."""
    folder, name = os.path.split(control)
    return os.path.join(folder, f"messages.{name.removeprefix(_DOOR)}" if name.startswith(_DOOR) else SOCKET)


def unpacked(payload: bytes) -> AnyFrame:
    """The frame of one payload; raises FrameError when it is none."""
    try:
        found: AnyFrame = _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"not a frame of messages: {error}") from error
    return found
