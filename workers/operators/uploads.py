"""Payloads that come in parts before the messages they belong to: one frame cannot hold them. Plain state."""

from collections.abc import Callable

from ...ipc.durable.model import MOST_PAYLOAD
from .selection import Usage

MOST = 8
LIFE = 600.0  # seconds without a word about one
LONGEST_NAME = 64


class Uploads:
    """Each has a name that whoever sends it has made up. `now`: seconds of a clock that only goes forward."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._payloads: dict[str, bytearray] = {}
        self._touched: dict[str, float] = {}

    def extend(self, name: str, data: bytes) -> int:
        """One more part; gives the size so far. Those that are forgotten, and the oldest of too many, make room. Raises
        Usage."""
        if not name or len(name) > LONGEST_NAME:
            raise Usage(f"the name of a payload has 1 to {LONGEST_NAME} characters")
        self._make_room(name)
        payload = self._payloads.setdefault(name, bytearray())
        if len(payload) + len(data) > MOST_PAYLOAD:
            self._forget(name)
            raise Usage(f"the payload is over the limit of {MOST_PAYLOAD:,} bytes")
        payload += data
        self._touched[name] = self._now()
        return len(payload)

    def whole(self, name: str) -> bytes:
        """What was sent under this name. Raises Usage."""
        if name not in self._payloads:
            raise Usage("the payload is not there any more: the dispatcher was replaced meanwhile; say it again")
        self._touched[name] = self._now()
        return bytes(self._payloads[name])

    def _make_room(self, name: str) -> None:
        since = self._now() - LIFE
        for old in [one for one, at in self._touched.items() if at < since]:
            self._forget(old)
        while name not in self._payloads and len(self._payloads) >= MOST:
            self._forget(min(self._touched, key=self._touched.__getitem__))

    def _forget(self, name: str) -> None:
        self._payloads.pop(name, None)
        self._touched.pop(name, None)
