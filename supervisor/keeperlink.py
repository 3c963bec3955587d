"""The master's end of the socketpair with the keeper: orders out, answers and events in."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable
from itertools import count
from typing import Any

from ..ipc.errors import BkdError

PACKET = 1 << 18
DESCRIPTORS = 250
LIMIT = 10.0


class KeeperError(BkdError):
    """The keeper could not do what it was ordered; `errno` as the kernel gave it, `answer` the whole answer."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(str(answer.get("error")))
        self.errno = answer.get("errno")
        self.answer = answer


class KeeperLink:
    """Answers find their order by its number; events go to whoever hears, the loss of the keeper to `on_lost`."""

    def __init__(self, fd: int) -> None:
        self.sock = socket.socket(fileno=fd)
        self.sock.setblocking(False)
        self._on_event: Callable[[dict[str, Any], list[int]], None] | None = None
        self._early: list[tuple[dict[str, Any], list[int]]] = []
        self._first: asyncio.Future[tuple[dict[str, Any], list[int]]] | None = None
        self.on_lost: Callable[[], None] = lambda: None
        self.on_late: Callable[[int, int], None] = lambda pid, start: None
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear the keeper from now on."""
        loop.add_reader(self.sock, self._readable)

    async def first(self) -> tuple[dict[str, Any], list[int]]:
        """The first event, `born`, and its descriptors; what comes right behind it waits for `hear`."""
        self._first = asyncio.get_running_loop().create_future()
        return await asyncio.wait_for(self._first, LIMIT)

    def hear(self, on_event: Callable[[dict[str, Any], list[int]], None]) -> None:
        """Hand over events from now on, those that came early first."""
        self._on_event = on_event
        for event, descriptors in self._early:
            on_event(event, descriptors)
        self._early.clear()

    async def order(self, do: str, **details: Any) -> tuple[dict[str, Any], list[int]]:
        """Give an order and wait for its answer and the descriptors with it; raises KeeperError."""
        number = next(self._numbers)
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        self._send({"do": do, "id": number, **details})
        try:
            answer, descriptors = await asyncio.wait_for(future, LIMIT)
        except TimeoutError as error:
            raise KeeperError({"error": f"the keeper did not answer {do} within {LIMIT:g} s"}) from error
        finally:
            self._answers.pop(number, None)
        if "error" in answer:
            raise KeeperError(answer)
        return answer, descriptors

    def tell(self, do: str, **details: Any) -> None:
        """Give an order that has no answer."""
        self._send({"do": do, **details})

    def _send(self, order: dict[str, Any]) -> None:
        """The keeper never blocks, so a full buffer is empty again within moments."""
        data = json.dumps(order).encode()
        if len(data) > PACKET:
            size = f"{order['do']}: environment and arguments of {len(data)} bytes"
            raise KeeperError({"error": f"{size} are over the limit of {PACKET}"})
        self.sock.setblocking(True)
        try:
            self.sock.settimeout(LIMIT)
            self.sock.send(data)
        except OSError as error:
            raise KeeperError({"error": f"the keeper is gone ({error})"}) from error
        finally:
            with contextlib.suppress(OSError):
                self.sock.setblocking(False)

    def _readable(self) -> None:
        for _ in range(256):
            try:
                packet, descriptors, _flags, _address = socket.recv_fds(self.sock, PACKET, DESCRIPTORS)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                asyncio.get_running_loop().remove_reader(self.sock)
                self.on_lost()
                return
            self._heard(json.loads(packet), list(descriptors))

    def _heard(self, event: dict[str, Any], descriptors: list[int]) -> None:
        if event["event"] != "answer":
            self._happened(event, descriptors)
            return
        future = self._answers.get(event["re"])
        if future is not None and not future.done():
            future.set_result((event, descriptors))
        else:
            for fd in descriptors:
                os.close(fd)
            if "pid" in event:
                self.on_late(event["pid"], event["start"])

    def _happened(self, event: dict[str, Any], descriptors: list[int]) -> None:
        if self._first is not None and not self._first.done():
            self._first.set_result((event, descriptors))
        elif self._on_event is None:
            self._early.append((event, descriptors))
        else:
            self._on_event(event, descriptors)
