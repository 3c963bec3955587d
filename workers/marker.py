"""The mark by which the master finds what a worker left behind: `BKD_TREE` in the environment a process was born with.

A worker is forked, not exec'd, so /proc/PID/environ of it and of the copies it forks shows the zygote's environment.
The keeper gives every blank interpreter a placeholder there, and the worker writes its own mark over it.
"""

import os

NAME = b"BKD_TREE="


def mark(tree: str) -> bool:
    """Write this worker's mark into its memory; False if there is no placeholder of that length.

    proc(5): fields 50 and 51 of /proc/PID/stat are where the initial environment lies; /proc/self/mem is the memory.
    """
    with open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        environment = os.pread(memory, end - start, start)
        at = (b"\0" + environment).find(b"\0" + NAME)
        old = environment[at + len(NAME) :].partition(b"\0")[0] if at >= 0 else b""
        if len(old) != len(tree):
            return False
        return os.pwrite(memory, tree.encode(), start + at + len(NAME)) == len(tree)
    finally:
        os.close(memory)
