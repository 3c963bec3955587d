"""CPU time of processes, for those who measure what a message costs while others use the machine."""

from pathlib import Path


def cpu_seconds(*pids: int) -> float:
    """Used by all their threads so far."""
    files = (file for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9
