"""The identity of a process, and where its output goes. Standard library only."""

import contextlib
import os

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def start_time(pid: int) -> int:
    """What makes a pid one process: its start time in clock ticks since boot, 0 when there is no such process.

    Field 22 of /proc/PID/stat, see proc(5).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0


def redirect(path: str) -> None:
    """Append this process's standard output and error to a file, no link, from now on; "" leaves them as they are.

    A file that cannot be opened is said so on standard error, which then stays what it was: work goes before logs.
    """
    if not path:
        return
    try:
        os.makedirs(os.path.dirname(path), 0o750, exist_ok=True)
        out = os.open(path, _FLAGS, 0o640)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(2, f"bkd: {path} cannot be opened: {error.strerror}\n".encode())
        return
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)
