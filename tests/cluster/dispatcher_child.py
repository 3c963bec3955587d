"""A dispatcher in a process of its own, with nobody to supervise it: PATH URL BASE. `drain` and `last` are orders on
its standard input; it says `ready`."""

import sys
import threading
from pathlib import Path

from bkd.ipc.message import DispatcherWork, Drain
from bkd.workers.dispatch import main
from bkd.workers.dispatch.door import bound


class Supervision:
    """Reads orders from standard input, and prints what it is told."""

    def watch(self, *_what) -> None:
        """Nobody measures."""

    def ready(self) -> None:
        print("ready", flush=True)

    def failed(self, reason: str, trace: str = "") -> None:
        print("failed", reason, flush=True)

    def terminated(self) -> None:
        print("terminated", flush=True)

    def on_drain(self, callback) -> None:
        def listen() -> None:
            for line in sys.stdin:
                callback(Drain(last=line.strip() == "last"))

        threading.Thread(target=listen, daemon=True).start()


path, url, base = sys.argv[1:4]
dispatch = main.prepare(DispatcherWork(url, base, "h1", patience=1.0))
sys.exit(dispatch.serve([bound(Path(path))], Supervision(), 0))
