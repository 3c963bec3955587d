"""What kind of death it was. Pure."""

import signal

from .cluster import Cause, Phase, Worker

EXIT_CONFIG = 78
OWN_MAKING = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGPIPE,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
        signal.SIGXCPU,
        signal.SIGXFSZ,
        signal.SIGALRM,
    }
)
ASKING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
CHARGED = frozenset({Cause.BOOT, Cause.CRASH, Cause.HUNG, Cause.OOM})


def cause(worker: Worker, code: int | None, *, oom: bool) -> Cause:
    """The class of a death: what bkd ended itself is what bkd ended it for, then the exit status decides.

    A signal that nobody here sent and that programs do not raise against themselves came from outside, and so did
    an end that nobody saw.
    """
    if worker.ending is not None:
        return worker.ending.cause
    if code is None:
        return Cause.OUTSIDE
    if worker.signalled and code in (-worker.signalled, 128 + worker.signalled):
        return Cause.PLANNED
    if code == 0 and worker.signalled in ASKING:
        return Cause.PLANNED
    if worker.termed and code >= 0:
        return Cause.OUTSIDE
    if code < 0:
        if oom and -code == signal.SIGKILL:
            return Cause.OOM
        if -code not in OWN_MAKING:
            return Cause.OUTSIDE
    return Cause.BOOT if worker.phase == Phase.STARTING else Cause.CRASH
