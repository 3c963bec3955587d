"""Handlers of messages that behave and misbehave. What they do is appended to `runs.jsonl`, a JSON document a line."""

import asyncio
import json
import os
import resource
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from bkd.workers import Calendar, Context, Exponential, Fixed, Invalid, Retry, Snooze, handler

SOON = Fixed(every="50ms", max_attempts=5)
RUNS = "runs.jsonl"


def tell(context: Context, event: str, **more: object) -> None:
    """One line; lines of several processes do not mix."""
    told = {"id": context.id, "kind": context.kind, "attempt": context.attempt, "run": context.iteration + 1}
    told |= {"pid": os.getpid(), "stage": context.stage, "event": event, "at": time.time()} | more
    descriptor = os.open(RUNS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, json.dumps(told).encode() + b"\n")
    os.close(descriptor)


@contextmanager
def recorded(context: Context, **more: object):
    """Its start, and its end unless it is interrupted."""
    tell(context, "start", **more)
    yield
    tell(context, "end", **more)


async def opened(gate: str) -> None:
    """Wait until the file is there."""
    while not Path(gate).exists():
        await asyncio.sleep(0.01)


# -- what ends well


@handler("note")
async def note(context: Context, text: str = "") -> str:
    with recorded(context, text=text):
        return text


@handler("noop")
async def noop() -> None:
    pass


@handler("gate", retry=SOON)
async def gate(context: Context, gate: str) -> str:
    """Goes on when the file is there."""
    with recorded(context):
        await opened(gate)
    return gate


@handler("portal", retry=SOON)
async def portal(context: Context, gate: str) -> str:
    """A gate of one test alone: nobody knows it to be quick, so nobody is given more than can run at once."""
    with recorded(context):
        await opened(gate)
    return gate


@handler("nap", retry=SOON, max_crashes=1000)
async def nap(context: Context, seconds: float) -> float:
    with recorded(context):
        await asyncio.sleep(seconds)
    return seconds


@handler("ticking", retry=SOON)
async def ticking(context: Context, seconds: float) -> None:
    """Says all the time that it is there."""
    end = time.monotonic() + seconds
    with recorded(context):
        while time.monotonic() < end:
            tell(context, "tick")
            await asyncio.sleep(0.02)


@handler("alone", retry=SOON, mode="exclusive")
def alone(context: Context, seconds: float) -> float:
    with recorded(context):
        time.sleep(seconds)
    return seconds


@handler("block", retry=SOON, timeout="1h")
async def block(context: Context, seconds: float) -> float:
    """Holds up the loop of its process."""
    with recorded(context):
        time.sleep(seconds)
    return seconds


@handler("brief", keep=0)
async def brief(context: Context, fail: bool = False) -> None:
    """Nothing is kept of it when it ends well."""
    with recorded(context):
        if fail:
            raise Invalid("told to")


# -- what fails


@handler("thrice", retry=Fixed(every="20ms", max_attempts=3), notify="ops@example.org")
async def thrice(context: Context, text: str = "") -> None:
    tell(context, "start", text=text)
    raise ConnectionRefusedError(f"nobody is there for {text}")


@handler("once", max_attempts=1)
async def once(context: Context) -> None:
    tell(context, "start")
    raise OSError("it does not work")


@handler("two-seconds", retry=Calendar(step=2, unit="second", max_attempts=2))
async def two_seconds(context: Context) -> None:
    tell(context, "start")
    if context.attempt == 1:
        raise OSError("not yet")


@handler("monthly", retry=Calendar(step=1, unit="month", max_attempts=2))
async def monthly(context: Context) -> None:
    tell(context, "start")
    raise OSError("next month")


@handler("growing", retry=Exponential(max_attempts=25), alarm=1000)
async def growing(context: Context) -> None:
    tell(context, "start")
    raise OSError("later, and later")


@handler("fixed", retry=Fixed(every="1m", max_attempts=10))
async def fixed(context: Context, after: float | None = None) -> None:
    """Fails; the first time it may say when it wants to be run again."""
    tell(context, "start")
    if after is None:
        raise OSError("in a minute")
    if context.attempt == 1:
        raise Retry("sooner", after=after)


@handler("entity", retry=Fixed(every="50ms", max_attempts=10_000))
async def entity(context: Context, document_id: int) -> None:
    """Its document is a file; without one it is invalid. A document that says `busy` has to wait."""
    tell(context, "start")
    document = Path(f"document-{document_id}")
    if not document.exists():
        raise Invalid(f"there is no document {document_id}")
    raise OSError(document.read_text())


@handler("looping", retry=Fixed(every="20ms", max_attempts=100_000), alarm=20)
async def looping(context: Context, document_id: int) -> None:
    """Fails until its document is there."""
    if not Path(f"document-{document_id}").exists():
        raise OSError(f"document {document_id} is not there")


