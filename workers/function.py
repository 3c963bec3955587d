"""Kind `python`: an async or plain function of the application as a worker."""

import asyncio
import importlib
import inspect
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from ..ipc.application import ipc
from ..ipc.message import Drain, FunctionWork
from .supervision import Load, Supervision


class TargetError(Exception):
    """The target of a python group cannot be run; the text says why."""


def prepare(work: FunctionWork) -> "Function":
    """Import `module:function`; runs in the zygote. Raises TargetError, or whatever the import raises."""
    module_name, _, path = work.target.partition(":")
    found: Any = importlib.import_module(module_name)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise TargetError(f'"{work.target}": {module_name} has no {path}') from error
    if not callable(found):
        raise TargetError(f'"{work.target}" is a {type(found).__name__}, not a function')
    return Function(found, work.notify)


class Function:
    """The imported function, to be run in a worker."""

    def __init__(self, target: Callable[[], Any], notify: bool) -> None:
        self.target, self.notify = target, notify
        self.is_async = inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(
            getattr(target, "__call__", None)  # noqa: B004 - the method itself is looked at
        )

    def serve(self, listeners: list[socket.socket], supervision: Supervision, index: int) -> int:
        """Run it to its end; runs in the worker. An exception of the function ends the process with its traceback."""
        return self._serve_async(supervision) if self.is_async else self._serve_plain(supervision)

    def _serve_plain(self, supervision: Supervision) -> int:
        """A plain function is interrupted by SystemExit at its next instruction, unless it asks `ipc.stopping()`."""

        def leave(number: int, frame: FrameType | None) -> NoReturn:
            supervision.terminated()
            sys.exit(0)

        signal.signal(signal.SIGTERM, leave)
        supervision.on_drain(_interrupt)
        if not self.notify:
            supervision.ready()
        return _code(self.target())

    def _serve_async(self, supervision: Supervision) -> int:
        with asyncio.Runner() as runner:
            return runner.run(self._main(supervision))

    async def _main(self, supervision: Supervision) -> int:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self.target(), name="main")
        supervision.watch(loop, Load)
        stopped = False

        def stop() -> None:
            nonlocal stopped
            stopped = True
            task.cancel()

        def drain(_drain: Drain) -> None:
            loop.call_soon_threadsafe(lambda: None if ipc.listens_for_stop else stop())

        def terminate() -> None:
            supervision.terminated()
            stop()

        loop.add_signal_handler(signal.SIGTERM, terminate)
        supervision.on_drain(drain)
        if not self.notify:
            supervision.ready()
        try:
            return _code(await task)
        except asyncio.CancelledError:
            if stopped:
                return 0
            raise


def _interrupt(drain: Drain) -> None:
    """Runs in the heartbeat thread: the main thread's sleep or read has to be interrupted, too."""
    if not ipc.listens_for_stop:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _code(result: object) -> int:
    return result if isinstance(result, int) and not isinstance(result, bool) else 0
