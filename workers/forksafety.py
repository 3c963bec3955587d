"""The throw-away process of `bkd doctor fork-safety`: imports an application as a zygote does, tells what that left in
the interpreter, and forks when it is told to.

It judges nothing, and what the kernel knows of it is read from outside. It talks with whoever started it in lines of
JSON on a socket: a Load and names of classes come; an empty document goes when the import begins, what was seen when it
is over; any line comes, the pids of children go; then it waits to be ended. Standard error gets marks around the
import, a file the stacks that faulthandler writes.
"""

import contextlib
import faulthandler
import gc
import json
import os
import select
import signal
import socket
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

import msgspec

from ..ipc.errors import BkdError
from ..ipc.message import FunctionWork, Load, WebWork
from ..ipc.stacks import DUMP_SIGNAL
from . import trace
from .afresh import import_afresh
from .folder import enter
from .sources import INSTALLED
from .zygote import Prepared, prepare, unsafe

BEGIN, END = b"bkd: the import begins\n", b"bkd: the import is over\n"
MOST = 100
MOST_FRAMES = 12
MOST_PLACES = 1000
PATIENCE = 20.0
PROCESSES = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}
WRITING = frozenset("wax+")
_STDLIB = os.path.join(os.path.dirname(os.__file__), "")
_OURS = os.path.join(os.path.dirname(os.path.realpath(__file__)), "")


def main() -> NoReturn:
    """Entry point; the arguments are the descriptors of the socket and of the file for stacks."""
    link, stacks = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    for descriptor in (link.fileno(), stacks):
        os.set_inheritable(descriptor, False)
    faulthandler.enable(stacks)
    faulthandler.register(DUMP_SIGNAL, file=stacks, all_threads=True, chain=False)
    orders = link.makefile("rb")
    load = msgspec.json.decode(orders.readline(), type=Load)
    classes = frozenset(msgspec.json.decode(orders.readline(), type=list[str]))
    _warm(load)
    _tell(link, {})
    _tell(link, _document(load, classes))
    if orders.readline():
        _tell(link, _forked())
    orders.readline()
    os._exit(0)


def _tell(link: socket.socket, document: dict[str, Any]) -> None:
    link.sendall(json.dumps(document, ensure_ascii=False).encode(errors="replace") + b"\n")


def _warm(load: Load) -> None:
    """What bkd itself brings into every worker is not the application's to answer for."""
    from . import function  # noqa: F401

    if isinstance(load.work, WebWork):
        from . import web  # noqa: F401


def _document(load: Load, classes: frozenset[str]) -> dict[str, Any]:
    own = set(_descriptors())
    handlers, objects, onlooker = _handlers(), _objects(classes), Onlooker()
    onlooker.watch_threads()
    sys.addaudithook(onlooker)
    os.write(2, BEGIN)
    began = time.monotonic()
    try:
        _import(load)
    except BaseException as error:  # noqa: BLE001 - whatever the application raises is the answer
        return _failure(error)
    took = time.monotonic() - began
    os.write(2, END)
    return {
        "type": "imported",
        "seconds": took,
        "own": sorted(own),
        "unsafe": unsafe(own),
        "cuda": _cuda(),
        "threads": list(_threads(onlooker)),
        "sockets": list(_sockets(own, onlooker)),
        "handlers": _changed(handlers),
        "objects": _objects(classes) - objects,
        "packages": sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names),
        "files": {str(what): place for what, place in onlooker.of("file").items() if place},
        "processes": [place for place in onlooker.of("process").values() if place],
        "loops": [place for place in onlooker.of("loop").values() if place],
    }


def _failure(error: BaseException) -> dict[str, Any]:
    """The errors of bkd say it all in a line."""
    if isinstance(error, BkdError):
        return {"type": "failed", "reason": str(error), "trace": ""}
    return {"type": "failed", "reason": trace.one_line(error), "trace": trace.told(error)}


def _import(load: Load) -> Prepared:
    """As the zygote does it, but for the freezing."""
    os.environ.update(load.env)
    import_afresh()
    enter(load.cwd)
    gc.disable()
    with contextlib.redirect_stdout(sys.stderr):
        return _prepared(load)


def _prepared(load: Load) -> Prepared:
    """What belongs to no group may be an application or a function: it is tried as both."""
    try:
        return prepare(load.work)
    except Exception:
        if load.group or not isinstance(load.work, WebWork):
            raise
        with contextlib.suppress(Exception):  # the first error is the one to tell
            return prepare(FunctionWork(load.work.app))
        raise


class Onlooker:
    """An audit hook that notes which line starts processes, connects, and opens files to write; threads besides."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, Any], str] = {}

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by the interpreter for everything that happens: nearly always it must cost nothing."""
        if event == "open":
            if _writes(arguments[1], arguments[2]):
                self._note("file", os.path.realpath(arguments[0]) if isinstance(arguments[0], str) else arguments[0])
        elif event == "socket.connect":
            self._note("socket", arguments[0].fileno())
        elif event in PROCESSES:
            self._note("process", len(self._places))
        elif event == "socket.__new__" and _makes_loop(sys._getframe(1)):
            self._note("loop", len(self._places))

    def watch_threads(self) -> None:
        """Their start is an event for audit hooks in newer interpreters only."""
        start = threading.Thread.start

        def noted(thread: threading.Thread) -> None:
            self._note("thread", id(thread))
            start(thread)

        threading.Thread.start = noted  # type: ignore[assignment,method-assign]

    def of(self, kind: str) -> dict[Any, str]:
        """Where each of a kind was seen, "" when no line of Python outside the standard library did it."""
        return {what: place for (noted, what), place in self._places.items() if noted == kind}

    def _note(self, kind: str, what: Any) -> None:
        if len(self._places) < MOST_PLACES:
            self._places[kind, what] = _place(sys._getframe(2))


