"""The vocabulary between the master and everybody who connects to its socket.

An envelope carries an `op` (`noun:verb`), optionally its own `id` or the id it answers (`re`), and `data`, which is
left undecoded until somebody knows its type. Orders are imperative, facts are in the past tense.
"""

from typing import Any, TypeVar

import msgspec

from .errors import FrameError
from .message_names import COMMAND, FINISHED, HELLO, PROGRESS, REFUSED, VERSION
from .stacks import Frame, Stacks
from .work import DispatcherWork as DispatcherWork
from .work import FunctionWork as FunctionWork
from .work import MessagesWork as MessagesWork
from .work import WebWork as WebWork
from .work import Work as Work

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what decoding of foreign bytes raises
NO_BKD, OTHER_VERSION = 96, 97  # exit codes of a blank process: bkd cannot be imported there; it is another bkd

M = TypeVar("M", bound="Message")


class Envelope(msgspec.Struct, omit_defaults=True):
    """What every frame holds. `data` is MessagePack that may be relayed without decoding it.

    Between applications: `to` says who is meant, `by` who sent it, `within` how many seconds the caller waits.
    """

    op: str
    id: int = 0
    re: int = 0
    data: msgspec.Raw = msgspec.Raw(b"\x80")
    to: str = ""
    by: str = ""
    within: float = 0.0


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of the typed bodies; `op` of the class is what the envelope says."""

    op = ""


class Hello(Message, frozen=True):
    """First frame of every connection. `token` is the one-time secret of the spawn; `start` the start time in ticks.

    `role`: "worker" and "zygote" (with a token), "application" (a process of one, or a script), "client".
    `dumps`: the process's descriptor of the file into which it writes its stacks at DUMP_SIGNAL, -1: it does not.
    """

    op = HELLO
    version: int = VERSION
    role: str = "client"
    token: str = ""
    pid: int = 0
    start: int = 0
    ready: bool = False
    draining: bool = False
    dumps: int = -1


class Welcome(Message, frozen=True):
    """The master takes the connection. Workers obey the highest epoch they have seen."""

    op = "welcome"
    version: int = VERSION
    epoch: int = 0
    pid: int = 0


class Refused(Message, frozen=True):
    """The master does not do what was asked; `reason` is a line for people."""

    op = REFUSED
    reason: str = ""


class Load(Message, frozen=True):
    """Order to a blank process: become the loader of one release, import its application.

    `solo`: it is to become one worker, and ends when the import fails. `ping`, `orphan_timeout` and `lag_warn` (0: no
    matter how late) are in seconds, `keeper` is a pid, `log` a file ("": inherit). `watch`: which source files were
    imported is to be told.
    """

    op = "zygote:load"
    app: str = ""
    group: str = ""
    release: int = 0
    work: Work = FunctionWork()
    cwd: str = ""
    env: dict[str, str] = {}
    log: str = ""
    ping: float = 2.0
    orphan_timeout: float = 60.0
    keeper: int = 0
    solo: bool = False
    watch: bool = False
    lag_warn: float = 1.0


class Loaded(Message, frozen=True):
    """The application is imported. `unsafe` names what forbids forking: threads, connected sockets; `files` are its
    source files, with `Load.watch`; `prints`: a digest of each."""

    op = "zygote:loaded"
    seconds: float = 0.0
    unsafe: list[str] = []
    files: list[str] = []
    prints: dict[str, bytes] = {}


class LoadFailed(Message, frozen=True):
    """The application could not be imported. `reason` is one line, `trace` the traceback; `files` are the source files
    it came to, with `Load.watch`."""

    op = "zygote:load-failed"
    reason: str = ""
    trace: str = ""
    files: list[str] = []


class Fork(Message, frozen=True):
    """Order to a loaded zygote: fork this worker (`worker:become` to a process that is to be it).

    `seat` is its place in the balance page, which no other living worker of the group has. `quiet`: it is to be ready
    but to take no work before it is told to serve.
    """

    op = "zygote:fork"
    worker: int = 0
    slot: str = ""
    token: str = ""
    tree: str = ""
    log: str = ""
    seat: int = 0
    quiet: bool = False


class Become(Fork, frozen=True):
    """Order to a loaded process: do not fork, be this worker."""

    op = "worker:become"


class Forked(Message, frozen=True):
    """The worker exists; its parent is the keeper."""

    op = "zygote:forked"
    worker: int = 0
    pid: int = 0
    start: int = 0


class ForkFailed(Message, frozen=True):
    """The kernel refused the fork."""

    op = "zygote:fork-failed"
    worker: int = 0
    reason: str = ""


class Ping(Message, frozen=True):
    """Heartbeat of a worker. `lag`: the most seconds that its main loop was late since the last one, None for plain
    functions; `behind`: for how long it has not turned now; `cpu` in seconds, `rss` and `pss` in bytes (0: not measured
    yet), `oldest`: age in seconds of the oldest request in flight, `served`: requests finished since the start of a web
    worker, 0 for functions; `late`: how often the loop was later than `lag_warn`; `worn`: why it is to be
    replaced."""

    op = "worker:ping"
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


class Late(Message, frozen=True):
    """The main loop of a worker has not turned for `seconds`; `frames` is where it is, innermost first. Said once for
    each place."""

    op = "worker:late"
    seconds: float = 0.0
    frames: list[Frame] = []


class Dump(Message, frozen=True):
    """Order to a worker: say what all threads and tasks are doing."""

    op = "worker:dump"
    number: int = 0


class Dumped(Message, frozen=True):
    """What they are doing, in answer to the order of this `number`."""

    op = "worker:dumped"
    number: int = 0
    stacks: Stacks = Stacks()


class Ready(Message, frozen=True):
    """The worker does its work from now on."""

    op = "worker:ready"


class Imported(Message, frozen=True):
    """A worker has imported more source files of the application; only with `Load.watch`."""

    op = "worker:imported"
    files: list[str] = []


class BootFailed(Message, frozen=True):
    """The worker will exit because it could not start; `code` is its exit code."""

    op = "worker:boot-failed"
    reason: str = ""
    trace: str = ""


class Terminated(Message, frozen=True):
    """The worker was sent SIGTERM, by whomever, and ends."""

    op = "worker:terminated"


class Drain(Message, frozen=True):
    """Order to a worker: take nothing new, finish what is open, exit 0. `last`: nobody else takes the queue over."""

    op = "worker:drain"
    last: bool = False


class Serve(Message, frozen=True):
    """Order to a worker that was started quiet: take work from now on."""

    op = "worker:serve"


class Reopen(Message, frozen=True):
    """Order to a worker: its log file was moved, open it again."""

    op = "worker:reopen"


class Pace(Message, frozen=True):
    """Order to a worker: send the heartbeat every `period` seconds from now on, and say so when the main loop is later
    than `lag_warn`."""

    op = "worker:pace"
    period: float = 2.0
    lag_warn: float = 1.0


class ConfigChanged(Message, frozen=True, omit_defaults=False):
    """To applications: these keys of the configuration have changed, such as `workers.web.count`."""

    op = "config:init"
    changed: list[str] = []


class Command(Message, frozen=True):
    """A verb of the command line. `render`: text for people (with `width` columns, 0: plain) or JSON."""

    op = COMMAND
    verb: str = ""
    arguments: dict[str, Any] = {}
    render: str = "text"


class Progress(Message, frozen=True):
    """Text for the terminal of whoever gave the command, before its end. `resume`: what to wait for at the next master
    with the verb `await`, should this one die meanwhile. `screen`: what a terminal shows instead of `err`, and instead
    of the last screen."""

    op = PROGRESS
    out: str = ""
    err: str = ""
    screen: str = ""
    resume: dict[str, Any] = {}


class Finished(Message, frozen=True):
    """The command's end: exit code and the last of its output."""

    op = FINISHED
    code: int = 0
    out: str = ""
    err: str = ""


