"""What is told of the end of a cluster."""

from .fact import Fact, Level


class StopAsked(Fact, frozen=True):
    line = "stop asked for: {why}"
    why: str


class ClusterStopped(Fact, frozen=True):
    """The last process is gone; `code` is the exit code of `bkd start`, `why`: what did not end in peace."""

    line = "stopped with exit code {code}"
    code: int
    why: str = ""

    def level(self) -> Level:
        return "error" if self.code else "info"

    def _text(self) -> str:
        return f"{super()._text()}: {self.why}" if self.why else super()._text()
