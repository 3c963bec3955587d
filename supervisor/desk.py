"""What a command is handed, and what it may use of the master."""

from typing import Any, Protocol

from ..ipc.errors import BkdError
from ..ipc.message import Command, Finished, Progress
from .config.schema import Config
from .connection import Connection
from .effects import Effects
from .fact import Fact
from .memory import Memory
from .tasks import Tasks
from .turns import Turns

USAGE = 2
PIECE = 1 << 16


class UsageError(BkdError):
    """The command makes no sense; exit code 2."""


class Request:
    """One command of one client."""

    def __init__(self, connection: Connection, number: int, command: Command) -> None:
        self.connection, self.number, self.command = connection, number, command

    @property
    def arguments(self) -> dict[str, Any]:
        """What stands behind the verb."""
        return self.command.arguments

    def progress(self, text: str) -> None:
        """A line for the terminal while the command goes on."""
        self.connection.send(Progress(err=f"{text}\n"), re=self.number)

    def say(self, text: str) -> None:
        """The same for standard output."""
        self.connection.send(Progress(out=f"{text}\n"), re=self.number)

    def sign_of_life(self) -> None:
        """Nothing to say, but the master is there."""
        self.connection.send(Progress(), re=self.number)

    def promise(self, resume: dict[str, Any]) -> None:
        """What was asked for is under way and written down: the next master knows it as well."""
        self.connection.send(Progress(resume=resume), re=self.number)

    def finish(self, finished: Finished) -> None:
        """The end; what is too long for one message comes in pieces."""
        for piece in _pieces(finished.out):
            self.connection.send(Progress(out=piece), re=self.number)
        for piece in _pieces(finished.err):
            self.connection.send(Progress(err=piece), re=self.number)
        self.connection.send(Finished(finished.code), re=self.number)

    def name(self) -> str:
        """The one group or slot that is meant."""
        name = self.arguments.get("name")
        if not isinstance(name, str):
            raise UsageError("which group or slot? For example: web, or web.2")
        return name


def _pieces(text: str) -> list[str]:
    return [text[start : start + PIECE] for start in range(0, len(text), PIECE)]


class Desk(Protocol):
    """What commands need of the master."""

    config: Config
    turns: Turns
    effects: Effects
    began: float
    keeper_pid: int
    tasks: Tasks
    memory: Memory

    def remember(self) -> None:
        """Write the state down before a promise is given."""

    def tell(self, fact: Fact) -> None:
        """Into the journal."""
