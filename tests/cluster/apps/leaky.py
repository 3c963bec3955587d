"""An application that forgets nothing it was asked for by `/pid`, up to a point."""

import os

SIZE, MOST = 256 << 10, 120 << 20
KEPT = []


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/pid" and len(KEPT) < MOST // SIZE:
        KEPT.append(b"x" * SIZE)
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
