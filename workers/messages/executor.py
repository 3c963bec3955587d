"""Kind `messages`: a worker that runs durable messages as the dispatcher of its host hands them out."""

import asyncio
import importlib
import os
import signal
import socket
import threading

from ...ipc.message import MessagesWork
from ...ipc.processes import start_time
from ..supervision import Supervision
from .crew import Station
from .declaration import Declaration, HandlerError
from .exclusive import Exclusive, NewLoop
from .handlers import handlers
from .journal import Journal
from .shared import Shared

LEFT_BEHIND = 1.0  # seconds that threads of handlers get after SIGTERM


def prepare(work: MessagesWork) -> "Executor":
    """Import the modules that declare handlers; runs in the zygote. Raises HandlerError, and whatever they raise."""
    for name in work.handlers:
        importlib.import_module(name)
    declarations = handlers.of(work.mode)
    if not declarations:
        raise HandlerError(f"none of the modules {', '.join(work.handlers)} declares a handler for mode {work.mode}")
    return Executor(work, declarations, _loops())


class Executor:
    """Handlers ready to run; forking copies them."""

    def __init__(self, work: MessagesWork, declarations: dict[str, Declaration], new_loop: NewLoop) -> None:
        self.work, self.declarations, self._new_loop = work, declarations, new_loop

    def serve(self, listeners: list[socket.socket], supervision: Supervision, index: int) -> int:
        """Run messages until drained, or until SIGTERM; runs in the worker. Returns 0, the exit code."""
        work, pid = self.work, os.getpid()
        credit = 1 if work.mode == "exclusive" else work.concurrency
        slot = os.environ.get("BKD_SLOT", "")
        station = Station(work.socket, slot, pid, start_time(pid), work.mode, credit, self.declarations)
        journal = Journal()
        journal.open()
        if work.mode == "exclusive":
            crew = Exclusive(station, supervision, journal, asyncio.new_event_loop)
            crew.run()
            terminated = crew.terminated
        else:
            terminated = self._share(station, supervision, journal)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the exit code is settled
        if terminated:
            _hurry()
        return 0

    def _share(self, station: Station, supervision: Supervision, journal: Journal) -> bool:
        """Whether it was ended by SIGTERM: then nobody waits for what is left of the application."""
        loop = self._new_loop()
        crew = Shared(station, supervision, journal, loop)
        loop.run_until_complete(crew.run())
        if not crew.terminated:
            loop.run_until_complete(_tidy(loop))
            loop.close()
        return crew.terminated


async def _tidy(loop: asyncio.AbstractEventLoop) -> None:
    """What is left of the application: its tasks end, its asynchronous generators close, its threads finish."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


def _hurry() -> None:
    """A worker that leaves waits for the threads of its application until SIGTERM; that has come already."""
    if all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        return
    timer = threading.Timer(LEFT_BEHIND, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()


def _loops() -> NewLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
