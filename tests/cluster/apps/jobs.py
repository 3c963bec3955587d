"""What groups of kind `python` run that have work in hand when they are to end."""

import os
import time

import version

from bkd.ipc import ipc


def worker():
    """Finishes its work when there is a file `open`."""
    print(f"begun {version.VERSION}", flush=True)
    while not ipc.stopping(0.02):
        pass
    print(f"asked {version.VERSION}", flush=True)
    while not os.path.exists("open"):
        time.sleep(0.01)
    print(f"finished {version.VERSION}", flush=True)
