"""Payloads on their way to executors, in parts: read from the store once, kept until the last part has left."""

from collections import OrderedDict

from ...ipc.durable.wire import PART, PayloadAsked, PayloadPart
from .access import Access

MOST_KEPT = 32 * 1024 * 1024


class Payloads:
    """What was read lately, at most MOST_KEPT bytes and the newest one."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    async def part(self, asked: PayloadAsked) -> PayloadPart:
        """The part from this offset on. Raises StoreAway, StoreError."""
        body = self._kept.get(asked.id)
        if body is None:
            body = await self._access.run(lambda store, _now: store.payload(asked.id))
            self._keep(asked.id, body)
        end = asked.offset + PART
        last = end >= len(body)
        if last:
            self._kept.pop(asked.id, None)
        return PayloadPart(asked.id, asked.offset, body[asked.offset : end], last)

    def _keep(self, id: int, body: bytes) -> None:
        self._kept[id] = body
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > MOST_KEPT:
            self._kept.popitem(last=False)
