"""The process that imports an application to be looked at, and is thrown away."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO, NamedTuple

import msgspec

from ...ipc.message import Load
from ...ipc.stacks import DUMP_SIGNAL, Frame, ThreadStack
from ..fact import signal_name, span
from ..forensics import culprit, faultdump
from . import importtimes, procview
from .risks import CLASSES
from .seen import Failed, Inside, Memory, Seen, Sizes

PROGRAM = "from bkd.workers.forksafety import main; main()"
STARTING, FORKING = 60.0, 60.0
DUMPING = 1.0
ENDING = 2.0
LOOK = 0.05
PIECE = 1 << 16
MOST_LINES = 20


class Forked(msgspec.Struct, frozen=True):
    """Pids of two children each: one that did nothing, one that has collected."""

    loose: list[int]
    frozen: list[int]


class Trial(NamedTuple):
    """What is to be imported, by which interpreter, within how many seconds."""

    load: Load
    python: str
    limit: float


class _Over(Exception):
    """It ended, or did not answer in time."""


def seen(trial: Trial) -> Seen | Failed:
    """Import it, look at it from both sides, let it fork unless that is unsafe, and end it."""
    try:
        process = Throwaway(trial)
    except OSError as error:
        return Failed(f"{trial.python}: {error.strerror}")
    try:
        return process.looked_at()
    finally:
        process.end()


class Throwaway:
    """The process, and what it says. Ended with everything it has started, as far as that stays in its group."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self._said = b""
        self._stacks, self._errors = _file(), _file()
        self._link, other = socket.socketpair()
        descriptors = other.fileno(), self._stacks.fileno()
        with other:
            self._process = subprocess.Popen(
                [trial.python, "-P", "-X", "importtime", "-c", PROGRAM, *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=descriptors,
                start_new_session=True,
            )

    def looked_at(self) -> Seen | Failed:
        """What it has to show."""
        try:
            self._send(msgspec.json.encode(self.trial.load), msgspec.json.encode(CLASSES))
            self._line(STARTING)
            answer = msgspec.json.decode(self._line(self.trial.limit), type=Failed | Inside)
            return answer if isinstance(answer, Failed) else self._judgeable(answer)
        except _Over as over:
            return self._failure(str(over))

    def end(self) -> None:
        """SIGKILL to it and its group: it is not reaped before that, so the number is its own.

        One that the kernel holds is left to die when it can.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING)
        self._link.close()
        self._stacks.close()
        self._errors.close()

    def _judgeable(self, inside: Inside) -> Seen:
        pid = self._process.pid
        outside, alone = procview.look(pid, set(inside.own)), procview.sizes_of(pid)
        packages = importtimes.slowest(self._text(self._errors))
        whole = Seen(inside, outside, packages)
        if inside.unsafe or inside.cuda:
            return whole
        try:
            return msgspec.structs.replace(whole, memory=self._memory(alone))
        except _Over as over:
            return msgspec.structs.replace(whole, trouble=self._ending() or str(over))

    def _memory(self, alone: Sizes | None) -> Memory | None:
        self._send(b"fork")
        forked = msgspec.json.decode(self._line(FORKING), type=Forked)
        if 0 in (*forked.loose, *forked.frozen):
            raise _Over("a forked child did not live")
        return procview.memory(alone, forked.loose, forked.frozen)

    def _send(self, *lines: bytes) -> None:
        try:
            self._link.sendall(b"".join(line + b"\n" for line in lines))
        except OSError as error:
            raise _Over("it has closed its connection") from error

    def _line(self, limit: float) -> bytes:
        """The next thing it says; raises _Over."""
        deadline = time.monotonic() + limit
        while b"\n" not in self._said:
            left = deadline - time.monotonic()
            if left <= 0:
                raise _Over(f"it took longer than {span(limit)}")
            if not select.select([self._link], [], [], min(LOOK, left))[0]:
                if self._ending():
                    raise _Over("it ended")
                continue
            piece = self._link.recv(PIECE)
            if not piece:
                self._wait_for_end()
                raise _Over("it ended")
            self._said += piece
        line, _newline, self._said = self._said.partition(b"\n")
        return line

    def _failure(self, why: str) -> Failed:
        """Of a process that ended, or hangs: then it is asked for its stacks."""
        if not self._ending():
            self._ask_for_stacks()
        stacks, cwd = self._text(self._stacks), self.trial.load.cwd
        head, threads = faultdump.fatal(stacks)
        frames = [frame for thread in (threads or faultdump.parse(stacks))[:1] for frame in _theirs(thread, cwd)]
        lines = [f"  {culprit.called(frame, cwd)}" for frame in frames] or importtimes.printed(self._text(self._errors))
        blamed = culprit.culprit(frames, cwd)
        at = f", at {culprit.called(blamed, cwd)}" if blamed else ""
        return Failed((self._ending() or why) + at, "\n".join([*([head] if head else []), *lines[-MOST_LINES:]]))

    def _ask_for_stacks(self) -> None:
        deadline = time.monotonic() + DUMPING
        os.kill(self._process.pid, DUMP_SIGNAL)
        while not self._ending() and not faultdump.complete(self._text(self._stacks)) and time.monotonic() < deadline:
            select.select([], [], [], LOOK)

    def _wait_for_end(self) -> None:
        """A process that ends closes its files a moment before it can be waited for."""
        deadline = time.monotonic() + ENDING
        while not self._ending() and time.monotonic() < deadline:
            select.select([], [], [], LOOK)

    def _ending(self) -> str:
        """How it has ended, "" while it has not; it is not reaped by that."""
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return ""
        how = f"exit code {ended.si_status}" if ended.si_code == os.CLD_EXITED else signal_name(ended.si_status)
        return f"the process that imported it ended: {how}"

    def _text(self, file: IO[bytes]) -> str:
        """All that is in it, from wherever others have got to."""
        return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


def _file() -> IO[bytes]:
    """Closed with the process."""
    return tempfile.TemporaryFile()


def _theirs(thread: ThreadStack, cwd: str) -> list[Frame]:
    """Without the machinery that imports, which is bkd's and the interpreter's."""
    return [frame for frame in thread.frames if culprit.library(frame.file, cwd) not in ("bkd", "importlib")]


def interpreter(configured: str) -> str:
    """The application's, bkd's own when it has none."""
    return configured or sys.executable
