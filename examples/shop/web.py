"""The shop's page: shows which worker answers, and asks the warehouse what is left. Plain ASGI, no framework."""

import asyncio
import json
import os
from pathlib import Path

from bkd.ipc import ipc

PAGE = Path(__file__).with_name("page.html").read_bytes()
WAREHOUSE_LIMIT = 0.5


class Shop:
    """The application; each worker has its own `answers`."""

    def __init__(self):
        self.answers = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self.live(receive, send)
        elif scope["type"] == "http":
            await self.answer(scope["path"], send)

    async def live(self, receive, send):
        """Open what every worker needs at startup, close it at shutdown. There is nothing here."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def answer(self, path, send):
        """The page, or who is answering; every answer ends its connection, so that the next may be another worker's."""
        if path == "/":
            await respond(send, 200, b"text/html; charset=utf-8", PAGE)
        elif path == "/who":
            self.answers += 1
            who = {"slot": ipc.slot, "pid": os.getpid(), "answers": self.answers, "teapots": await teapots()}
            await respond(send, 200, b"application/json", json.dumps(who).encode())
        else:
            await respond(send, 404, b"text/plain", b"not here\n")


async def teapots():
    """How many the warehouse has; None while it is away."""
    try:
        async with asyncio.timeout(WAREHOUSE_LIMIT):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["WAREHOUSE_PORT"]))
            left = await reader.readline()
            writer.close()
            return int(left)
    except (OSError, ValueError):
        return None


async def respond(send, status, kind, body):
    """One whole response."""
    headers = [
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


app = Shop()
