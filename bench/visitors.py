"""Visitors of an application, in a process of their own: python visitors.py PORT [PAUSE ...]

Closed loops that account for every request, until SIGTERM; then their rows go to stdout as JSON: visitor, monotonic
start, seconds taken, outcome. Four loops keep their connection and four make one for each request; half
of both ask for an answer that takes 50 ms, so that there is always work under way. Eight more for each PAUSE keep a
connection and leave it idle for that many seconds between two requests.
"""

import asyncio
import json
import signal
import sys
import time
from contextlib import suppress

import uvloop

HOST = "127.0.0.1"
PATIENCE = 5.0
THINK = 0.005
QUICK = "/"
SLOW = "/slow?ms=50"
Row = tuple[str, float, float, str]


class Visitor:
    """One closed loop. That the server closes a kept connection between two requests is no failure."""

    def __init__(self, port: int, name: str, path: str, *, keep: bool, pause: float, delay: float = 0) -> None:
        self.port, self.name, self.keep, self.pause, self.delay = port, name, keep, pause, delay
        connection = "keep-alive" if keep else "close"
        self.request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: {connection}\r\n\r\n".encode()
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def visit(self, rows: list[Row], leaving: asyncio.Event) -> None:
        await _pause(leaving, self.delay)
        while not leaving.is_set():
            start = time.monotonic()
            outcome = await self.one()
            rows.append((self.name, round(start, 5), round(time.monotonic() - start, 6), outcome))
            await _pause(leaving, self.pause)
            self.drop_if_closed()
        self.drop()

    async def one(self) -> str:
        """Outcome of one request."""
        reused = self.streams is not None
        try:
            async with asyncio.timeout(PATIENCE):
                if self.streams is None:
                    self.streams = await asyncio.open_connection(HOST, self.port)
                outcome, reusable = await self.exchange(*self.streams, reused)
        except TimeoutError:
            outcome, reusable = "timed out", False
        except OSError:
            return "refused"
        if not reusable:
            self.drop()
        return outcome

    async def exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reused: bool
    ) -> tuple[str, bool]:
        """The outcome, and whether the connection can be used again."""
        try:
            writer.write(self.request)
            first = await reader.read(1)
        except ConnectionError:
            first = b""
        if not first:
            return "closed on request" if reused else "reset", False
        try:
            head = (first + await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
        except (asyncio.IncompleteReadError, ConnectionError):
            return "truncated", False
        status = int(head[9:12])
        return f"{status // 100}xx" if status >= 400 else "ok", self.keep and b"connection: close" not in head

    def drop_if_closed(self) -> None:
        if self.streams is not None and (self.streams[0].at_eof() or self.streams[0].exception()):
            self.drop()

    def drop(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def _pause(leaving: asyncio.Event, seconds: float) -> None:
    """Until the time is over, or all are to leave."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await leaving.wait()


def visitors(port: int, pauses: list[float]) -> list[Visitor]:
    busy = [
        Visitor(port, f"{name} {path}", path, keep=name == "kept", pause=THINK)
        for name in ("kept", "new")
        for path in (QUICK, QUICK, SLOW, SLOW)
    ]
    idle = [
        Visitor(port, f"pause {pause:g} s", QUICK, keep=True, pause=pause, delay=pause * phase / 8)
        for pause in pauses
        for phase in range(8)
    ]
    return busy + idle


async def main(port: int, pauses: list[float]) -> list[Row]:
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    rows: list[Row] = []
    await asyncio.gather(*(visitor.visit(rows, leaving) for visitor in visitors(port, pauses)))
    return rows


if __name__ == "__main__":
    json.dump(uvloop.run(main(int(sys.argv[1]), [float(pause) for pause in sys.argv[2:]])), sys.stdout)
