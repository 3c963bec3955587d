"""The store's clock, as it goes on between two looks at it."""

import time


class Clock:
    """Milliseconds of UTC by the store, carried on by the monotonic clock; 0 before the first look."""

    def __init__(self) -> None:
        self._offset = 0.0

    @property
    def steady(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def now(self) -> int:
        """Milliseconds of UTC."""
        return int(1000 * time.monotonic() + self._offset)

    def set(self, moment: int) -> None:
        """The store has said what time it is."""
        self._offset = moment - 1000 * time.monotonic()

    def until(self, moment: int) -> float:
        """The monotonic moment of a moment of the store."""
        return (moment - self._offset) / 1000
