"""The clock of one policy pass: what is due, and when the next thing will be."""

NEVER = float("inf")


class Watch:
    """`now`, and in `wake` the earliest limit that was looked at and has not passed: the master sleeps until then."""

    __slots__ = ("now", "wake")

    def __init__(self, now: float) -> None:
        self.now = now
        self.wake = NEVER

    def due(self, limit: float) -> bool:
        """Whether the limit has passed; if not, the next pass is at that limit at the latest."""
        if self.now >= limit:
            return True
        if limit < self.wake:
            self.wake = limit
        return False
