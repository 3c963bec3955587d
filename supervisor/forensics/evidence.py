"""What bkd could learn of a worker before it ended it, and the report of an end: plain data. Pure.

A report is written when evidence is taken and written again, whole, when the process is gone. Times `at` are seconds
since 1970; everything else is in seconds and bytes.
"""

import msgspec

from ...ipc.stacks import Frame, Stacks
from .culprit import Home

MOST_LINES = 40


class KernelThread(msgspec.Struct, frozen=True, omit_defaults=True):
    """A thread as the kernel sees it. `state`: the letter of proc(5); `wchan`: the kernel function it sleeps in;
    `call`: the system call with what it waits for, such as `read from 127.0.0.1:5432`; `cpu`: seconds used."""

    tid: int
    name: str = ""
    state: str = ""
    wchan: str = ""
    call: str = ""
    cpu: float = 0.0


class Sample(msgspec.Struct, frozen=True, omit_defaults=True):
    """A heartbeat of the past, `age` seconds before the evidence; `cpu`: share of one CPU since the sample before."""

    age: float
    rss: int = 0
    pss: int = 0
    cpu: float = 0.0
    lag: float | None = None
    in_flight: int = 0


class LateSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the main loop was when it was late last: `age` seconds before, `seconds` late at that moment."""

    age: float
    seconds: float
    frames: list[Frame]


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """`took`: how long it took to get it. `stacks`: None when the process told nothing; `source`: who told them,
    "worker" (it answered), "signal" (faulthandler wrote them), "" nobody, and `silence` says why. `lines`: the last
    that it printed; `culprit`: the frame that is to blame, with its line of source."""

    at: float
    took: float = 0.0
    state: str = ""
    kernel: list[KernelThread] = []
    stacks: Stacks | None = None
    source: str = ""
    silence: str = ""
    culprit: Frame | None = None
    trend: list[Sample] = []
    late: LateSample | None = None
    lates: int = 0
    lines: list[str] = []

    @property
    def running(self) -> frozenset[int]:
        """The kernel's numbers of the threads that had the CPU."""
        return frozenset(thread.tid for thread in self.kernel if thread.state == "R")


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one process ended, or is being ended while `ended` is false.

    `cause`: as in `cluster.Cause`; `verdict`: what a hung one was found to be; `code`, `signal`: the exit status, both
    None when nobody could learn it; `reason`: its own words or bkd's, a line; `sender`: who ended it, "" when nobody
    did or it cannot be known; `hints`: what else speaks for that, a line each; `trace`: a traceback or the stack that
    faulthandler wrote at a fatal signal; `lines`: the last that it printed; `decision`: what follows from it, a line;
    `late`: where its main loop was when it was late last; `package`: the application's top package or module.
    """

    slot: str
    pid: int
    start: int
    release: int
    at: float
    ended: bool = False
    kind: str = "web"
    cwd: str = ""
    cause: str = ""
    verdict: str = ""
    age: float = 0.0
    code: int | None = None
    signal: int | None = None
    reason: str = ""
    sender: str = ""
    hints: list[str] = []
    uptime: float = 0.0
    served: int = 0
    rss: int = 0
    pss: int = 0
    trace: str = ""
    culprit: Frame | None = None
    lines: list[str] = []
    decision: str = ""
    late: LateSample | None = None
    evidence: Evidence | None = None
    package: str = ""

    @property
    def key(self) -> tuple[str, int, int]:
        """Which process it is about."""
        return self.slot, self.pid, self.start

    @property
    def home(self) -> Home:
        """Where the application's own code lies."""
        return Home(self.cwd, self.package)