@handler("staged", stages=("send", "apply"), retry=SOON)
async def staged(context: Context, failures: int = 1, gate: str = "") -> str:
    """Its first stage succeeds, its second one fails so many times."""
    tell(context, "start")
    if context.stage == "send":
        return "sent"
    if context.attempt <= failures:
        raise OSError("not applied")
    if gate:
        await opened(gate)
    return f"{context.outputs['send']}, applied"


# -- locks


@handler("locked", retry=Fixed(every="1h", max_attempts=5), lock=lambda args: args.key)
async def locked(context: Context, key: str, gate: str = "", fail: bool = False) -> None:
    with recorded(context):
        if gate:
            await opened(gate)
        if fail and context.attempt == 1:
            raise OSError("with the lock in hand")


@handler("add", lock=lambda args: "counter", max_locks=200)
async def add(context: Context) -> int:
    """One more in the file; without the lock some get lost."""
    counter = Path("counter")
    value = int(counter.read_text()) if counter.exists() else 0
    await asyncio.sleep(0.005)
    counter.write_text(str(value + 1))
    return value + 1


# -- what ends its process


@handler("die", retry=Fixed(every="50ms", max_attempts=9), max_crashes=3)
async def die(context: Context, number: int = signal.SIGKILL, times: int = 100) -> str:
    """Its process gets a signal while it runs, so many times."""
    tell(context, "start")
    if context.attempt <= times:
        os.kill(os.getpid(), number)
        time.sleep(60)
    return "alive"


@handler("last-words", retry=SOON)
async def last_words(context: Context, delay: float) -> str:
    """Its process dies a moment after it has returned."""
    with recorded(context):
        if context.attempt == 1:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return "said"


@handler("murder", retry=SOON, max_crashes=50)
async def murder(context: Context, pid: int, when: str, delay: float = 0.0) -> str:
    """Kills another process, or its own, in its first run: before its effect, after it, or after it has returned."""
    point = when if context.iteration == 0 else ""
    if point == "before":
        kill(pid)
        await asyncio.sleep(0.05)
    tell(context, "start")
    if point == "after":
        kill(pid)
        await asyncio.sleep(0.05)
    if point == "returned":
        threading.Timer(delay, kill, (pid,)).start()
    return "done"


def kill(pid: int) -> None:
    """Nothing happens when it is dead already."""
    with suppress(ProcessLookupError):
        os.kill(pid or os.getpid(), signal.SIGKILL)


@handler("stuck", timeout="200ms", grace="100ms", retry=Fixed(every="50ms", max_attempts=2))
async def stuck(context: Context) -> None:
    """Nothing ends it but a signal."""
    tell(context, "start")
    time.sleep(3600)


@handler("stopped", timeout="1s", retry=Fixed(every="50ms", max_attempts=2), mode="exclusive")
def stopped(context: Context) -> str:
    """Its process stops, the first time."""
    tell(context, "start")
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return "went on"


@handler("hungry", retry=SOON, max_crashes=2)
async def hungry(context: Context, size: int) -> int:
    """Takes memory until there is none."""
    tell(context, "start")
    taken = []
    while sum(map(len, taken)) < size:
        taken.append(bytearray(b"x" * 1_000_000))
    return len(taken)


@handler("bounded", retry=SOON, max_attempts=1, mode="exclusive")
def bounded(context: Context, size: int) -> int:
    """Wants more memory than its process may have."""
    tell(context, "start")
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, old[1]))
    try:
        return len(b"x" * size)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


# -- odd ones


@handler("snooze", retry=SOON)
async def snooze(context: Context, gate: str) -> str:
    """Puts itself off once the gate is open, the first time."""
    with recorded(context):
        await opened(gate)
        if context.iteration == 0:
            raise Snooze("10ms")
    return "awake"


@handler("descriptors")
async def descriptors(context: Context) -> dict[str, str]:
    """What this process has open."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


@handler("babble", retry=SOON)
async def babble(context: Context) -> str:
    """Says nonsense to the dispatcher over the connection of its executor."""
    with recorded(context):
        said = 0
        for name in os.listdir("/proc/self/fd"):
            said += _babbled(int(name)) if context.iteration == 0 else 0
        await asyncio.sleep(0.2)
    return f"{said} times"


def _babbled(descriptor: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            is_it = str(sock.getpeername()).endswith("messages.sock")
            if is_it:
                sock.send(b"\x00\x00\x00\x05nonsense that is no frame")
            return is_it
    except OSError:
        return False


@handler("enqueue")
async def enqueue_more(context: Context, kind: str, options: dict[str, object]) -> int:
    """A message made by a handler, with options that the command line does not have."""
    from bkd.workers import enqueue

    receipt = await enqueue(kind, {}, **options)
    return receipt.id
