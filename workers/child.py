"""What happens in a worker between its birth and the work: session, output, signals, title, heartbeat."""

import atexit
import contextlib
import gc
import os
import random
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from ..ipc import application
from ..ipc.message import Fork, Load
from ..ipc.processes import redirect
from .marker import mark
from .pulse import Pulse
from .supervision import Supervision
from .trace import one_line, told

PATIENCE = 2.0
Serve = Callable[[list[socket.socket], Supervision, int], int]


class Spawn(NamedTuple):
    """Everything about this one spawn: the master's socket, the release, the order; `forked`: out of a zygote;
    `dumps`: the descriptor of its file for stacks, or -1."""

    socket: str
    load: Load
    order: Fork
    forked: bool
    dumps: int


def run(serve: Serve, listeners: list[socket.socket], spawn: Spawn) -> NoReturn:
    """Be the worker. Runs in the worker's process and ends it."""
    code = 1
    pulse = Pulse(spawn.socket, spawn.load, spawn.order, spawn.dumps)
    try:
        _settle(spawn)
        application.ipc.attach(pulse)
        pulse.begin()
        code = serve(listeners, pulse, spawn.order.seat)
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException as error:  # noqa: BLE001 - the traceback is the worker's last word
        traceback.print_exc()
        pulse.failed(one_line(error), told(error))
    finally:
        pulse.finish()
        _end(code)


def _settle(spawn: Spawn) -> None:
    if spawn.forked:
        os.setsid()
        mark(spawn.order.tree)
        gc.enable()
        random.seed()
    redirect(spawn.order.log)
    os.environ["BKD_SOCKET"] = spawn.socket
    os.environ["BKD_SLOT"] = spawn.order.slot
    os.environ["BKD_RELEASE"] = str(spawn.load.release)
    os.environ["BKD_TREE"] = spawn.order.tree
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    sys.argv = [spawn.load.group]


def _exit_code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)  # noqa: T201 - what the interpreter does with sys.exit("text")
    return 1


def _end(code: int) -> NoReturn:
    """The interpreter's own end without tearing down the heap, which would copy every page shared with the zygote.

    Threads that are no daemons are waited for, but only when the work ended well, and until SIGTERM: that comes when
    `drain` is over.
    """
    try:
        signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(code))
        signal.signal(signal.SIGALRM, lambda _number, _frame: _name_threads())
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        if code == 0:
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 - an exit handler's error must not keep the process alive
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _name_threads() -> None:
    """Why this process is still there, in its log."""
    main = threading.main_thread()
    names = [thread.name for thread in threading.enumerate() if thread is not main and not thread.daemon]
    if names:
        text = f"bkd: the work is done; waiting for threads that are no daemons: {', '.join(names)}\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode(errors="replace"))
