"""The shared page of a web group: one byte per seat with the open connections of the worker that has it, 255 while
none serves there.

Workers map the file and write their own byte; the master gives the seats, and marks those whose workers cannot do so
themselves any more. Two workers of one slot have two seats. A group has a page for each user that it runs as.

The master does not map what others can make shorter: it would die of it.
"""

import os
from pathlib import Path
from typing import NamedTuple

from loguru import logger

FEWEST = 64
NOT_SERVING = 255


class Page(NamedTuple):
    """An open file, with as many seats as it was given."""

    descriptor: int
    seats: int


class Balance:
    """The pages of all groups, and which of their seats are taken."""

    def __init__(self, run_dir: str) -> None:
        self._folder = Path(run_dir, "balance")
        self._pages: dict[Path, Page] = {}
        self._taken: dict[str, set[int]] = {}

    def page(self, group: str, count: int, *, fresh: bool, uid: int = -1) -> str:
        """Path of the group's file, with room for twice `count`; `fresh`: no worker of the group has it mapped; `uid`:
        whose it is, -1: bkd's own. "" where the disk takes none: then connections are not evened out.

        Workers look at all of it for every new connection, so it is not made larger than that.
        """
        path = self._folder / (group if uid < 0 else f"{group}@{uid}")
        if path not in self._pages:
            try:
                self._make(path, max(FEWEST, 2 * count), fresh=fresh, uid=uid)
            except OSError as error:
                logger.warning("{} serves without balance between its workers: {}", group, error)
                return ""
        return str(path)

    def _make(self, path: Path, seats: int, *, fresh: bool, uid: int) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if fresh or not path.exists():
            path.touch(mode=0o600)
            path.write_bytes(bytes([NOT_SERVING]) * seats)
        if uid >= 0:
            self._folder.chmod(0o711)
            os.chown(path, uid, -1)
        self._open(path)

    def take(self, group: str) -> int:
        """The lowest seat that nobody has. Beyond the page's end there are seats as well, without balance."""
        taken = self._taken.setdefault(group, set())
        seat = next(number for number in range(len(taken) + 1) if number not in taken)
        taken.add(seat)
        return seat

    def hold(self, group: str, seat: int) -> None:
        """A worker that an earlier master started has this seat. Without its page, it cannot be marked when it dies."""
        known = group in self._taken
        self._taken.setdefault(group, set()).add(seat)
        for path in [] if known else [self._folder / group, *self._folder.glob(f"{group}@*")]:
            try:
                if path.exists():
                    self._open(path)
            except OSError as error:
                logger.warning("the balance of {} is not kept: {}", group, error)

    def gone(self, group: str, seat: int) -> None:
        """The worker there takes nothing any more, but may still live."""
        for path, page in self._pages.items():
            if path.name.partition("@")[0] == group and seat < page.seats:
                os.pwrite(page.descriptor, bytes([NOT_SERVING]), seat)

    def free(self, group: str, seat: int) -> None:
        """The worker there has ended; the seat may be given again."""
        self.gone(group, seat)
        self._taken.get(group, set()).discard(seat)

    def _open(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._pages[path] = Page(descriptor, os.fstat(descriptor).st_size)
