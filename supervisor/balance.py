"""The shared page of a web group: one byte per slot with its open connections, 255 while it does not serve.

Workers map the file and write their own byte; the master only marks those that cannot do so themselves any more.
"""

import mmap
from pathlib import Path

SLOTS = 1024
NOT_SERVING = 255


class Balance:
    """The pages of all groups."""

    def __init__(self, run_dir: str) -> None:
        self._folder = Path(run_dir, "balance")
        self._pages: dict[str, mmap.mmap] = {}

    def page(self, group: str) -> str:
        """Path of the group's file; made full of NOT_SERVING when it is not there."""
        path = self._folder / group
        if group not in self._pages:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if not path.exists() or path.stat().st_size != SLOTS:
                path.write_bytes(bytes([NOT_SERVING]) * SLOTS)
            with path.open("r+b") as file:
                self._pages[group] = mmap.mmap(file.fileno(), SLOTS)
        return str(path)

    def gone(self, group: str, slot: str) -> None:
        """This slot's worker takes nothing any more."""
        index = int(slot.rpartition(".")[2]) - 1
        if group in self._pages and index < SLOTS:
            self._pages[group][index] = NOT_SERVING
