"""What a process was doing: stacks of threads and tasks as plain data, innermost frame first."""

import signal

import msgspec

DUMP_SIGNAL = signal.SIGRTMAX - 6  # programs that use signals of their own use the first ones, debuggers the last
MOST_THREADS, MOST_TASKS, MOST_FRAMES, MOST_OPEN = 50, 100, 50, 50


class Frame(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call: `text` is the line of source, "" when nobody has read it."""

    file: str
    line: int
    function: str
    text: str = ""


class ThreadStack(msgspec.Struct, frozen=True, omit_defaults=True):
    """A thread of Python. `name` is "" where only its number is known; `tid`: the kernel's, 0 when not known."""

    name: str
    frames: list[Frame]
    main: bool = False
    tid: int = 0


class TaskStack(msgspec.Struct, frozen=True, omit_defaults=True):
    """A task of asyncio and what it awaits, and what that awaits …; `waits`: what the innermost one waits for."""

    name: str
    frames: list[Frame]
    waits: str = ""


class OpenWork(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request that is not answered yet: method and path, without what stands behind `?`; `age` in seconds."""

    what: str
    age: float


class Stacks(msgspec.Struct, frozen=True, omit_defaults=True):
    """All of one process at one moment. `tasks_left_out`, `threads_left_out`: how many more there were."""

    threads: list[ThreadStack] = []
    tasks: list[TaskStack] = []
    work: list[OpenWork] = []
    threads_left_out: int = 0
    tasks_left_out: int = 0
