"""What a process was doing: stacks of threads and tasks as plain data, innermost frame first."""

import signal

import msgspec

DUMP_SIGNAL = signal.SIGRTMAX - 6  # programs that use signals of their own use the first ones, debuggers the last
MOST_THREADS, MOST_TASKS, MOST_FRAMES, MOST_OPEN = 50, 100, 50, 50
LONGEST_NAME = 300


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


def bounded(stacks: Stacks) -> Stacks:
    """No more of it than may be shown: whoever sent it may be anything."""
    return Stacks(
        threads=[_thread(thread) for thread in stacks.threads[:MOST_THREADS]],
        tasks=[
            TaskStack(task.name[:LONGEST_NAME], bounded_frames(task.frames), task.waits[:LONGEST_NAME])
            for task in stacks.tasks[:MOST_TASKS]
        ],
        work=[OpenWork(work.what[:LONGEST_NAME], max(0.0, work.age)) for work in stacks.work[:MOST_OPEN]],
        threads_left_out=max(0, stacks.threads_left_out) + max(0, len(stacks.threads) - MOST_THREADS),
        tasks_left_out=max(0, stacks.tasks_left_out) + max(0, len(stacks.tasks) - MOST_TASKS),
    )


def bounded_frames(frames: list[Frame]) -> list[Frame]:
    """The same of one stack."""
    return [
        Frame(frame.file[:LONGEST_NAME], frame.line, frame.function[:LONGEST_NAME]) for frame in frames[:MOST_FRAMES]
    ]


def _thread(thread: ThreadStack) -> ThreadStack:
    return ThreadStack(thread.name[:LONGEST_NAME], bounded_frames(thread.frames), thread.main, thread.tid)
