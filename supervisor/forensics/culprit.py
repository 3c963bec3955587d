"""Which frame of a stack is to blame: the innermost of the application's own code, else of the libraries it uses. Pure.

Frames are innermost first. A file is the application's when it lies below its folder and not among installed packages,
or when it is of the package that the configuration names, wherever that is; `library` names the package of all others.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence, Set
from typing import NamedTuple, Self

from msgspec.structs import replace

from ...ipc.stacks import Frame, Stacks, TaskStack, ThreadStack

LONGEST_TEXT = 160

_INSTALLED = re.compile(r"(?:^|/)(?:site|dist)-packages/(?P<name>[^/]+)")
_STANDARD = re.compile(r"(?:^|/)lib(?:32|64)?/(?:python3[^/]*|pypy3[^/]*)/(?P<name>[^/]+)")
_BKD = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_FOLDERS = [os.path.join(_BKD, name, "") for name in ("supervisor", "ipc", "workers")]
_OURS = tuple({*_FOLDERS, *(os.path.join(os.path.realpath(folder), "") for folder in _FOLDERS)})
_PLUMBING = frozenset({"asyncio", "uvicorn", "uvloop", "a2wsgi", "starlette", "bkd"}) | sys.stdlib_module_names
_LOOPS = frozenset({"asyncio", "bkd", "selectors", "uvicorn", "uvloop"})
_WAITS = frozenset({"http", "multiprocessing", "queue", "selectors", "socket", "ssl", "threading"})
_POOLS = frozenset({"a2wsgi", "anyio", "concurrent"})
_ENTRY, _REQUEST, _RECEIVE, _LIFESPAN = "<string>", "run_asgi", "receive", "/lifespan"
_REFERENCE = re.compile(r"[A-Za-z_]\w*")


class Home(NamedTuple):
    """Where the application's own code lies: its folder, and its top package or module wherever that is installed, ""
    when it is not known."""

    cwd: str
    package: str = ""

    @classmethod
    def of(cls, cwd: str, reference: str) -> Self:
        """`reference`: MODULE:NAME as the configuration has it, or "" ."""
        match = _REFERENCE.match(reference)
        return cls(cwd, match[0] if match else "")


def culprit(frames: list[Frame], home: Home | str) -> Frame | None:
    """The frame to blame; None without any frame. `home` may be the folder alone."""
    home = Home(home) if isinstance(home, str) else home
    own = (frame for frame in frames if is_own(frame, home))
    others = (frame for frame in frames if not _is_plumbing(frame, home.cwd))
    return next(own, None) or next(others, None) or next(iter(frames), None)


def of_stacks(stacks: Stacks, home: Home, running: Set[int] = frozenset()) -> Frame | None:
    """The frame to blame for what a process does, None when nobody is. `running`: threads by the kernel's numbers that
    have the CPU.

    A main thread that waits in its event loop is innocent: then it is the thread or task of the oldest message, else a
    thread that works for the loop, else a task of a request or of the start, else a thread that runs; those that are in
    the application's code at this moment, or in a lock or a socket, go before others. What merely waits in the
    background is innocent as well.
    """
    main = _main(stacks)
    if main is not None and not rests(stacks, home):
        return culprit(main.frames, home)
    threads = _beside(stacks, home)
    pooled = [thread for thread in threads if _is_pooled(thread, home.cwd)]
    working: list[ThreadStack | TaskStack] = [*_named(stacks), *pooled, *filter(_works, stacks.tasks)]
    busy = [thread for thread in threads if thread.tid in running]
    foreign = (stack for stack in working if any(not _is_plumbing(frame, home.cwd) for frame in stack.frames))
    blamed = _first_own([*working, *busy], home) or next(foreign, None)
    if blamed is None and main is None and threads:
        blamed = threads[0]
    return culprit(blamed.frames, home) if blamed is not None else None


def of_hung(stacks: Stacks, home: Home, running: Set[int] = frozenset()) -> Frame | None:
    """The same of a process that is ended since it makes no progress: then also what waits in the background."""
    tasks = [task for task in stacks.tasks if task.frames and not lives_on(task)]
    background: list[ThreadStack | TaskStack] = [*tasks, *_beside(stacks, home)]
    found = of_stacks(stacks, home, running)
    waiting = _first_own(background, home) if found is None else None
    return culprit(waiting.frames, home) if waiting is not None else found


def of_work(stacks: Stacks, home: Home, name: str, running: Set[int] = frozenset()) -> Frame | None:
    """The same of a process that is ended since one piece of work does not end; its thread or task has this name. What
    waits in a loop does so in vain while the main thread does not turn it."""
    thread = next((thread for thread in stacks.threads if thread.name == name and thread.frames), None)
    task = next((task for task in stacks.tasks if task.name == name and task.frames), None)
    if thread is not None:
        return culprit(thread.frames, home)
    if task is not None and rests(stacks, home):
        return culprit(task.frames, home)
    return of_hung(stacks, home, running)


def rests(stacks: Stacks, home: Home) -> bool:
    """Whether the main thread waits in its event loop."""
    main = _main(stacks)
    return main is not None and library(main.frames[0].file, home.cwd) in _LOOPS and not is_own(main.frames[0], home)


def lives_on(task: TaskStack) -> bool:
    """Whether it is the lifespan of an application that has started: it waits for the server's next message."""
    return any(_LIFESPAN in frame.file and frame.function == _RECEIVE for frame in task.frames)


