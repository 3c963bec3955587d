"""Whose processes these are: those of one run of one machine, seen from one pid namespace."""

import os
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
PROCESSES = Path("/proc/self/ns/pid")


def instance() -> str:
    """The same for processes that can see each other, and for no others. Where a pid that another one has written down
    means something else, or nothing, this is another one, too. Raises OSError without /proc."""
    return f"{BOOT.read_text('ascii').strip()}/{os.stat(PROCESSES).st_ino}"
