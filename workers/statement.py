"""One statement of the shell, from its source to its end. Runs in the worker's process, never in the heartbeat thread.

It begins in a thread of its own, where plain code also runs; code with `await` goes on as a task of the main loop, or
in the session's own loop where the worker has none.
"""

import ast
import asyncio
import contextlib
import ctypes
import inspect
import threading
from collections.abc import Callable
from contextvars import Context
from types import CodeType
from typing import Any, NamedTuple

from ..ipc.message import ShellResult
from .printed import Printed, context_of
from .trace import told

FILE = "<shell>"
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
Loop = asyncio.AbstractEventLoop


class Program(NamedTuple):
    """Compiled source; `value`: its last statement, if that is an expression, whose value is to be shown."""

    body: CodeType
    value: CodeType | None

    @property
    def awaits(self) -> bool:
        """Whether it needs a loop."""
        return any(code is not None and code.co_flags & inspect.CO_COROUTINE for code in self)


def compiled(source: str) -> Program:
    """Raises what the compiler raises: SyntaxError, ValueError, RecursionError …"""
    tree: Any = compile(source, FILE, "exec", FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    body = compile(tree, FILE, "exec", FLAGS, dont_inherit=True)
    if last is None:
        return Program(body, None)
    return Program(body, compile(ast.Expression(last.value), FILE, "eval", FLAGS, dont_inherit=True))


class Session(NamedTuple):
    """What a statement shares with those before it: the names, and the loop of a worker that has none."""

    names: dict[str, Any]
    runner: asyncio.Runner


class Statement:
    """`wake`: makes the heartbeat thread ask what is `next`; `ended` is called at the end; `failed`: by an error."""

    def __init__(self, number: int, session: Session, *, wake: Callable[[], None], ended: Callable[[], None]) -> None:
        self.number, self.printed = number, Printed(wake)
        self.done = self.failed = self._told = False
        self._session, self._wake, self._ended = session, wake, ended
        self._lock = threading.Lock()
        self._interrupted = self._posted = False
        self._thread = 0
        self._loop: Loop | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, source: str | Callable[[], str], loop: Loop | None) -> None:
        """Called in the heartbeat thread; a function makes the source. Raises RuntimeError when there is no thread."""
        thread = threading.Thread(target=self._run, args=(source, loop), name="bkd-shell", daemon=True)
        thread.start()

    def interrupt(self) -> None:
        """Called in the heartbeat thread: KeyboardInterrupt into the code, wherever it runs. A task is cancelled; one
        that the loop has not come to is not begun."""
        with self._lock:
            self._interrupted = True
            if self._thread:
                _raise_in(self._thread, KeyboardInterrupt)
            elif self._posted:
                self._posted = False
                self._fail(KeyboardInterrupt())
                self._end()
            elif self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: the code has ended
                    self._loop.call_soon_threadsafe(self._cancel)

    def next(self, session: str) -> ShellResult | None:
        """Called in the heartbeat thread: what is to be told of it now. First no more than that it was begun."""
        if not self._told:
            self._told = True
            return ShellResult(session, self.number)
        done = self.done
        out, err = self.printed.take()
        done = done and self.printed.is_empty()
        return ShellResult(session, self.number, out, err, done, done and self.failed) if done or out or err else None

    # -- in the thread

    def _run(self, source: str | Callable[[], str], loop: Loop | None) -> None:
        context = context_of(self.printed)
        program = context.run(self._interruptible, source)
        if program is None:
            self._end()
        elif loop is not None:
            self._post(loop, program, context)
        else:
            self._in_own_loop(program, context)

    def _interruptible(self, source: str | Callable[[], str]) -> Program | None:
        """An interrupt may come at any instruction, even after the last one of the code; none comes after this."""
        try:
            try:
                return self._plain(source)
            finally:
                self._close()
        except BaseException as error:  # noqa: BLE001 - see above
            self._close()
            self._fail(error)
        return None

    def _plain(self, source: str | Callable[[], str]) -> Program | None:
        """Run the source; gives it back compiled when it needs a loop."""
        try:
            self._open()
            program = compiled(source if isinstance(source, str) else source())
            if program.awaits:
                return program
            names = self._session.names
            exec(program.body, names)
            if program.value is not None:
                self._show(eval(program.value, names))
        except BaseException as error:  # noqa: BLE001 - whatever the code raises is told
            self._fail(error)
        return None

    def _open(self) -> None:
        with self._lock:
            self._thread = threading.get_ident()
            if self._interrupted:
                raise KeyboardInterrupt

    def _close(self) -> None:
        """Once the thread is not named any more no interrupt is sent; one that was sent before is taken back."""
        while self._thread:
            with contextlib.suppress(KeyboardInterrupt), self._lock:
                _raise_in(self._thread, None)
                self._thread = 0

    def _post(self, loop: Loop, program: Program, context: Context) -> None:
        error: BaseException | None = None
        with self._lock:
            self._loop, self._posted = loop, not self._interrupted
            if self._interrupted:
                error = KeyboardInterrupt()
        try:
            if error is None:
                loop.call_soon_threadsafe(self._start, loop, program, context=context)
        except RuntimeError as closed:
            error = closed if self._taken() else None
        if error is not None:
            self._fail(error)
            self._end()

    def _taken(self) -> bool:
        """Whether what is posted is this caller's to begin or to end, and nobody has done so."""
        with self._lock:
            posted, self._posted = self._posted, False
        return posted

    def _in_own_loop(self, program: Program, context: Context) -> None:
        try:
            self._loop = self._session.runner.get_loop()
            self._session.runner.run(self._awaited(program), context=context)
        except BaseException as error:  # noqa: BLE001 - a fault of the loop itself
            self._fail(error)
        self._end()

    # -- in the loop

    def _start(self, loop: Loop, program: Program) -> None:
        if self._taken():
            self._task = loop.create_task(self._awaited(program), name="bkd-shell")
            self._task.add_done_callback(lambda _task: self._end())

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _awaited(self, program: Program) -> None:
        self._task = asyncio.current_task()
        try:
            if self._interrupted:
                raise asyncio.CancelledError
            await _result(program.body, self._session.names)
            if program.value is not None:
                self._show(await _result(program.value, self._session.names))
        except asyncio.CancelledError as error:
            self._fail(KeyboardInterrupt() if self._interrupted else error)
        except BaseException as error:  # noqa: BLE001 - SystemExit, too, would end the loop
            self._fail(error)

    # -- wherever the code runs

    def _show(self, value: Any) -> None:
        if value is not None:
            self.printed.write(f"{value!r}\n")
            self._session.names["_"] = value

    def _fail(self, error: BaseException) -> None:
        self.failed = True
        self.printed.end(told(error))

    def _end(self) -> None:
        self._ended()
        self.printed.closed = self.done = True
        self._wake()


async def _result(code: CodeType, names: dict[str, Any]) -> Any:
    value = eval(code, names)
    return await value if code.co_flags & inspect.CO_COROUTINE else value


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise it at the thread's next instruction; None takes back what has not been raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error and ctypes.py_object(error))