class ShellRun(Message, frozen=True):
    """Order to a worker: run this `source` in a session of the shell, as its statement `number`; or interrupt what runs
    there. The first statement (1) opens the session and 0 ends it."""

    op = "shell:run"
    session: str = ""
    number: int = 0
    source: str = ""
    interrupt: bool = False


class ShellResult(Message, frozen=True):
    """What a statement of the shell has printed, a piece at a time; the first one comes as soon as the worker has the
    statement. `done`: it has ended, `failed`: by an error."""

    op = "shell:result"
    session: str = ""
    number: int = 0
    out: str = ""
    err: str = ""
    done: bool = False
    failed: bool = False


MESSAGES: tuple[type[Message], ...] = (
    Hello,
    Welcome,
    Refused,
    Load,
    Loaded,
    LoadFailed,
    Fork,
    Become,
    Forked,
    ForkFailed,
    Ping,
    Late,
    Dump,
    Dumped,
    Ready,
    Imported,
    BootFailed,
    Terminated,
    Drain,
    Serve,
    Reopen,
    Pace,
    ConfigChanged,
    Command,
    Progress,
    Finished,
    ShellRun,
    ShellResult,
)

_decode_envelope = msgspec.msgpack.Decoder(Envelope).decode
_encode = msgspec.msgpack.Encoder().encode


def encode(message: Message, *, id: int = 0, re: int = 0) -> bytes:
    """The payload of one frame."""
    return _encode(Envelope(message.op, id, re, msgspec.Raw(_encode(message))))


def decode(payload: bytes) -> Envelope:
    """The envelope of one frame; raises FrameError when it is none."""
    try:
        return _decode_envelope(payload)
    except UNREADABLE as error:
        raise FrameError(f"not a message: {error}") from error


def body(envelope: Envelope, kind: type[M]) -> M:
    """The typed body; raises FrameError when the data do not fit."""
    try:
        return msgspec.msgpack.decode(envelope.data, type=kind)
    except UNREADABLE as error:
        raise FrameError(f"{envelope.op[:80]}: {error}") from error
