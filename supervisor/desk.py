"""What a command is handed, and what it may use of the master."""

import pwd
from typing import Any, NamedTuple, Protocol

from ..ipc.errors import BkdError
from ..ipc.message import Command, Finished, Message, Progress
from .config.schema import Config
from .context import Context
from .effects import Effects
from .exchange import Exchange
from .fact import Fact
from .memory import Memory
from .tasks import Tasks
from .turns import Turns

USAGE = 2
PIECE = 1 << 16


class UsageError(BkdError):
    """The command makes no sense; exit code 2."""


class Audience(Protocol):
    """Who is told how a command goes."""

    def send(self, message: Message, *, re: int) -> None:
        """One more message about the command of this number; the last one is Finished."""


class Issuer(NamedTuple):
    """Who gave a command, for the audit. `name`: a worker such as `web.1`, or "" for a user of the command line."""

    uid: int
    pid: int
    name: str = ""

    @property
    def title(self) -> str:
        """The worker, or the user as the user database has it now; "" when it has none."""
        if self.name:
            return self.name
        try:
            return pwd.getpwuid(self.uid).pw_name
        except (KeyError, OverflowError):
            return ""

    @property
    def who(self) -> str:
        """For people: `root (pid 17)`, or the worker."""
        return self.name or f"{self.title or f'uid {self.uid}'} (pid {self.pid})"


class Request:
    """One command, whoever gave it."""

    def __init__(self, audience: Audience, number: int, command: Command, issuer: Issuer) -> None:
        self.audience, self.number, self.command, self.issuer = audience, number, command, issuer

    def instead(self, verb: str, arguments: dict[str, Any]) -> "Request":
        """Another command of the same issuer, for the same audience, as its answer."""
        return Request(self.audience, self.number, Command(verb, arguments, self.command.render), self.issuer)

    @property
    def arguments(self) -> dict[str, Any]:
        """What stands behind the verb."""
        return self.command.arguments

    def progress(self, text: str) -> None:
        """A line for the terminal while the command goes on."""
        self.audience.send(Progress(err=f"{text}\n"), re=self.number)

    def draw(self, screen: str, news: list[str]) -> None:
        """How it goes as a whole, which a terminal shows in place of what it was before; elsewhere only the news."""
        self.audience.send(Progress(err="".join(f"{line}\n" for line in news), screen=screen), re=self.number)

    def say(self, text: str) -> None:
        """The same for standard output."""
        self.audience.send(Progress(out=f"{text}\n"), re=self.number)

    def relay(self, out: str, err: str) -> None:
        """Output of somebody else, as it is."""
        self.audience.send(Progress(out=out, err=err), re=self.number)

    def sign_of_life(self) -> None:
        """Nothing to say, but the master is there."""
        self.audience.send(Progress(), re=self.number)

    def promise(self, resume: dict[str, Any]) -> None:
        """What was asked for is under way and written down: the next master knows it as well."""
        self.audience.send(Progress(resume=resume), re=self.number)

    def finish(self, finished: Finished) -> None:
        """The end; what is too long for one message comes in pieces."""
        for piece in _pieces(finished.out):
            self.audience.send(Progress(out=piece), re=self.number)
        for piece in _pieces(finished.err):
            self.audience.send(Progress(err=piece), re=self.number)
        self.audience.send(Finished(finished.code), re=self.number)

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
    exchange: Exchange
    began: float
    keeper_pid: int
    tasks: Tasks
    memory: Memory
    context: Context
    epoch: int

    def remember(self) -> None:
        """Write the state down before a promise is given."""

    def tell(self, fact: Fact) -> None:
        """Into the journal."""
