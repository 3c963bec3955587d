"""Another bkd for the master: tried by the keeper, and taken back when it does not come up.

Standard library only. The rules are values here; the keeper does what follows from them.
"""

from typing import Any, NamedTuple

TRIES = 3
PAUSE = 0.1


class Code(NamedTuple):
    """What runs a master: an interpreter, and the folder that its bkd comes from ("": what it has installed)."""

    python: str
    path: str = ""

    def python_path(self, given: str | None) -> str | None:
        """PYTHONPATH for it, `given` being what the keeper was started with; None: no such variable."""
        return f"{self.path}:{given}" if self.path and given else self.path or given


class Trial:
    """One upgrade, from the order to its verdict; monotonic seconds.

    `version`, `target`: of the old bkd and the new one; `said`: the file that takes what new masters say on standard
    error; `began`, `since`: when it was asked for, and when its present step began; `limit`: seconds for each step;
    `tries`: masters of the new code so far; `settled`: it is known how it ended, `failed` says why not; `told`: a
    master has told that; `killed`: the time was over and whoever was there has been killed. `keeper`: whether the
    keeper itself is to be replaced ("", "wanted", "done", or why that failed).
    """

    def __init__(self, number: int, order: dict[str, Any], old: Code, now: float) -> None:
        self.number = number
        self.began = self.since = now
        self.new, self.old = Code(order["python"]), old
        self.version, self.target = str(order["version"]), str(order["target"])
        self.said, self.limit = str(order["said"]), float(order["limit"])
        self.keeper = "wanted" if order.get("keeper") else ""
        self.tries = 0
        self.failed = ""
        self.settled = self.told = self.killed = False

    @classmethod
    def restored(cls, row: dict[str, Any]) -> "Trial":
        """The one that `row` was the document of."""
        made = cls.__new__(cls)
        vars(made).update({**row, "new": Code(*row["new"]), "old": Code(*row["old"])})
        return made

    def document(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return dict(vars(self))

    @property
    def is_busy(self) -> bool:
        """Whether another one has to wait."""
        return not self.settled or self.keeper == "wanted"

    @property
    def deadline(self) -> float:
        """When the new master must be up, or the next keeper be ready to take over."""
        return self.since + self.limit

    @property
    def pause(self) -> float:
        """Seconds until the next try."""
        return PAUSE * 2 ** (self.tries - 1) if self.tries else 0.0

    def begin_try(self) -> None:
        """A master of the new code is started."""
        self.tries += 1

    def goes_on(self, how: str, now: float) -> bool:
        """A master has ended without having come up, the first being the old one; whether there is another try."""
        late = now >= self.deadline
        if not late and self.tries < TRIES:
            return True
        times = f"{self.tries} times in a row" if self.tries > 1 else "at its start"
        self.fail(f"the new master was not up within {self.limit:g} s" if late else f"it ended {times}: {how}")
        return False

    def fail(self, why: str) -> None:
        """The old code stays."""
        self.settled, self.failed = True, why
        self.keeper = ""

    def passed(self, now: float) -> None:
        """A master of the new code is up; the next keeper, if there is to be one, has as long as that had."""
        self.settled, self.killed, self.since = True, False, now
