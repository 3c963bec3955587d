"""From the command line to the keeper: standard library only, since this is the start-up path of every cluster."""

import contextlib
import os
import select
import signal
import sys
from typing import Any

from ..ipc.errors import BkdError
from . import places
from .keeper import Keeper

REPORT_END = b"\0"
CLEARED = 120.0  # seconds a failed start has for ending what it began; its own deadlines are shorter


def start_from_file(options: dict[str, Any]) -> int:
    """`bkd start`: find the configuration, then become the keeper."""
    try:
        if options.get("watch"):
            _check_watch(options)
        path = places.find_config(options.get("config"), os.environ)
    except BkdError as error:
        sys.stderr.write(f"bkd: {error}\n")
        return 2
    return start({**options, "config": path})


def _check_watch(options: dict[str, Any]) -> None:
    """Raises BkdError when watch mode is impossible."""
    from importlib.util import find_spec

    if options.get("daemon"):
        raise BkdError("--watch shows in the foreground what becomes of an edit; leave -d out")
    if find_spec("watchfiles") is None:
        raise BkdError("--watch needs watchfiles: pip install 'bkd[watch]'")


def start(options: dict[str, Any]) -> int:
    """Become the keeper of a cluster; with `daemon` in the background, returning when it is ready or has failed."""
    options = {**options, "tty": os.isatty(1)}
    return _in_background(options) if options.get("daemon") else Keeper(options).run()


def _in_background(options: dict[str, Any]) -> int:
    """The cluster's standard error is a pipe to this terminal until the master has said how the start ended."""
    report_in, report_out = os.pipe()
    keeper = os.fork()
    if keeper:
        os.close(report_out)
        return _relayed(report_in, keeper)
    os.close(report_in)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    for fd in (1, 2):
        os.dup2(report_out, fd)
    os.close(report_out)
    os._exit(Keeper(options).run())


def _relayed(report: int, keeper: int) -> int:
    """Runs in the terminal's process. Whoever interrupts the start does not want the cluster: it is stopped again."""
    interrupted: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        interrupted.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    code = _relay(report)
    if code:
        _wait_for(keeper)
    return 128 + interrupted[0] if interrupted else code


def _wait_for(keeper: int) -> None:
    """A start that failed is over when nothing of it is left."""
    poll = select.poll()
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
        poll.register(os.pidfd_open(keeper), select.POLLIN)
        poll.poll(CLEARED * 1000)


def _relay(report: int) -> int:
    """Runs in the terminal's process: show what the starting cluster says; behind a zero byte is the exit code."""
    text = b""
    while not (REPORT_END in text and text.endswith(b"\n")):
        chunk = os.read(report, 65536)
        if not chunk:
            break
        text += chunk
        if REPORT_END not in text:
            os.write(2, text)
            text = b""
    rest, _end, code = text.partition(REPORT_END)
    os.write(2, rest)
    return int(code) if code.strip() else 1
