"""Probes, each tried in a child process of its own: what it changes is gone with it, and it may hang or crash."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from ..fact import signal_name, span
from .finding import Finding, untried

Probe = Callable[[], Finding]

LIMIT = 4.0
AT_ONCE = 4
PIECE = 1 << 16


@dataclass
class _Attempt:
    """One child. What it has said so far ends with a newline when it is all: the pipe may outlive the child, in
    processes that the probe has started."""

    name: str
    pid: int
    answer: int
    deadline: float
    said: bytes = b""
    closed: bool = False

    @property
    def answered(self) -> bool:
        return self.said.endswith(b"\n")


def tried(probes: Mapping[str, Probe], limit: float = LIMIT) -> list[Finding]:
    """What each probe found; whoever takes longer than `limit` seconds is given up."""
    waiting = list(probes.items())
    running: list[_Attempt] = []
    found: dict[str, Finding] = {}
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                running.append(_begin(*waiting.pop(0), limit))
            _listen(running)
            for attempt in [attempt for attempt in running if _is_over(attempt)]:
                running.remove(attempt)
                found[attempt.name] = _finding(attempt, limit)
    finally:
        for attempt in running:
            _kill(attempt)
    return [found[name] for name in probes]


def _begin(name: str, probe: Probe, limit: float) -> _Attempt:
    answer, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(name, probe, out)
    os.close(out)
    return _Attempt(name, pid, answer, time.monotonic() + limit)


def _child(name: str, probe: Probe, out: int) -> NoReturn:
    """Runs in the child, which leads a process group: whatever the probe starts is ended with it."""
    try:
        os.setpgid(0, 0)
        answer = _encoded(probe())
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the finding
        answer = _encoded(untried(name, f"{type(error).__name__}: {error}"))
    os.write(out, answer + b"\n")
    os._exit(0)


def _encoded(finding: Finding) -> bytes:
    """Paths may hold what is no text."""
    texts = (text.encode(errors="backslashreplace").decode() for text in (finding.found, finding.means))
    return msgspec.json.encode(Finding(finding.name, finding.state, *texts))


def _listen(running: list[_Attempt]) -> None:
    """Wait until one of them says something or takes too long."""
    patience = max(0.0, min(attempt.deadline for attempt in running) - time.monotonic())
    readable = select.select([attempt.answer for attempt in running], [], [], patience)[0]
    for attempt in running:
        if attempt.answer in readable:
            piece = os.read(attempt.answer, PIECE)
            attempt.said += piece
            attempt.closed = not piece


def _is_over(attempt: _Attempt) -> bool:
    return attempt.answered or attempt.closed or attempt.deadline <= time.monotonic()


def _finding(attempt: _Attempt, limit: float) -> Finding:
    _kill(attempt)
    if not attempt.answered and not attempt.closed:
        return untried(attempt.name, f"no answer within {span(limit)}")  # not waited for: the kernel may hold it
    _pid, status = os.waitpid(attempt.pid, 0)
    if not attempt.answered:
        return untried(attempt.name, f"it ended the process that tried it ({_told(status)})")
    return msgspec.json.decode(attempt.said, type=Finding)


def _told(status: int) -> str:
    return signal_name(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"


def _kill(attempt: _Attempt) -> None:
    """The child and what it has started; not reaped yet, so the number is still its own."""
    os.close(attempt.answer)
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):  # it may not have got to lead a group
            kill(attempt.pid, signal.SIGKILL)
