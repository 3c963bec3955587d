"""`bkd shell` on the client's side: reads statements, sends them, shows what comes back. Runs in the command itself."""

import ast
import codeop
import contextlib
import os
import signal
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..ipc.errors import BkdError
from ..ipc.message_names import COMMAND, FINISHED, PROGRESS, REFUSED
from .asking import show
from .client import Client

RAISED = 1
INTERRUPTED = 130
LEAVE = ("exit", "exit()", "quit", "quit()")
STUCK = "bkd: it does not end: it is in a call, or it catches interrupts; Ctrl-C again leaves this shell\n"

Show = Callable[[str, str], None]


class Talk(Client):
    """One shell: statements one after the other, and an interrupt for the one that runs."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._number = 0
        self._asked = False

    def do(self, tell: Show = show, **arguments: str) -> int:
        """Open the shell (`name`) or run a `source`, telling what comes; returns the exit code. Ctrl-C interrupts the
        code; the second one raises KeyboardInterrupt."""
        self._number += 1
        self._asked = False
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            try:
                self._give(arguments, self._number)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            return self._answer(tell)
        finally:
            signal.signal(signal.SIGINT, before)

    def leave(self) -> None:
        """There is room for another one at once; what still runs is interrupted."""
        with contextlib.suppress(BkdError):  # the master, which notices by itself, or the worker has gone
            self.do(leave="yes")

    def _give(self, arguments: dict[str, Any], number: int) -> None:
        self._send(COMMAND, {"verb": "shell", "arguments": arguments}, id=number)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Waiting for an answer goes on afterwards: nothing of it is lost."""
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        self._give({"interrupt": True}, 0)

    def _answer(self, tell: Show) -> int:
        warned = False
        while True:
            message = self._receive()
            data = message.get("data", {})
            if message["op"] == REFUSED:
                raise BkdError(data.get("reason", "refused"))
            if message.get("re") != self._number:
                continue
            tell(data.get("out", ""), data.get("err", ""))
            if message["op"] == FINISHED:
                return int(data.get("code", 0))
            if message["op"] == PROGRESS and not data and self._asked and not warned:
                warned = True
                tell("", STUCK)


def prompt(name: str, path: str) -> int:
    """The shell of a slot, over the control socket at `path`; returns the exit code. Raises BkdError."""
    talk = Talk(path)
    code = _typed(talk, name) if os.isatty(0) else _whole(talk, name)
    talk.leave()
    return code


def _whole(talk: Talk, name: str) -> int:
    """All of standard input is one source."""
    with open(0, "rb", closefd=False) as stdin:
        data = stdin.read()
    try:
        source = data.decode()
    except UnicodeDecodeError as error:
        raise BkdError(f"what comes on standard input is no UTF-8 text: {error}") from error
    return talk.do(lambda out, err: show("", err), name=name) or talk.do(source=source)


def _typed(talk: Talk, name: str) -> int:
    code = talk.do(name=name)
    if code:
        return code
    _ready_to_type()
    while code in (0, RAISED):
        source = _read(name)
        if source is None or source.strip() in LEAVE:
            return 0
        try:
            code = talk.do(source=source) if source.strip() else 0
        except KeyboardInterrupt:
            show("", "\nbkd: left; the code is interrupted as soon as that is possible\n")
            return INTERRUPTED
    return code


def _ready_to_type() -> None:
    """Lines can be edited and called back; nothing is kept in a file. The tab key indents."""
    with contextlib.suppress(ImportError):  # not every Python is built with it
        import readline

        readline.parse_and_bind("tab: tab-insert")


def _read(name: str) -> str | None:
    """The next statement, None at the end; Ctrl-C drops what was typed of it."""
    lines: list[str] = []
    while True:
        try:
            lines.append(input(f"{' ' * len(name)}... " if lines else f"{name}>>> "))
        except KeyboardInterrupt:
            lines.clear()
            show("\nKeyboardInterrupt\n", "")
            continue
        except EOFError:
            show("\n", "")
            return None
        source = "\n".join(lines).encode(errors="replace").decode()
        if not wants_more(source):
            return source


def wants_more(source: str) -> bool:
    """Whether this is only the beginning of a statement. What is wrong is complete: the worker says what is wrong."""
    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return compiler(source, "<shell>", "single") is None
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
            return False
