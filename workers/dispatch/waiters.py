"""Who waits for the end of a message."""

from collections import defaultdict
from collections.abc import Callable

from ...ipc.durable.model import ENDS, Settlement

Told = Callable[[str, bytes, str], None]


class Waiters:
    """By message. Each is told state, result and reason, once."""

    def __init__(self) -> None:
        self._by_id: defaultdict[int, dict[Told, None]] = defaultdict(dict)

    def __bool__(self) -> bool:
        return bool(self._by_id)

    @property
    def ids(self) -> list[int]:
        """Messages whose end somebody waits for."""
        return list(self._by_id)

    def add(self, id: int, told: Told) -> None:
        """Wait for the end of this one."""
        self._by_id[id][told] = None

    def remove(self, id: int, told: Told) -> None:
        """Wait no more; fine when it was told already."""
        waiting = self._by_id.get(id, {})
        waiting.pop(told, None)
        if not waiting:
            self._by_id.pop(id, None)

    def settled(self, settlement: Settlement) -> None:
        """This is in the store."""
        if settlement.state in ENDS:
            self.ended(settlement.id, settlement.state, settlement.result, settlement.reason)

    def ended(self, id: int, state: str, result: bytes, reason: str) -> None:
        """This message has come to its end."""
        for told in self._by_id.pop(id, {}):
            told(state, result, reason)
