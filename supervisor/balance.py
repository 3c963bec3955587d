"""The shared page of a web group: one byte per slot with its open connections, 255 while it does not serve.

Workers map the file and write their own byte; the master only marks those that cannot do so themselves any more.
"""

import mmap
from pathlib import Path

FEWEST = 64
NOT_SERVING = 255


class Balance:
    """The pages of all groups."""

    def __init__(self, run_dir: str) -> None:
        self._folder = Path(run_dir, "balance")
        self._pages: dict[str, mmap.mmap] = {}

    def page(self, group: str, count: int, *, fresh: bool) -> str:
        """Path of the group's file, with room for twice `count`; `fresh`: no worker of the group has it mapped.

        Workers look at all of it for every new connection, so it is not made larger than that.
        """
        path = self._folder / group
        if group not in self._pages:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if fresh or not path.exists():
                path.touch(mode=0o600)
                path.write_bytes(bytes([NOT_SERVING]) * max(FEWEST, 2 * count))
            with path.open("r+b") as file:
                self._pages[group] = mmap.mmap(file.fileno(), 0)
        return str(path)

    def gone(self, group: str, slot: str) -> None:
        """This slot's worker takes nothing any more."""
        index = int(slot.rpartition(".")[2]) - 1
        page = self._pages.get(group)
        if page is not None and index < len(page):
            page[index] = NOT_SERVING
