"""The identity of a process: its pid and its start time. A pid alone may have been given to somebody else."""


def start_time(pid: int) -> int:
    """Start time in clock ticks since boot, field 22 of /proc/PID/stat (proc(5)); 0 when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0
