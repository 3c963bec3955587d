"""The keys and channels of one application on the bus."""

import re

_COMMAND_ID = re.compile(r"[0-9a-f]{24}")


def is_command_id(text: str) -> bool:
    """Whether it is the id of a command; a host of that name would get bells that are not meant for it."""
    return _COMMAND_ID.fullmatch(text) is not None


class Names:
    """Every name that `app` uses. What is put into one is put in as it is.

    `commands` is a stream, `hosts` a hash from host to its row, `index` the list of rollouts; `server` is the channel
    of the masters.
    """

    __slots__ = ("_permits", "_replies", "app", "commands", "hosts", "index", "server")

    def __init__(self, app: str) -> None:
        self.app = app
        self.commands = f"{app}:commands"
        self.hosts = f"{app}:hosts"
        self.index = f"{app}:permit:index"
        self.server = self.channel("server")
        self._replies = f"{app}:reply:"
        self._permits = f"{app}:permit:"

    def channel(self, role: str, tag: str = "") -> str:
        """Where a role is reached: `server`, `all` or a group, on all hosts or on those with the tag."""
        return f"{self.app}:{role}:{tag}" if tag else f"{self.app}:{role}"

    def reply(self, to: str) -> str:
        """For the id of a command the stream of its acknowledgements, for a host the channel of its master alone."""
        return f"{self._replies}{to}"

    def permit(self, id: str) -> str:
        """The document of a rollout."""
        return f"{self._permits}{id}"

    def limit(self, name: str) -> str:
        """The bucket of a limiter."""
        return f"{self.app}:limit:{name}"

    def lock(self, name: str) -> str:
        """The holder of a lock."""
        return f"{self.app}:lock:{name}"

    def is_reply(self, name: str) -> bool:
        """Whether acknowledgements and answers are written there."""
        return name.startswith(self._replies)

    def rings(self, stream: str, channel: str) -> bool:
        """Whether what is appended to `stream` is published on `channel` as well, as a bell."""
        if self.is_reply(channel):
            return self.is_reply(stream) and is_command_id(stream.removeprefix(self._replies))
        return (stream, channel) == (self.commands, self.server)
