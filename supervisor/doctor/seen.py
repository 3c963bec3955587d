"""What was seen of a process that has imported an application: from inside, as it says itself, and from outside. Plain
data; sizes in bytes."""

import msgspec

from ...ipc.stacks import Frame


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The import did not come to its end: `reason` is a line, `trace` the traceback or where it was."""

    reason: str
    trace: str = ""


class Started(msgspec.Struct, frozen=True):
    """A thread of Python; `place` is the line that started it, "" when that was not seen."""

    name: str
    tid: int | None
    place: str
    stack: list[Frame]


class Socket(msgspec.Struct, frozen=True):
    """`peer`: None when it is not connected, "" when the other end has no name."""

    fd: int
    stream: bool
    listens: bool
    here: str
    peer: str | None
    place: str


class Inside(msgspec.Struct, frozen=True, tag="imported"):
    """`own`: descriptors that have nothing to do with the application; `unsafe`: what the loader of a group would
    object to; `objects`: how many of each class; `files`, `processes`, `loops`: the lines that made them."""

    seconds: float
    own: list[int] = []
    unsafe: list[str] = []
    cuda: bool = False
    threads: list[Started] = []
    sockets: list[Socket] = []
    handlers: dict[int, str] = {}
    objects: dict[str, int] = {}
    packages: list[str] = []
    files: dict[str, str] = {}
    processes: list[str] = []
    loops: list[str] = []


class Opened(msgspec.Struct, frozen=True):
    """A descriptor that is no socket. `kind`: read, write, append, pipe, or the kernel's word: eventpoll, eventfd …"""

    fd: int
    kind: str
    what: str


class Child(msgspec.Struct, frozen=True):
    """A process the import has started."""

    pid: int
    command: str


class Outside(msgspec.Struct, frozen=True):
    """What /proc tells. `threads`: names of all but the main one, by their number; `libraries`: shared libraries."""

    threads: dict[int, str] = {}
    opened: list[Opened] = []
    children: list[Child] = []
    libraries: list[str] = []


class Sizes(msgspec.Struct, frozen=True):
    """Of one process: what it holds, its share of that, and what is its own alone."""

    rss: int
    pss: int
    private: int


class Memory(msgspec.Struct, frozen=True):
    """`alone`: the loader before it forks; `idle`: a forked child that did nothing; `collected`: what a collection in
    a child makes its own; `collected_loose`: the same had the loader not frozen its heap."""

    alone: Sizes
    idle: Sizes
    collected: int
    collected_loose: int


class Package(msgspec.Struct, frozen=True):
    """How long the modules of one package took to import, without what they import from others."""

    name: str
    seconds: float
    modules: int


class Seen(msgspec.Struct, frozen=True):
    """All of it. `memory`: None when nothing was forked, or could be measured; `trouble`: how forking failed."""

    inside: Inside
    outside: Outside
    packages: list[Package] = []
    memory: Memory | None = None
    trouble: str = ""
