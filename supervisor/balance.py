"""The shared page of a web group: one byte per seat with the open connections of the worker that has it, 255 while
none serves there.

Workers map the file and write their own byte; the master gives the seats, and marks those whose workers cannot do so
themselves any more. Two workers of one slot have two seats.
"""

import mmap
from pathlib import Path

FEWEST = 64
NOT_SERVING = 255


class Balance:
    """The pages of all groups, and which of their seats are taken."""

    def __init__(self, run_dir: str) -> None:
        self._folder = Path(run_dir, "balance")
        self._pages: dict[str, mmap.mmap] = {}
        self._taken: dict[str, set[int]] = {}

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
            self._map(group)
        return str(path)

    def take(self, group: str) -> int:
        """The lowest seat that nobody has. Beyond the page's end there are seats as well, without balance."""
        taken = self._taken.setdefault(group, set())
        seat = next(number for number in range(len(taken) + 1) if number not in taken)
        taken.add(seat)
        return seat

    def hold(self, group: str, seat: int) -> None:
        """A worker that an earlier master started has this seat."""
        self._taken.setdefault(group, set()).add(seat)
        if group not in self._pages and (self._folder / group).exists():
            self._map(group)

    def gone(self, group: str, seat: int) -> None:
        """The worker there takes nothing any more, but may still live."""
        page = self._pages.get(group)
        if page is not None and seat < len(page):
            page[seat] = NOT_SERVING

    def free(self, group: str, seat: int) -> None:
        """The worker there has ended; the seat may be given again."""
        self.gone(group, seat)
        self._taken.get(group, set()).discard(seat)

    def _map(self, group: str) -> None:
        with (self._folder / group).open("r+b") as file:
            self._pages[group] = mmap.mmap(file.fileno(), 0)
