"""What can happen while a group comes onto another release. See `supervisor.facts`."""

from msgspec.structs import asdict

from ..ipc.quantity import counted
from .fact import Release, span


class RollStarted(Release, frozen=True):
    """A group is to come onto this release."""

    line = "{group}: rolling from release {old} to {release}: {why}"
    old: int
    why: str


class RollMoved(Release, frozen=True):
    """A roll has come to a new stage; `slot` is the canary's, `moved` of `count` slots have the new release, `watched`
    is how long a worker has to stay healthy."""

    stage: str
    moved: int
    count: int
    slot: str = ""
    watched: float = 0.0

    def about(self, name: str) -> bool:
        return name == self.group

    def _text(self) -> str:
        moved = "its one worker has moved and is" if self.count == 1 else f"all {self.count:,} have moved and are"
        texts = {
            "canary": f"{self.slot} goes first and is watched for {span(self.watched)}",
            "rolling": f"{self.moved} of {self.count} moved",
            "settling": f"{moved} watched for {span(self.watched)}",
        }
        return f"{self.group}: release {self.release} {self.stage}: {texts.get(self.stage, '')}"


class RollDone(Release, frozen=True):
    """The last old worker is gone; `left`: held slots that keep another release."""

    old: int
    workers: int
    seconds: float
    left: list[str]

    def _text(self) -> str:
        number = counted(self.workers, "worker")
        left = f"; held and not moved: {', '.join(self.left)}" if self.left else ""
        return f"{self.group}: release {self.release} is live, {number}, took {span(self.seconds)}{left}"


class RollAborted(Release, frozen=True):
    """The new release was not good enough; the old one goes on. `slot`: where that was seen; `trace`: its last words,
    a traceback or the end of its log; `serving`: slots that do their work, -1 when that does not matter any more."""

    line = "{group}: release {release} was aborted while {stage}: {reason}{rest}"
    severity = "error"
    old: int
    stage: str
    reason: str
    slot: str = ""
    trace: str = ""
    serving: int = -1

    def about(self, name: str) -> bool:
        return name in (self.group, self.slot)

    def _text(self) -> str:
        stage = {"canary": "its canary was tried"}.get(self.stage, self.stage)
        rests = {-1: "", 0: f"; release {self.old} stays, but no slot is ready: see bkd status"}
        rest = rests.get(self.serving, f"; release {self.old} goes on serving")
        return self.line.format_map({**asdict(self), "stage": stage, "rest": rest})


class RolledBack(Release, frozen=True):
    """After a roll that was aborted: nothing is left of the new release, and this one serves alone."""

    line = "{group}: release {release} serves alone again"