def with_text(frames: list[Frame], read: Callable[[str, int], str]) -> list[Frame]:
    """The frames with their lines of source; `read` gives the line of a file, "" when there is none."""
    return [
        replace(frame, text=read(frame.file, frame.line)) if not frame.text and _is_file(frame) else frame
        for frame in frames
    ]


def shown(frame: Frame, cwd: str) -> str:
    """`app.py:31 in block: time.sleep(600)`."""
    text = frame.text.strip()
    text = text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
    return called(frame, cwd) + (f": {text}" if text else "")


def called(frame: Frame, cwd: str) -> str:
    """`app.py:31 in block`."""
    return f"{place(frame, cwd)} in {frame.function}" if frame.function else place(frame, cwd)


def place(frame: Frame, cwd: str) -> str:
    """`app.py:31`: below `cwd` the path from there, of an installed package the path from its root."""
    if not frame.line:
        return frame.file
    return f"{_path(frame.file, cwd)}:{frame.line}"


def is_own(frame: Frame, home: Home) -> bool:
    """Whether it is the application's own code; without a folder: whether it is no library's."""
    if not _is_file(frame):
        return False
    found = library(frame.file, home.cwd)
    if found:
        return found == home.package and found not in _PLUMBING
    return not home.cwd or _below(frame.file, home.cwd) is not None or _is_of(frame.file, home.package)


def library(file: str, cwd: str) -> str:
    """The package that a file belongs to, such as `uvicorn`, "" when it is none that is installed.

    A relative name is taken to be one of `cwd`, unless it is of compiled code, which says where it was built.
    """
    if file == _ENTRY:
        return "bkd"
    if file.startswith("<"):
        return file.strip("<>").removeprefix("frozen ").partition(".")[0].partition(" ")[0]
    if file.endswith((".pyx", ".pxd", ".pxi")) and not os.path.isabs(file):
        return _name(file.partition("/")[0])
    if os.path.normpath(file).startswith(_OURS):
        return "bkd"
    inside = _below(file, cwd)
    looked = inside if inside is not None and _is_installed(f"{cwd}/") else os.path.normpath(file)
    match = _INSTALLED.search(looked) or _STANDARD.search(looked)
    return _name(match["name"]) if match else ""


def _is_of(file: str, package: str) -> bool:
    """Whether a file that is not installed is this module, or lies in a folder that is called by this package."""
    *folders, name = os.path.normpath(file).split(os.sep)
    return bool(package) and package in (*folders, _name(name))


def _is_installed(path: str) -> bool:
    return bool(_INSTALLED.search(f"{path}x") or _STANDARD.search(f"{path}x"))


def _name(part: str) -> str:
    return part.partition(".")[0]


def _is_file(frame: Frame) -> bool:
    return bool(frame.file) and not frame.file.startswith("<") and frame.line > 0


def _path(file: str, cwd: str) -> str:
    """As short as it may be without doubt about which file it is."""
    folder = next((folder for folder in _OURS if os.path.normpath(file).startswith(folder)), "")
    if folder:
        return f"bkd/{os.path.relpath(file, os.path.dirname(os.path.dirname(folder)))}"
    if library(file, cwd):
        match = _INSTALLED.search(file) or _STANDARD.search(file)
        return file[match.start("name") :] if match else file
    return _below(file, cwd) or file


def _below(file: str, cwd: str) -> str | None:
    """The path from `cwd`, None when it is not below it."""
    path = os.path.normpath(file)
    if not os.path.isabs(path):
        return None if path.startswith("..") or file.startswith("<") else path
    folder = os.path.join(os.path.normpath(cwd), "") if cwd else ""
    return path.removeprefix(folder) if folder and path.startswith(folder) else None


def _is_plumbing(frame: Frame, cwd: str) -> bool:
    return library(frame.file, cwd) in _PLUMBING


def _main(stacks: Stacks) -> ThreadStack | None:
    return next((thread for thread in stacks.threads if thread.main and thread.frames), None)


def _beside(stacks: Stacks, home: Home) -> list[ThreadStack]:
    """The threads that are not main, the most suspicious first."""
    threads = [thread for thread in stacks.threads if not thread.main and thread.frames]
    return sorted(threads, key=lambda thread: _suspicion(thread, home), reverse=True)


def _first_own(stacks: Sequence[ThreadStack | TaskStack], home: Home) -> ThreadStack | TaskStack | None:
    return next((stack for stack in stacks if any(is_own(frame, home) for frame in stack.frames)), None)


def _named(stacks: Stacks) -> list[ThreadStack | TaskStack]:
    """The threads and tasks that are called by what is open, the oldest first."""
    ages = {work.what: work.age for work in stacks.work}
    found: list[ThreadStack | TaskStack] = [*stacks.threads, *stacks.tasks]
    return sorted((one for one in found if one.name in ages and one.frames), key=lambda one: -ages[one.name])


def _works(task: TaskStack) -> bool:
    """Whether it answers a request, or starts the application."""
    return not lives_on(task) and any(frame.function == _REQUEST or _LIFESPAN in frame.file for frame in task.frames)


def _is_pooled(thread: ThreadStack, cwd: str) -> bool:
    """Whether the loop, or a server of WSGI, gives it its work."""
    return any(library(frame.file, cwd) in _POOLS for frame in thread.frames)


def _suspicion(thread: ThreadStack, home: Home) -> bool:
    innermost = thread.frames[0]
    return is_own(innermost, home) or library(innermost.file, home.cwd) in _WAITS
