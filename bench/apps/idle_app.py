"""A small worker that says that it is there, and waits."""

import os
from pathlib import Path

from bkd.ipc import ipc


def main() -> None:
    Path("pid.new").write_text(str(os.getpid()))
    Path("pid.new").rename("pid")
    ipc.stopping(None)
