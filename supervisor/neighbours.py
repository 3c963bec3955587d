"""What the exchange needs of the other hosts of the app, and what it has where there are none."""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from ..ipc.bucket import Rate
from ..ipc.leases import Taken


class Shared(Protocol):
    """Limiters and locks of the whole fleet; keys are used as they are. Every call raises BkdError when the bus is away
    and ValueError for what cannot be."""

    async def limit(self, key: str, rate: Rate) -> float:
        """Seconds to wait; 0.0: taken."""

    async def lock(self, key: str, owner: str, ttl: float) -> Taken:
        """Take a lock for `ttl` seconds."""

    async def renew(self, key: str, owner: str, ttl: float) -> bool:
        """Keep it for `ttl` seconds from now; False when it is not the owner's any more."""

    async def unlock(self, key: str, owner: str) -> bool:
        """Give it back; False when it is not the owner's any more."""


class Fleet(Protocol):
    """The other hosts. `driver` is None where there are none: then limiters and locks of the fleet are the host's."""

    host: str
    tag: str
    app: str
    driver: Shared | None

    async def broadcast(self, role: str, tag: str, op: str, data: msgspec.Raw, by: str) -> int:
        """Hand an event to the other hosts; how many. Raises BkdError when the bus is away."""

    async def gather(
        self, role: str, tag: str, op: str, data: msgspec.Raw, by: str, within: float
    ) -> dict[str, msgspec.Raw]:
        """Call every worker of a role on the other hosts; `web.1@h2` -> {"value": …} or {"error": …, "reason": …}."""

    async def command(self, verb: str, arguments: dict[str, Any], *, tag: str, issuer: str) -> str:
        """Give a command to every host, this one included; its id. Raises BkdError."""


class Alone:
    """A fleet of one host. `give` gives a command here."""

    driver: Shared | None = None

    def __init__(self, host: str, tag: str, app: str, give: Callable[[str, dict[str, Any], str], None]) -> None:
        self.host, self.tag, self.app = host, tag, app
        self._give = give

    async def broadcast(self, role: str, tag: str, op: str, data: msgspec.Raw, by: str) -> int:
        """Nobody."""
        return 0

    async def gather(
        self, role: str, tag: str, op: str, data: msgspec.Raw, by: str, within: float
    ) -> dict[str, msgspec.Raw]:
        """Nothing."""
        return {}

    async def command(self, verb: str, arguments: dict[str, Any], *, tag: str, issuer: str) -> str:
        """This host obeys, if the tag is its own; "" is no id."""
        if tag in ("", self.tag):
            self._give(verb, arguments, issuer)
        return ""
