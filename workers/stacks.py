"""What this process is doing right now: stacks of its threads, of its tasks; and the file for those of the worst times.

Looking is done from the heartbeat thread while everything else goes on. So nothing here takes a lock, reads a file or
calls code of the application, not even its `repr`.
"""

import asyncio
import faulthandler
import fcntl
import gc
import heapq
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    GetSetDescriptorType,
    MemberDescriptorType,
)
from typing import Any

import msgspec

from ..ipc.stacks import (
    DUMP_SIGNAL,
    MOST_FRAMES,
    MOST_TASKS,
    MOST_THREADS,
    Frame,
    OpenWork,
    Stacks,
    TaskStack,
    ThreadStack,
)

NAME = "bkd-stacks"
MOST_BYTES = 1 << 19  # a message holds twice as much
LONGEST_TEXT = 1000
LONGEST_CHAIN = 1000
ATTEMPTS = 3
ASYNCIO = os.path.dirname(asyncio.__file__) + os.sep
AWAITABLE = (CoroutineType, GeneratorType, AsyncGeneratorType)
AWAITING = (("cr_await", "cr_frame"), ("gi_yieldfrom", "gi_frame"), ("ag_await", "ag_frame"))
GATHERING = asyncio.tasks._GatheringFuture  # type: ignore[attr-defined]
HEAP_TYPE = 1 << 9  # of type.__flags__: made at run time
WRAPPERS = {"anext_awaitable", "async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}
_log = logging.getLogger("bkd")


class FaultFile:
    """A file in memory to which faulthandler appends the stacks of all threads, at DUMP_SIGNAL and at a fatal signal.

    It needs no interpreter lock and no disk for that, and whoever holds the file can read it when the process is gone.
    What the application or its environment has enabled for fatal signals stays in force. `descriptor` is -1 when the
    kernel gives no such file; then DUMP_SIGNAL ends the process.
    """

    def __init__(self) -> None:
        self.descriptor = _appendable()
        self._fatal: weakref.ref[_Target] | None = None
        if self.descriptor < 0:
            return
        faulthandler.register(DUMP_SIGNAL, self.descriptor, all_threads=True, chain=False)
        if not faulthandler.is_enabled():
            target = _Target(self.descriptor)
            faulthandler.enable(target, all_threads=True)
            self._fatal = weakref.ref(target)

    def keep_from_copies(self) -> None:
        """Called once in a worker: what the application forks, such as its pools, writes into the log and not here."""
        os.register_at_fork(after_in_child=self._leave)

    def _leave(self) -> None:
        if self.descriptor >= 0 and self._fatal is not None and self._fatal() is not None:
            faulthandler.unregister(DUMP_SIGNAL)
            faulthandler.enable(2, all_threads=True)

    def anew(self) -> "FaultFile":
        """Called in a process that was forked: a file of its own instead of the one it shares with its parent."""
        if self.descriptor >= 0:
            faulthandler.unregister(DUMP_SIGNAL)
            if self._fatal is not None and self._fatal() is not None:
                faulthandler.disable()
            os.close(self.descriptor)
        return FaultFile()


class _Target:
    """Held by faulthandler alone: it is gone when the application has enabled or disabled something itself."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def flush(self) -> None:
        """There is nothing to be written out, but faulthandler asks for it."""


def _appendable() -> int:
    try:
        descriptor = os.memfd_create(NAME, os.MFD_CLOEXEC)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    except OSError as error:
        _log.warning("bkd dump and bkd why will show less: no file for stacks: %s", error.strerror)
        return -1
    return descriptor


def take(loop: asyncio.AbstractEventLoop | None, work: list[OpenWork]) -> Stacks:
    """What all threads but the calling one do, and the tasks of `loop`; with the open `work` put in."""
    threads, tasks = _threads(), _tasks(loop) if loop is not None else []
    current = asyncio.current_task(loop) if loop is not None else None
    shown = heapq.nsmallest(MOST_TASKS, tasks, key=lambda task: (task is not current, _order(task)))
    stacks = Stacks(
        threads=threads[:MOST_THREADS],
        tasks=[_task(task, is_current=task is current) for task in shown],
        work=work,
        threads_left_out=max(0, len(threads) - MOST_THREADS),
        tasks_left_out=len(tasks) - len(shown),
    )
    return _fitted(stacks)


def of_main_thread() -> list[Frame]:
    """Where the main thread is; innermost first, at most MOST_FRAMES."""
    return frames_from(sys._current_frames().get(threading.main_thread().ident or 0))


def frames_from(frame: FrameType | None) -> list[Frame]:
    """A frame and those that called it, at most MOST_FRAMES."""
    found: list[Frame] = []
    while frame is not None and len(found) < MOST_FRAMES:
        found.append(_told(frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return found


def _threads() -> list[ThreadStack]:
    """The main thread first, then the others as they were started. `threading.enumerate` would wait for a lock."""
    known: dict[int, threading.Thread] = dict(threading._active)  # type: ignore[attr-defined]
    main, caller = threading.main_thread().ident, threading.get_ident()
    frames = [(ident, frame) for ident, frame in sys._current_frames().items() if ident != caller]
    found = [_thread(known.get(ident), frame, main=ident == main) for ident, frame in reversed(frames)]
    return sorted(found, key=lambda thread: not thread.main)


def _thread(thread: threading.Thread | None, frame: FrameType, *, main: bool) -> ThreadStack:
    if thread is None:
        return ThreadStack("", frames_from(frame), main)
    about = object.__getattribute__(thread, "__dict__")  # its properties may be the application's own
    return ThreadStack(_text(about.get("_name")), frames_from(frame), main, about.get("_native_id") or 0)


def _tasks(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    """Empty when there is no moment in which they stay the same: they come and go in the thread of the loop."""
    for _attempt in range(ATTEMPTS):
        try:
            return list(asyncio.all_tasks(loop))
        except RuntimeError as error:
            reason = error
    _log.warning("the tasks change too fast to be looked at: %s", reason)
    return []


def _order(task: asyncio.Task[Any]) -> tuple[int, str]:
    """By age, as far as tasks have the names that asyncio gives."""
    name = _name(task)
    return len(name), name


def _name(task: Any) -> str:
    return _text(asyncio.Task.get_name(task)) if isinstance(task, asyncio.Task) else ""


def _task(task: Any, *, is_current: bool) -> TaskStack:
    """A class of the application may stand for a task, and its methods are not called."""
    if not isinstance(task, asyncio.Task):
        return TaskStack("", [], "a task that is not one of asyncio")
    frames: deque[Frame] = deque(maxlen=MOST_FRAMES)
    inside = ""
    for code, line in _chain(asyncio.Task.get_coro(task)):
        frames.append(_told(code, line))
        if not code.co_filename.startswith(ASYNCIO):
            inside = ""
        elif not code.co_qualname.startswith("_"):
            inside = inside or code.co_qualname
    waits = "" if is_current else _waits(_slot(task, "_fut_waiter"), inside)
    return TaskStack(_name(task), list(reversed(frames)), _text(waits))


def _chain(awaited: Any) -> Iterator[tuple[CodeType, int]]:
    """A coroutine, what it awaits, what that awaits …: where each of them is."""
    for _link in range(LONGEST_CHAIN):
        kind = type(awaited)
        names = next((names for names in AWAITING if _is_native(kind, names[0])), None)
        if names is not None:
            frame = _slot(awaited, names[1])
            awaited = _slot(awaited, names[0])
            if frame is not None:
                yield frame.f_code, frame.f_lineno
        elif (
            type.__dict__["__name__"].__get__(kind) in WRAPPERS
            and not type.__dict__["__flags__"].__get__(kind) & HEAP_TYPE
        ):
            awaited = next((inner for inner in gc.get_referents(awaited) if isinstance(inner, AWAITABLE)), None)
        else:
            return


def _native(kind: type, name: str) -> Any:
    """The descriptor of that name if it is of C, None when there is none or it may be code of the application."""
    for base in type.__dict__["__mro__"].__get__(kind):
        found = type.__dict__["__dict__"].__get__(base).get(name)
        if found is not None:
            return found if isinstance(found, GetSetDescriptorType | MemberDescriptorType) else None
    return None


def _is_native(kind: type, name: str) -> bool:
    return _native(kind, name) is not None


def _slot(thing: Any, name: str) -> Any:
    """A field of an object of C, without asking the object; None when it has none."""
    kind = type(thing)
    descriptor = _native(kind, name)
    return descriptor.__get__(thing, kind) if descriptor is not None else None


def _waits(future: Any, inside: str) -> str:
    """In a few words; `inside` is the function of asyncio that was called, if that is where it waits."""
    if future is None:
        return "its turn"
    if isinstance(future, asyncio.Task):
        return f'task "{_name(future)}"'
    kind = type(future)
    if kind is GATHERING:
        return f"gather of {len(future._children)}"
    if kind is not asyncio.Future:
        return inside or str(type.__dict__["__name__"].__get__(kind))
    if asyncio.Future.done(future):
        return "its turn"
    return inside or ("a thread or process of an executor" if _is_executed(future) else "Future")


def _is_executed(future: "asyncio.Future[Any]") -> bool:
    """Whether it stands for a future of `concurrent.futures`, as that of `run_in_executor` does."""
    callbacks = [callback for callback, _context in future._callbacks or ()]
    return any(type(callback) is FunctionType and callback.__module__ == "asyncio.futures" for callback in callbacks)


def _told(code: CodeType, line: int | None) -> Frame:
    return Frame(_text(code.co_filename), line or 0, _text(code.co_name))


def _text(text: object) -> str:
    """Names may be anything, also what no message can hold."""
    return (
        text[:LONGEST_TEXT].encode(errors="backslashreplace")[:LONGEST_TEXT].decode(errors="ignore")
        if isinstance(text, str)
        else ""
    )


def _fitted(stacks: Stacks) -> Stacks:
    """As much of it as a message holds; the last tasks and threads go first, then the outermost frames."""
    while len(msgspec.msgpack.encode(stacks)) > MOST_BYTES:
        threads, tasks = stacks.threads, stacks.tasks
        if len(threads) <= 1 and not tasks:
            if not any(thread.frames for thread in threads):
                return Stacks(threads_left_out=len(threads), tasks_left_out=stacks.tasks_left_out)
            short = [
                msgspec.structs.replace(thread, frames=thread.frames[: len(thread.frames) // 2]) for thread in threads
            ]
            stacks = msgspec.structs.replace(stacks, threads=short)
            continue
        stacks = msgspec.structs.replace(
            stacks,
            threads=threads[: max(1, len(threads) // 2)],
            tasks=tasks[: len(tasks) // 2],
            threads_left_out=stacks.threads_left_out + len(threads) - max(1, len(threads) // 2),
            tasks_left_out=stacks.tasks_left_out + len(tasks) - len(tasks) // 2,
        )
    return stacks
