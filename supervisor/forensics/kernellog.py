"""The kernel's log: what it says of processes that it killed for memory, or that crashed."""

import os
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path

DEVICE = "/dev/kmsg"
MOST_RECORDS = 500
MOST_READS = 5000
MOST_SAID = 5
RECENT = 5.0
RECORD_BYTES = 8192
COMM_BYTES = 15
FIRST_NAMESPACE = "pid:[4026531836]"
NAMESAKE = " (a process of this name)"

_PID = r"(?P<pid>[0-9]{1,10})"
_OOM = (
    re.compile(
        rf"(?:Out of memory|Memory cgroup out of memory).*: Kill(?:ed)? process {_PID} \((?P<comm>.*?)\)(?:,| |$)"
    ),
    re.compile(rf"oom-kill:.*\btask=(?P<comm>.*),pid={_PID}\b"),
)
_FAULT = "segfault at|general protection|trap |unhandled |bad frame"
_FAULTS = (
    re.compile(rf"(?:traps: )?(?P<comm>.{{1,16}})\[{_PID}\]:? (?:{_FAULT})"),
    re.compile(rf"INFO: task (?P<comm>.{{1,16}}):{_PID} blocked for more than "),
)
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


class KernelLog:
    """Reads what the kernel says from now on. `why_not`: why nothing will be heard, "" otherwise."""

    def __init__(self, device: str = DEVICE) -> None:
        self.why_not = ""
        self._descriptor: int | None = None
        self._heard: deque[tuple[float, str]] = deque(maxlen=MOST_RECORDS)
        try:
            self._descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._descriptor, 0, os.SEEK_END)
        except PermissionError:
            self.why_not = f"{device} may not be read: see kernel.dmesg_restrict, or give bkd CAP_SYSLOG"
        except OSError as error:
            self.why_not = f"{device} cannot be read: {error.strerror}"

    def new(self) -> list[str]:
        """Messages of the kernel itself since the last call, oldest first; of many the MOST_RECORDS newest."""
        found: deque[str] = deque(maxlen=MOST_RECORDS)
        for _ in range(MOST_READS):
            try:
                record = self._read()
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # some were overwritten before they were read: the next read goes on behind them
            if not record:
                break
            line = message(record)
            if line is not None:
                found.append(line)
        return list(found)

    def recent(self, now: float) -> list[str]:
        """What `new` gives, behind what was heard in the RECENT seconds before `now`: several may die at once."""
        self._heard.extend((now, line) for line in self.new())
        return [line for heard, line in self._heard if now - heard <= RECENT]

    def close(self) -> None:
        """Nothing is heard after that."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor, self.why_not = None, "it is closed"

    def _read(self) -> bytes:
        """b"" when there is nothing to read from."""
        if self._descriptor is None or self.why_not:
            return b""
        try:
            return os.read(self._descriptor, RECORD_BYTES)
        except (BlockingIOError, BrokenPipeError):
            raise
        except OSError as error:
            self.why_not = f"reading failed: {error.strerror}"
            return b""


def message(record: bytes) -> str | None:
    """The text of one record of /dev/kmsg; None when a program wrote it, or it is no record."""
    head, separator, rest = record.partition(b";")
    level = head.partition(b",")[0]
    if not separator or not level.isdigit() or len(level) > 4 or int(level) >> 3 != 0:
        return None
    line = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), rest.partition(b"\n")[0])
    return "".join(letter if letter.isprintable() else "?" for letter in line.decode(errors="replace"))


def sees_kernel_numbers() -> bool:
    """Whether pids of this process are those that the kernel prints: not so in a pid namespace of a container."""
    try:
        return Path("/proc/self/ns/pid").readlink().name == FIRST_NAMESPACE
    except OSError:
        return False


def about(lines: Sequence[str], pid: int, comm: str, *, numbered: bool | None = None) -> list[str]:
    """What these messages say of one process, the MOST_SAID last lines. Pure if `numbered` is given.

    `numbered`: whether its pid is the one that the kernel prints; None: find out. Where it is not, and for crashes of
    a thread, which go by the thread's number, lines on processes of the same name are given and marked.
    """
    numbered = sees_kernel_numbers() if numbered is None else numbered
    exact = [line for line in lines if numbered and _names(line, _OOM + _FAULTS)[0] == pid]
    if exact:
        return exact[-MOST_SAID:]
    of_name = [line for line in lines if _is_of(comm, line, _FAULTS if numbered else _OOM + _FAULTS)]
    return [line + NAMESAKE for line in of_name[-MOST_SAID:]]


def _is_of(comm: str, line: str, patterns: Sequence[re.Pattern[str]]) -> bool:
    short = comm.encode()[:COMM_BYTES].decode(errors="replace").strip()
    return bool(short) and _names(line, patterns)[1].strip() == short


def _names(line: str, patterns: Sequence[re.Pattern[str]]) -> tuple[int, str]:
    """Pid and name of the process that a line is on; 0 and "" when it is on none."""
    for pattern in patterns:
        match = pattern.match(line)
        if match is not None:
            return int(match["pid"]), match["comm"]
    return 0, ""
