"""How messages stand, for those who wait for their ends: many questions make one look at the store."""

import asyncio
import logging

from ..store.protocol import Filter, Row, StoreAway, StoreError
from .access import Access
from .tasks import Tasks

MOST_AT_ONCE = 200  # rows, each with arguments and a result: turns go on between two looks
LOOKS = 2  # the first one may find out that a connection has been lost since

logger = logging.getLogger("bkd.dispatch")


class Lookups:
    """There is one look at a time; what is asked while it is under way is looked at in the next one."""

    def __init__(self, access: Access, tasks: Tasks) -> None:
        self._access, self._tasks = access, tasks
        self._asked: dict[int, asyncio.Future[Row | None]] = {}
        self._is_looking = False

    async def row(self, id: int) -> Row | None:
        """The message as it stands; None: there is none. Raises StoreAway, StoreError."""
        found = self._asked.get(id)
        if found is None:
            found = self._asked[id] = asyncio.get_running_loop().create_future()
        if not self._is_looking:
            self._is_looking = True
            self._tasks.start(self._look(), "lookups")
        return await asyncio.shield(found)

    async def _look(self) -> None:
        try:
            while self._asked:
                ids = tuple(self._asked)[:MOST_AT_ONCE]
                asked = {id: self._asked.pop(id) for id in ids}
                await self._answer(asked)
        finally:
            self._is_looking = False

    async def _answer(self, asked: dict[int, asyncio.Future[Row | None]]) -> None:
        try:
            rows = {row.id: row for row in await self._found(tuple(asked))}
        except (StoreAway, StoreError) as error:
            for future in asked.values():
                future.set_exception(error)
                future.exception()  # whoever asked may have left
            return
        for id, future in asked.items():
            future.set_result(rows.get(id))

    async def _found(self, ids: tuple[int, ...]) -> list[Row]:
        for left in reversed(range(LOOKS)):
            try:
                return await self._access.ask(lambda store, _now: store.find(Filter(ids=ids), len(ids)))
            except StoreAway as error:
                if not left:
                    raise
                logger.info("messages are looked at again: %s", error)
        return []
