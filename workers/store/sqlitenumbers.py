"""Numbers of messages in SQLite: they only grow, and none is used again, whatever is deleted."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sqlitedatabase import Database

BLOCK = 64  # numbers: the row that counts them is written once for so many, and what a dead process had left is skipped


class Numbers:
    """The block that was taken last, for nobody else takes any."""

    def __init__(self, db: "Database") -> None:
        self._db = db
        self._next = self._end = 0

    def forget(self) -> None:
        """It may not have been taken after all."""
        self._next = self._end = 0

    def take(self, count: int) -> int:
        """The first of so many in a row, of the transaction under way."""
        if self._next + count > self._end:
            wanted = max(count - (self._end - self._next), BLOCK)
            (end,) = self._db.run("next_numbers", (wanted,)).fetchall()[0]
            self._next = self._next or end - wanted  # a block follows the one before, while that is known
            self._end = end
        first = self._next
        self._next += count
        return first
