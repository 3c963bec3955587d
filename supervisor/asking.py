"""One command of the command line: find the cluster, ask, print, and give the exit code. Cheap to import."""

import io
import os
import sys
from typing import Any

from ..ipc.errors import BkdError
from .client import ANSWER_LIMIT, Client, Interrupted, NotRunning, find_socket, next_master
from .places import NoConfig, NoRunDir

NOT_RUNNING = 4
USAGE = 2
SEE = {"fleet": "bkd fleet show; bkd fleet abort lets nobody else begin", "": "bkd status; bkd rollback takes it back"}
BULK = tuple(f"message:{verb}" for verb in ("retry", "cancel", "clone", "purge"))
SEE |= dict.fromkeys(BULK, "bkd message stats")
GOES_ON = ("restart", "rollback", "reload", "upgrade", "await", "fleet", *BULK)


def ask(
    verb: str,
    arguments: dict[str, Any],
    *,
    config: str | None = None,
    sock: str | None = None,
    render: str = "text",
    limit: float | None = ANSWER_LIMIT,
) -> int:
    """Give one command and print what comes back; errors are one line on standard error."""
    try:
        path = find_socket(config, sock)
        client, display = Client(path), Display()
        while True:
            try:
                code, out, err = client.run(
                    verb, arguments, render=render, progress=display.show, draw=display.draw, limit=limit
                )
            except Interrupted as broken:
                client = next_master(path, broken.resume)
                verb, arguments = "await", broken.resume
            else:
                display.show(out, err)
                return code
    except KeyboardInterrupt:
        if verb in GOES_ON:
            sys.stderr.write(f"\nbkd: what was asked for goes on; see {SEE.get(verb, SEE[''])}\n")
        raise
    except BkdError as error:
        return say(error)


def say(error: BkdError) -> int:
    """Print an error and give its exit code."""
    sys.stderr.write(f"bkd: {error}\n")
    if isinstance(error, NotRunning):
        return NOT_RUNNING
    return USAGE if isinstance(error, (NoConfig, NoRunDir)) or hasattr(error, "faults") else 1


class Display:
    """The terminal of one command. A screen is drawn in place of the last one, above whatever is printed after it."""

    def __init__(self) -> None:
        self._lines = 0
        self._draws = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def show(self, out: str, err: str) -> None:
        """Print what a command answers; raises BkdError when that is impossible."""
        self._lines = 0 if out or err else self._lines
        show(out, err)

    def draw(self, screen: str, news: str) -> None:
        """Show how it goes; what is no terminal gets the news only."""
        if not self._draws:
            show("", news)
            return
        width, height = os.get_terminal_size(sys.stderr.fileno())
        lines = [line[:width] for line in screen.splitlines()[1 - height :]]
        show("", (f"\x1b[{self._lines}A\x1b[J" if self._lines else "") + "".join(f"{line}\n" for line in lines))
        self._lines = len(lines)


def show(out: str, err: str) -> None:
    """Print what a command answers; raises BkdError when that is impossible."""
    tolerate()
    try:
        sys.stdout.write(out)
        sys.stdout.flush()
        sys.stderr.write(err)
        sys.stderr.flush()
    except BrokenPipeError:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - whoever read has seen enough
    except OSError as error:
        raise BkdError(f"standard output cannot be written: {error.strerror}") from error


def tolerate() -> None:
    """From now on what the encoding of standard output does not have becomes `?`, unless its owner wants otherwise."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