def _writes(mode: object, flags: int) -> bool:
    return bool(WRITING & set(mode)) if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR))


def _makes_loop(frame: FrameType | None) -> bool:
    """asyncio's loops begin with a pair of sockets for themselves."""
    while frame is not None and frame.f_code.co_filename in (__file__, socket.__file__):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == "_make_self_pipe"


def _place(frame: FrameType | None) -> str:
    """The innermost line of the application; where there is none, of an installed library."""
    library = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if not INSTALLED.isdisjoint(file.split(os.sep)):
            library = library or f"{file}:{frame.f_lineno}"
        elif not file.startswith((_STDLIB, "<")) and not os.path.realpath(file).startswith(_OURS):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return library


def _threads(onlooker: Onlooker) -> Iterator[dict[str, Any]]:
    """Python's own, without the main one."""
    places, frames = onlooker.of("thread"), sys._current_frames()
    for thread in threading.enumerate()[:MOST]:
        if thread is not threading.main_thread():
            stack = list(_frames(frames.get(thread.ident or 0)))
            yield {"name": thread.name, "tid": thread.native_id, "place": places.get(id(thread), ""), "stack": stack}


def _frames(frame: FrameType | None) -> Iterator[dict[str, Any]]:
    for _ in range(MOST_FRAMES):
        if frame is None:
            return
        code = frame.f_code
        yield {"file": code.co_filename, "line": frame.f_lineno or 0, "function": code.co_name}
        frame = frame.f_back


def _sockets(own: set[int], onlooker: Onlooker) -> Iterator[dict[str, Any]]:
    """Those that were opened: `peer` is null when it is not connected."""
    places = onlooker.of("socket")
    for number in sorted(set(_descriptors()) - own)[:MOST]:
        with contextlib.suppress(OSError):  # closed by a thread meanwhile
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as sock:
                yield {
                    "fd": number,
                    "stream": sock.type == socket.SOCK_STREAM,
                    "listens": bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)),
                    "here": _address(sock.getsockname()),
                    "peer": _peer(sock),
                    "place": places.get(number, ""),
                }


def _descriptors() -> Iterator[int]:
    """The listing itself takes one, which is closed again."""
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            os.fstat(number)
            yield number


def _peer(sock: socket.socket) -> str | None:
    try:
        return _address(sock.getpeername())
    except OSError:
        return None


def _address(address: Any) -> str:
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in str(address[0]) else str(address[0])
        return ":".join([host, *map(str, address[1:2])])
    return os.fsdecode(address).replace("\0", "@")


def _handlers() -> dict[int, Any]:
    return {int(number): signal.getsignal(number) for number in signal.valid_signals()}


def _changed(before: dict[int, Any]) -> dict[int, str]:
    """Signals that have another handler now, and its name."""
    return {number: _called(handler) for number, handler in _handlers().items() if handler is not before[number]}


def _called(handler: Any) -> str:
    if handler is None:
        return "C code"
    if isinstance(handler, signal.Handlers):
        return handler.name
    return f"{getattr(handler, '__module__', '')}.{getattr(handler, '__qualname__', type(handler).__name__)}"


def _objects(classes: frozenset[str]) -> Counter[str]:
    """How many objects there are of these classes, and of classes made from them, written `package.Class`."""
    found: Counter[str] = Counter()
    kinds = list(map(type, gc.get_objects()))
    counts = Counter(map(id, kinds))  # not every class can be hashed
    for kind in {id(kind): kind for kind in kinds}.values():
        for name in classes.intersection(_names(kind)):
            found[name] += counts[id(kind)]
    return found


def _names(kind: type) -> Iterator[str]:
    for each in type.__dict__["__mro__"].__get__(kind):
        module = each.__dict__.get("__module__")
        if isinstance(module, str):
            yield f"{module.partition('.')[0]}.{each.__name__}"


def _cuda() -> bool:
    """Whether PyTorch has begun to use a GPU, which no fork survives."""
    torch: Any = sys.modules.get("torch")
    asked = getattr(getattr(torch, "cuda", None), "is_initialized", None)
    return asked is not None and bool(asked())


def _forked() -> dict[str, Any]:
    """Two children as they would be without gc.freeze(), and two as they are: one that does nothing, one that has
    collected."""
    loose = [_child(collects=False), _child(collects=True)]
    gc.freeze()
    return {"loose": loose, "frozen": [_child(collects=False), _child(collects=True)]}


def _child(*, collects: bool) -> int:
    """Its pid, as soon as it has done what it is to do; 0 when it does not get that far."""
    done, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _wait_in_child(end, collects=collects)
    os.close(end)
    ready = select.select([done], [], [], PATIENCE)[0]
    said = os.read(done, 1) if ready else b""
    os.close(done)
    return pid if said else 0


def _wait_in_child(end: int, *, collects: bool) -> NoReturn:
    """Runs in the child, until that is killed."""
    try:
        if collects:
            gc.collect()
        os.write(end, b"!")
        while True:
            signal.pause()
    finally:
        os._exit(1)
